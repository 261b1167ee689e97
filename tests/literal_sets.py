"""Sets written by hand: rows of the set view, put into a folder as publishing lays it out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from prefdata.tables import schema
from prefdata.tables.schema import TABLES

Row = dict[str, Any]


def candidate(
    number: int, role: str, text: str, rank: int | None, logps: Mapping[str, float] | None = None, **more: Any
) -> Row:
    scored = [{"reference": r, "logp": v, "num_tokens": 2} for r, v in (logps or {}).items()]
    known = {
        "origin": "source",
        "producer": "m",
        "finish": "stop",
        "copies": 1,
        "score": None,
        "win_prob": None,
        "extras": None,
    }
    return {"candidate_id": f"{number:016x}", "role": role, "response": text, "rank": rank, "logps": scored, **known, **more}


def row(prompt: str, candidates: Sequence[Row], text: str = "x", split: str = "train", source: str | None = "s@local") -> Row:
    """`prompt`: the beginning of its id."""
    said = [{"role": "user", "content": text}]
    return {
        "prompt_id": prompt.ljust(16, "0"),
        "split": split,
        "prompt": said,
        "source": source,
        "candidates": list(candidates),
    }


def frame(rows: Sequence[Row]) -> pl.DataFrame:
    return schema.frame("sets", rows)


def put(folder: Path, rows: Sequence[Row], shards: int = 1) -> Path:
    """A published folder with these rows: a file a split and shard."""
    placed = frame(rows).to_dicts()
    for split in {r["split"] for r in placed}:
        for shard in range(shards):
            own = [r for r in placed if r["split"] == split and schema.shard_of(r["prompt_id"], shards) == shard]
            if own:
                path = folder / "data" / "sets" / f"{split}-{shard:05d}-of-{shards:05d}.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                schema.stored(pl.DataFrame(own, schema=TABLES["sets"].schema)).write_parquet(path)
    return folder
