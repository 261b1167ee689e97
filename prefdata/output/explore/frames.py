"""What the page reads of a set: ranges of its prompts with what is known of how their answers were made, judged and dropped."""

import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from prefdata.draws import hash64
from prefdata.output import read_back
from prefdata.output.hub.manifest import MANIFEST
from prefdata.output.looking.opened import MADE_WITH, Opened
from prefdata.recipe import places
from prefdata.tables import files
from prefdata.tables.schema import TABLES
from prefdata.tables.views import Frames

BESIDE = ("candidates", "verdicts", "drops")
"""Tables that tell more of the prompts of `sets`; a set without one has no rows of it."""
MOST_PROMPTS = 10_000
"""A page with more prompts is slow to open and hundreds of megabytes large."""


@dataclass(frozen=True)
class Keyed:
    """What the first epoch's draws are keyed and limited by: the recipe's seed, and the origins of the pool."""

    seed: int = 0
    origins: tuple[str, ...] = ("source", "generated")


def keyed(opened: Opened) -> Keyed:
    """As the set's own files tell; where they do not, the defaults of a recipe."""
    path = opened.folder / (places.SETTINGS if opened.tables else MANIFEST)
    try:
        told: Any = json.loads(path.read_text(encoding="utf-8"))
        origins = told["sets"]["origins"] if opened.tables else told["origins"]
        return Keyed(int(told["seed"]), tuple(map(str, origins)))
    except (OSError, ValueError, KeyError, TypeError):
        return Keyed()


def sample(ids: Iterable[str], limit: int) -> set[str]:
    """At most `limit` ids by a keyed draw, whatever files they lie in; a smaller sample is a part of a larger one."""
    return set(heapq.nsmallest(limit, ids, key=lambda own: (hash64(None, "explore", own), own)))


def frames_of(opened: Opened, kept: set[str] | None) -> Iterator[Frames]:
    """The tables `sets` and BESIDE of consecutive prompts of a set; `kept`: of these alone. Raises DataError."""
    ranges = _of_recipe(opened) if opened.tables else _of_published(opened, kept)
    for frames in ranges:
        yield only(frames, kept)


def only(frames: Frames, kept: set[str] | None) -> Frames:
    """The rows of BESIDE that tell of prompts of `sets`, and of it those that are kept."""
    sets = frames["sets"]
    if kept is not None:
        sets = sets.filter(pl.col("prompt_id").is_in(list(kept)))
    ids = sets.select("prompt_id")
    beside = {name: frames.get(name, TABLES[name].empty()).join(ids, on="prompt_id", how="semi") for name in BESIDE}
    return {"sets": sets, **beside}


def _of_recipe(opened: Opened) -> Iterator[Frames]:
    """Shard by shard; a segment's tables (their unit has a dot) are of another set."""
    known = {"candidates": opened.candidates, "verdicts": opened.verdicts, "drops": opened.drops}
    for stream in opened.streams:
        for path in stream:
            readers = [
                (name, files.PromptReader(own, name))
                for name, paths in known.items()
                for own in paths
                if own.name == path.name and "." not in own.parts[-2]
            ]
            for sets in files.iter_table(path, "sets"):
                if sets.height:
                    last = sets["prompt_id"][-1]
                    yield {"sets": sets, **_gather([(name, reader.until(last)) for name, reader in readers])}


def _gather(rows: Sequence[tuple[str, pl.DataFrame]]) -> Frames:
    return {name: pl.concat([TABLES[name].empty(), *(f for n, f in rows if n == name)]) for name in BESIDE}


def _of_published(opened: Opened, kept: set[str] | None) -> Iterator[Frames]:
    """A published set has the config `candidates` beside it; how answers were made is held for all prompts, without texts."""
    held = pl.concat([TABLES["candidates"].empty(), *(_made_with(path, kept) for path in opened.candidates)])
    for sets in opened.parts():
        yield {"sets": sets, "candidates": held}


def _made_with(path: Path, kept: set[str] | None) -> pl.DataFrame:
    """Rows of `candidates` with what the set does not say of them, texts left out. Raises DataError."""
    empty = TABLES["candidates"].empty()
    wanted = ("prompt_id", "candidate_id", *MADE_WITH)
    with read_back.reading(path), pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
        files.require_decodable(file, path)
        columns = [name for name in wanted if name in file.schema_arrow.names]
        if not {"prompt_id", "candidate_id"} <= set(columns):
            return empty
        found = pl.DataFrame(pl.from_arrow(file.read(columns=columns)))
        rows = found if kept is None else found.filter(pl.col("prompt_id").is_in(list(kept)))
        return pl.DataFrame(
            {
                name: rows[name].cast(dtype) if name in columns else pl.Series(name, [None] * rows.height, dtype)
                for name, dtype in empty.schema.items()
            }
        )
