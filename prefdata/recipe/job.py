"""A job: one stage, one unit, some shards. It sees the files that its stage declares and no others."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from prefdata.draws import hex_id
from prefdata.errors import ConfigError, DataError, snippet
from prefdata.recipe import parts
from prefdata.recipe.parts import Columns
from prefdata.recipe.results import Results
from prefdata.recipe.stage import Stage
from prefdata.recipe.units import Part, in_segment, split_unit
from prefdata.tables import atomic, files, schema
from prefdata.tables.finished import ChunkStore
from prefdata.tables.schema import TABLES
from prefdata.tables.table_writer import TableWriter
from prefdata.tables.views import Frames


class Job:
    """What a stage's code is given. Raises ConfigError where unit or shards are not the stage's.

    `settings` and `unit` are those of the recipe that the unit belongs to: a segment of an online run has one of its own.
    """

    def __init__(self, results: Results, stage: str, unit: str = "all", shards: Sequence[int] | None = None) -> None:
        self._results, self._settings, self._unit = results, results.settings, unit
        self.settings, self.unit = split_unit(results.settings, unit)
        self.stage: Stage = results.stages[stage]
        self.shards = results.shards if shards is None else list(shards)
        if unit not in (known := self.stage.units(self._settings)):
            raise ConfigError(f"{stage} has no unit {unit!r}", do=f"choose one of {known}")
        if outside := set(self.shards) - set(results.shards):
            raise ConfigError(f"no shards {sorted(outside)}: the recipe has {len(results.shards)}, numbered from 0")
        if self.stage.per == "run" and self.shards != results.shards:
            raise ConfigError(f"{stage} reads all shards together", do="leave --shards out")

    # ---- what it may touch ----

    @property
    def reads(self) -> list[Part]:
        return self.stage.reads(self._settings, self._unit)

    def input(self, name: str) -> Path:
        """A file of the results folder that the stage reads."""
        return self._declared(name, self.stage.reads_files(self._settings, self._unit))

    def output(self, name: str) -> Path:
        """A file of the results folder that the stage writes."""
        return self._declared(name, self.stage.writes_files(self._settings, self._unit))

    def own_folder(self, name: str) -> Path:
        """A folder of the results folder that is the stage's own."""
        return self._declared(name, self.stage.folders(self._settings))

    def _declared(self, name: str, names: Sequence[str]) -> Path:
        if name not in names:
            raise KeyError(f"{self.stage.name} does not declare {name}, but {list(names)}")
        return self._results.path(name)

    def any_table(self, part: Part, test: Callable[[Path], bool]) -> bool:
        """Whether a file of a declared table passes."""
        self._require_read(part)
        return any(test(self._results.table(part, shard)) for shard in self.shards)

    def read_json(self, name: str) -> Any:
        """The content of a declared JSON file."""
        return json.loads(self.input(name).read_text(encoding="utf-8"))

    def write_json(self, name: str, value: Any) -> None:
        """Write a declared JSON file, whole or not at all."""
        atomic.atomic_text(self.output(name), json.dumps(value, indent=1, sort_keys=True))

    def manifests(self, part: Part) -> list[dict[str, Any]]:
        """The manifests of a declared part's files, shard by shard."""
        self._require_read(part)
        return [files.manifest(self._results.table(part, shard)) for shard in self.shards]

    def table(self, part: Part) -> pl.DataFrame:
        """A declared part as a whole: for tables of held-out prompts, which are small."""
        self._require_read(part)
        return pl.concat([files.read_table(self._results.table(part, shard), part.table) for shard in self.shards])

    def _require_read(self, part: Part) -> None:
        if part not in self.reads:
            raise KeyError(f"{self.stage.name} does not declare {part}")

    def model_path(self, ref: str) -> str:
        """A declared model as transformers takes it."""
        if ref not in self.models:
            raise KeyError(f"{self.stage.name} does not declare the model {ref}, but {self.models}")
        return self._results.model_path(ref)

    def revision(self, ref: str, revision: str | None) -> str:
        """What identifies a declared model."""
        self.model_path(ref)
        return self._results.revision(ref, revision)

    @cached_property
    def models(self) -> list[str]:
        return [ref for ref, _ in self.stage.models(self._settings, self._unit)]

    def store(self, unit: str | None = None) -> ChunkStore:
        """The finished items of the unit."""
        return ChunkStore(self._results.chunks(self.stage.name, self._own(unit or self.unit)))

    def _own(self, unit: str) -> str:
        """A unit of the job's recipe as the folders call it."""
        return in_segment(unit, self.settings.segment) if self.settings.segment else unit

    def server_log(self, stage: str, unit: str) -> Path:
        """What a server says that the job starts."""
        return self._results.server_log(stage, self._own(unit))

    @property
    def num_shards(self) -> int:
        return len(self._results.shards)

    def shard_name(self, shard: int) -> str:
        return self._results.shard_name(shard)

    def locks(self) -> list[Path]:
        """A lock for each shard, in order, so that two jobs never wait for each other; one where all are taken together."""
        shards = self.shards[:1] if self.stage.per == "run" else self.shards
        return [self._results.lock(self.stage.name, self._unit, shard) for shard in shards]

    # ---- what its files were made with ----

    def require_current(self) -> None:
        """Raise DataError where an input was made with settings or models that the recipe has no more, naming the field."""
        for part in self.reads:
            for shard in self.shards:
                path = self._results.table(part, shard)
                if path.exists():
                    made = files.manifest(path)
                    if made["table"] != part.table:
                        raise DataError(f"not a {part.table} table but {made['table']}", str(path), schema.AGAIN)
                    _require_same(made["slice"], json.loads(self._results.trigger(part.stage, part.unit)), path)
                    with suppress(ConfigError):  # a model that is gone since is nobody's concern here
                        _require_same(made["models"], self._results.known_revisions(part.stage, part.unit), path)

    def fresh(self) -> bool:
        """Whether every table of the job is there, as these settings make it from its inputs as they are."""
        for shard in self.shards:
            wanted = self.manifest(shard)
            for table in self.stage.writes:
                path = self._output(table, shard)
                if not path.exists():
                    return False
                made = files.manifest(path)
                if any(made.get(key) != wanted[key] for key in ("slice", "models", "inputs")):
                    return False
        return True

    def manifest(self, shard: int) -> dict[str, Any]:
        """This job's share of the manifest of the files of a shard it writes."""
        trigger = self._results.trigger(self.stage.name, self._unit)
        inputs, rows_in = {}, Counter[str]()
        for path in self._results.tables(self.reads, [shard]):
            read = files.manifest(Path(path))
            inputs[os.path.relpath(path, self._results.root)] = read["content_hash"]
            rows_in[read["table"]] += read["rows"] if read["table"] != "drops" else 0
        return {
            "stage": self.stage.name,
            "unit": self._unit,
            "settings": hex_id(trigger),
            "slice": json.loads(trigger),
            "models": self._revisions,
            "inputs": inputs,
            "rows_in": dict(rows_in),
        }

    @cached_property
    def _revisions(self) -> dict[str, str]:
        """The models a job uses, by reference, with what identifies each: its pinned revision or content hash."""
        return self._results.known_revisions(self.stage.name, self._unit)

    def rows_made(self) -> Counter[str]:
        """How many rows the job's tables have."""
        counts: Counter[str] = Counter()
        for shard in self.shards:
            for table in self.stage.writes:
                counts[table] += files.manifest(self._output(table, shard))["rows"]
        return counts

    def _output(self, table: str, shard: int) -> Path:
        return self._results.table(Part(table, self.stage.name, self._unit), shard)

    # ---- its rows ----

    def parts(
        self,
        shards: Sequence[int] | None = None,
        prompts: int | None = None,
        of: Sequence[Part] | None = None,
        columns: Columns | None = None,
    ) -> Iterator[Frames]:
        """Yield the declared tables (or some, `of`) for consecutive ranges of prompts in the global order: of `prompts` each,
        by default of as many as decode to parts.PART_BYTES. `columns`: fewer than the stage declares.

        The parts of one table (of several stages and units) come as one frame, sorted by the table's key.
        """
        for part in of or ():
            self._require_read(part)
        wanted = self.reads if of is None else of
        paths = [[(p.table, self._results.table(p, s)) for p in wanted] for s in (self.shards if shards is None else shards)]
        yield from parts.ahead(parts.frames(paths, prompts, {**self.stage.columns, **(columns or {})}))

    @contextmanager
    def writers(self, shard: int) -> Iterator[dict[str, TableWriter]]:
        """The writers of the stage's tables for one shard; all files appear when the block ends well."""
        opened: dict[str, TableWriter] = {}
        try:
            for name in self.stage.writes:
                opened[name] = TableWriter(self._output(name, shard), TABLES[name], self.manifest(shard)).__enter__()
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

    @contextmanager
    def written_behind(self, shard: int) -> Iterator[Callable[[Frames], None]]:
        """A function that appends to the stage's tables of one shard: while a part is checked, hashed and compressed, which
        leaves Python, the next is made. All files appear when the block ends well."""
        waiting: list[Future[None]] = []
        with self.writers(shard) as writers, ThreadPoolExecutor(1) as thread:

            def write(made: Frames) -> None:
                if waiting:
                    waiting.pop().result()
                waiting.append(thread.submit(self.write, writers, made))

            yield write
            if waiting:
                waiting.pop().result()

    def write(self, writers: dict[str, TableWriter], made: Frames) -> None:
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
                "run its stage again, or restore the old settings",
            )


def each_part(
    make: Callable[[Frames, Job], Frames], nothing: Callable[[Job, int], bool] = lambda job, shard: False
) -> Callable[[Job], None]:
    """A stage's `run` from a pure function of frames: it is given the declared tables of some prompts, and makes their rows.

    `nothing`: whether no row can come of a shard, which is then not read.
    """

    def run(job: Job) -> None:
        for shard in job.shards:
            with job.written_behind(shard) as write:
                for frames in () if nothing(job, shard) else job.parts([shard]):
                    write(make(frames, job))

    return run
