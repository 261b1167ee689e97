"""Where everything of a run lies, and a job: one stage, one unit, some shards."""

import fcntl
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from prefdata.draws import hex_id
from prefdata.errors import ConfigError, DataError, snippet
from prefdata.models.loading import RECEIPT, content_files, revision_of
from prefdata.recipe.settings import LanguageModelSettings, Settings
from prefdata.recipe.units import Part, generator, judge, win_rate_judge
from prefdata.stages.registry import STAGES, Stage
from prefdata.tables import files, schema
from prefdata.tables.schema import TABLES

PART_PROMPTS = 128
"""Prompts that a data stage holds in memory at once: small enough that its peak is the same for any amount of rows."""

Frames = dict[str, pl.DataFrame]


class Run:
    """The folder results/<name> of one recipe. `models`: folders of training runs that shall lie elsewhere."""

    def __init__(self, settings: Settings, results: Path = Path("results"), models: Mapping[str, Path] | None = None) -> None:
        self.settings, self.models = settings, dict(models or {})
        self.root = results / settings.name

    @property
    def shards(self) -> list[int]:
        return list(range(self.settings.num_shards))

    def shard_name(self, shard: int) -> str:
        """The number of shards is in the name: another number never mistakes an old file for its own."""
        return f"{shard:05d}-of-{self.settings.num_shards:05d}"

    def table(self, part: Part, shard: int | str) -> Path:
        """One file; `shard` may be a Snakemake wildcard such as {shard}."""
        name = self.shard_name(shard) if isinstance(shard, int) else shard
        return self.root / "tables" / part.table / part.stage / part.unit / f"{name}.parquet"

    def files(self, parts: Sequence[Part], shards: Sequence[int | str] | None = None) -> list[str]:
        """Every file of the parts, as Snakemake names them."""
        return [str(self.table(p, s)) for p in parts for s in (self.shards if shards is None else shards)]

    def inputs(self, stage: str, unit: str = "all", shards: Sequence[int | str] | None = None) -> list[str]:
        """What a job reads: its tables and the models trained in this run."""
        row = STAGES[stage]
        parts = [p for p in row.reads(self.settings, unit) if p.table in TABLES]
        models = [f for ref, _ in row.models(self.settings, unit) for f in self.model_files(ref)]
        return self.files(parts, shards) + list(dict.fromkeys(models))

    def outputs(self, stage: str, unit: str = "all", shards: Sequence[int | str] | None = None) -> list[str]:
        """What a job writes."""
        return self.files([Part(t, stage, unit) for t in STAGES[stage].writes], shards)

    def groups(self, stage: str, unit: str) -> list[list[int]]:
        """The shards of each job of an engine stage's unit."""
        section = judge(self.settings, unit) if stage == "judge" else getattr(self.settings, stage)
        size = section.shards_per_engine or -(-len(self.shards) // self._copies(stage, unit))
        return [self.shards[i : i + size] for i in range(0, len(self.shards), size)]

    def units(self, stage: str) -> list[str]:
        return STAGES[stage].units(self.settings)

    def engine_jobs(self, stage: str) -> list[tuple[str, list[int]]]:
        """(unit, shards) of every job of an engine stage."""
        return [(unit, group) for unit in self.units(stage) for group in self.groups(stage, unit)]

    def gpus(self, stage: str, unit: str) -> int:
        """Devices that a job of generate, judge or win_rate needs: none where no model is run here."""
        asked = self._language_model(stage, unit)
        if asked is None or (asked.server is not None and not asked.server.command):
            return 0
        return asked.vllm.tensor_parallel if asked.vllm else 1

    def _copies(self, stage: str, unit: str) -> int:
        """How many copies of a unit's model shall run."""
        asked = self._language_model(stage, unit)
        return asked.vllm.data_parallel if asked is not None and asked.vllm is not None else 1

    def _language_model(self, stage: str, unit: str) -> LanguageModelSettings | None:
        """The model that a job of generate, judge or win_rate runs or asks."""
        if stage == "generate":
            return generator(self.settings, unit)
        if stage in ("judge", "win_rate"):
            return judge(self.settings, unit if stage == "judge" else win_rate_judge(self.settings)).model
        return None

    def trigger(self, stage: str, unit: str = "all") -> str:
        """What re-runs a job when it changes: the stage's version and its slice of the settings."""
        return json.dumps({"version": version(stage), **STAGES[stage].slice(self.settings, unit)}, sort_keys=True)

    def model_path(self, ref: str) -> str:
        """A reference to a model as transformers takes it: run:<objective>/<variant> and toy:<tokenizer> are ours."""
        if ref.startswith("run:"):
            return str(self.models.get(ref[4:], self.root / "models" / ref[4:]))
        if ref.startswith("toy:"):
            return str(self.root / "toy" / "tokenizers" / ref[4:])
        return str(Path(ref).expanduser()) if ref.startswith("~") else ref

    def model_files(self, ref: str) -> list[str]:
        """Files of a model made in this run or of a local folder, for Snakemake; none for one on the Hub."""
        if ref.startswith("run:"):
            return [f"{self.model_path(ref)}/{f}" for f in ("model.safetensors", "config.json", "tokenizer.json", RECEIPT)]
        if ref.startswith("toy:"):
            return [f"{self.model_path(ref)}/tokenizer.json"]
        folder = Path(ref).expanduser()
        return [str(p) for p in content_files(folder)] if folder.is_dir() else []

    def known_revisions(self, stage: str, unit: str) -> dict[str, str]:
        """What identifies a stage's models now."""
        return {ref: self.revision(ref, revision) for ref, revision in STAGES[stage].models(self.settings, unit)}

    def revision(self, ref: str, revision: str | None) -> str:
        """What identifies a model: its pinned commit, its receipt, or a hash of its folder's content, kept until a file's
        size or time changes."""
        path = self.model_path(ref)
        known = self.root / "chunks" / "revisions" / f"{hex_id(path)}.json"
        return revision_of(path, revision, known)

    def chunks(self, stage: str, unit: str) -> Path:
        return self.root / "chunks" / stage / f"{unit}.sqlite"


def version(stage: str) -> int:
    """STAGE_VERSION of the stage's module, read without running it (imports of heavy libraries stay out)."""
    import importlib

    module = importlib.import_module(STAGES[stage].function.partition(":")[0])
    number: int = module.STAGE_VERSION
    return number


class Job:
    """One stage, one unit, some shards: what it may read and write, a part of the prompts at a time."""

    def __init__(self, run: Run, stage: str, unit: str = "all", shards: Sequence[int] | None = None) -> None:
        self.run, self.settings, self.unit = run, run.settings, unit
        self.stage: Stage = STAGES[stage]
        self.shards = run.shards if shards is None else list(shards)
        if unit not in (known := self.stage.units(self.settings)):
            raise ConfigError(f"{unit!r} is no unit of {stage}", do=f"choose one of {known}")
        if outside := set(self.shards) - set(run.shards):
            raise ConfigError(f"there are {len(run.shards)} shards, no {sorted(outside)}")

    @property
    def reads(self) -> list[Part]:
        return self.stage.reads(self.settings, self.unit)

    def require_current(self) -> None:
        """Raise DataError where an input was made with settings or models that the recipe has no more, naming the field."""
        for part in self.reads:
            for shard in self.shards:
                path = self.run.table(part, shard)
                if path.exists():
                    made = files.manifest(path)
                    if made["table"] != part.table:
                        raise DataError(f"not a {part.table} table but {made['table']}", str(path), schema.AGAIN)
                    _require_same(made["slice"], json.loads(self.run.trigger(part.stage, part.unit)), path)
                    with suppress(ConfigError):  # a model that is gone since is nobody's concern here
                        _require_same(made["models"], self.run.known_revisions(part.stage, part.unit), path)

    def manifest(self, shard: int) -> dict[str, Any]:
        """This job's share of the manifest of the files of a shard it writes."""
        trigger = self.run.trigger(self.stage.name, self.unit)
        inputs, rows_in = {}, Counter[str]()
        for path in self.run.inputs(self.stage.name, self.unit, [shard]):
            if path.endswith(".parquet"):
                read = files.manifest(Path(path))
                inputs[os.path.relpath(path, self.run.root)] = read["content_hash"]
                rows_in[read["table"]] += read["rows"] if read["table"] != "drops" else 0
        return {
            "stage": self.stage.name,
            "unit": self.unit,
            "settings": hex_id(trigger),
            "slice": json.loads(trigger),
            "models": self._revisions,
            "inputs": inputs,
            "rows_in": dict(rows_in),
        }

    @cached_property
    def _revisions(self) -> dict[str, str]:
        """The models a job uses, by reference, with what identifies each: its pinned revision or content hash."""
        return self.run.known_revisions(self.stage.name, self.unit)

    def parts(self, shards: Sequence[int] | None = None, prompts: int = PART_PROMPTS) -> Iterator[Frames]:
        """Yield the declared tables for consecutive ranges of at most `prompts` prompts, in the global order.

        The parts of one table (of several stages and units) come as one frame, sorted by the table's key.
        """
        held: list[Frames] = []
        for shard in self.shards if shards is None else shards:
            for frames in self._ranges(shard, prompts - _count(held), prompts):
                held.append(frames)
                if _count(held) >= prompts:
                    yield _merge(held)
                    held = []
        if held:
            yield _merge(held)

    def _ranges(self, shard: int, first: int, step: int) -> Iterator[Frames]:
        readers = [(p.table, files.PromptReader(self.run.table(p, shard), p.table)) for p in self.reads]
        leading = next(t for t, _ in readers)
        ids = [i for f in files.iter_table(self.run.table(self.reads[0], shard), leading) for i in f["prompt_id"]]
        starts = [0, *range(first, len(ids), step)] if first < len(ids) else [0]
        for stop in [*starts[1:], len(ids)]:
            last = ids[stop - 1] if stop < len(ids) else "f" * 16
            yield _gather([(table, reader.until(last)) for table, reader in readers])

    @contextmanager
    def writers(self, shard: int) -> Iterator[dict[str, files.TableWriter]]:
        """The writers of the stage's tables for one shard; all files appear when the block ends well."""
        opened: dict[str, files.TableWriter] = {}
        try:
            for name in self.stage.writes:
                path = self.run.table(Part(name, self.stage.name, self.unit), shard)
                opened[name] = files.TableWriter(path, TABLES[name], self.manifest(shard)).__enter__()
            yield opened
        except BaseException as error:
            for writer in opened.values():
                writer.__exit__(type(error), error, None)
            raise
        try:  # all files are whole before the first appears
            for writer in opened.values():
                writer.complete()
            for writer in opened.values():
                writer.appear()
            for writer in opened.values():
                writer.settle()
        finally:
            for writer in opened.values():
                writer.discard()

    def write(self, writers: dict[str, files.TableWriter], made: Frames) -> None:
        """Sort and append what a pure stage function made."""
        for name in self.stage.writes:
            if name in made:
                writers[name].write(schema.ordered(made[name], TABLES[name]))


def _require_same(made: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    for key in sorted({*made, *now}):
        if made.get(key) != now.get(key):
            raise DataError(
                f"made with {key} = {snippet(made.get(key))}, the settings now have {snippet(now.get(key))}",
                str(path),
                "run its stage again, or take the old settings back",
            )


def _count(held: list[Frames]) -> int:
    return sum(next(iter(f.values())).height for f in held)


def _gather(rows: list[tuple[str, pl.DataFrame]]) -> Frames:
    by_table: dict[str, list[pl.DataFrame]] = {}
    for table, frame in rows:
        by_table.setdefault(table, []).append(frame)
    return {t: schema.ordered(pl.concat(f), TABLES[t]) if len(f) > 1 else f[0] for t, f in by_table.items()}


def _merge(held: list[Frames]) -> Frames:
    if len(held) == 1:
        return held[0]
    return {table: pl.concat([f[table] for f in held]) for table in held[0]}


@contextmanager
def lock(path: Path, wait_s: float = 30.0) -> Iterator[None]:
    """Hold an exclusive lock on `path` (a file); wait for a dying holder, then stop, naming it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = take_lock(path, wait_s)
    try:
        yield
    finally:
        os.close(descriptor)


def take_lock(path: Path, wait_s: float) -> int:
    """Open and flock `path`, write our pid into it; returns the descriptor (not inherited by children)."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
                os.close(descriptor)
                raise DataError(f"in use by process {holder}", str(path), "wait for it or stop it") from None
            time.sleep(0.1)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    except OSError as error:
        os.close(descriptor)
        raise files.os_error(error, path) from error
    return descriptor
