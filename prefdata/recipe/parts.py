"""Tables in consecutive ranges of prompts, in the global order, in bounded memory."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import polars as pl

from prefdata.tables import files, schema
from prefdata.tables.schema import TABLES
from prefdata.tables.views import Frames

PART_BYTES, PART_PROMPTS = 2**23, 2**14
"""What a data stage holds in memory of its tables at once, as far as their footers tell, and prompts at most: its peak is the
same for any amount of rows."""
Value = TypeVar("Value")
Columns = Mapping[str, Sequence[str]]
"""Of tables, by name, those that are read; of others all."""
Files = Sequence[tuple[str, Path]]
"""The tables of one shard: (table, file), several files of one table perhaps."""
_NO_IDS = pl.Series("prompt_id", [], pl.String)


def frames(shards: Sequence[Files], prompts: int | None, columns: Columns) -> Iterator[Frames]:
    """Yield the tables of the shards for consecutive ranges of prompts: of `prompts` each, by default of as many as decode to
    PART_BYTES. Files of one table come as one frame, sorted by the table's key."""
    held: list[Frames] = []
    for tables in shards:
        step = prompts or _prompts_at_once(tables, columns)
        for made in _ranges(tables, max(step - _count(held), 1), step, columns):
            held.append(made)
            if _count(held) >= step:
                yield merge(held)
                held = []
    if held:
        yield merge(held)


def _prompts_at_once(tables: Files, columns: Columns) -> int:
    sizes = [files.size_of(path, columns.get(table)) for table, path in tables]
    each = sum(size for _, size in sizes) // max(sizes[0][0], 1)
    return min(PART_PROMPTS, max(1, PART_BYTES // max(each, 1)))


def _ranges(tables: Files, first: int, step: int, columns: Columns) -> Iterator[Frames]:
    readers = [(table, files.PromptReader(path, table, columns.get(table))) for table, path in tables]
    table, path = tables[0]
    ids = pl.concat([f["prompt_id"] for f in files.iter_table(path, table, columns=("prompt_id",))] or [_NO_IDS])
    starts = [0, *range(first, len(ids), step)] if first < len(ids) else [0]
    for stop in [*starts[1:], len(ids)]:
        last = ids[stop - 1] if stop < len(ids) else "f" * 16
        yield _gather([(name, reader.until(last)) for name, reader in readers], columns)


def _gather(rows: list[tuple[str, pl.DataFrame]], columns: Columns) -> Frames:
    by_table: dict[str, list[pl.DataFrame]] = {}
    for table, frame in rows:
        by_table.setdefault(table, []).append(frame)
    return {
        t: schema.ordered(pl.concat(f), TABLES[t].only(columns.get(t))) if len(f) > 1 else f[0] for t, f in by_table.items()
    }


def _count(held: Sequence[Frames]) -> int:
    return sum(next(iter(f.values())).height for f in held)


def merge(held: Sequence[Frames]) -> Frames:
    """Consecutive parts as one."""
    if len(held) == 1:
        return held[0]
    return {table: pl.concat([f[table] for f in held]) for table in held[0]}


def ahead(values: Iterator[Value]) -> Iterator[Value]:
    """The values, each made by a thread while the one before is worked on: decoding leaves Python."""
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(next, values, None)
        while (value := waiting.result()) is not None:
            waiting = thread.submit(next, values, None)
            yield value
