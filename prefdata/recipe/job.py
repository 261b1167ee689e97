"""Where everything of a run lies, and a job: one stage, one unit, some shards."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from prefdata.draws import hex_id
from prefdata.errors import ConfigError, DataError, snippet
from prefdata.recipe.results import Run
from prefdata.recipe.stage import Stage
from prefdata.recipe.units import Part
from prefdata.tables import files, schema
from prefdata.tables.schema import TABLES
from prefdata.tables.views import Frames

PART_PROMPTS = 128
"""Prompts that a data stage holds in memory at once: small enough that its peak is the same for any amount of rows."""


def _stages() -> dict[str, Stage]:
    from prefdata.stages.registry import STAGES

    return STAGES


class Job:
    """One stage, one unit, some shards: what it may read and write, a part of the prompts at a time."""

    def __init__(self, run: Run, stage: str, unit: str = "all", shards: Sequence[int] | None = None) -> None:
        self.run, self.settings, self.unit = run, run.settings, unit
        self.stage: Stage = _stages()[stage]
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
