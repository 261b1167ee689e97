"""Plain rows (prefdata/sources/plain.py) in columns: what the spool keeps of them, and how they become tables."""

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa

from prefdata.kinds import Message
from prefdata.sources.plain import Candidate
from prefdata.sources.rows import Fields, Record
from prefdata.sources.settings import SourceSettings
from prefdata.sources.transcripts import ROLES, leaks
from prefdata.tables.schema import TABLES

_TEXT = pa.large_string()
_MESSAGE = pa.struct([("role", _TEXT), ("content", _TEXT)])
_CANDIDATE = pa.struct(
    [
        ("candidate_id", _TEXT),
        ("response", _TEXT),
        ("producer", _TEXT),
        ("sample", pa.int32()),
        ("source_rank", pa.float64()),
        ("source_score", pa.float64()),
    ]
)
COLUMNS = pa.schema(
    [
        ("prompt_id", _TEXT),
        ("order", pa.int32()),
        ("path", pa.large_binary()),
        ("start", pa.int64()),
        ("row_hash", _TEXT),
        ("source_row", _TEXT),
        ("source_split", _TEXT),
        ("messages", pa.large_list(_MESSAGE)),
        ("candidates", pa.large_list(_CANDIDATE)),
    ]
)
"""One row a prompt. Where it stands (path, start) or, where it cannot be read again, its hash: for prompts with several."""


class PlainRow(NamedTuple):
    """A row as the columns have it."""

    prompt_id: str
    order: int
    path: bytes | None
    start: int | None
    row_hash: str | None
    source_row: str
    source_split: str | None
    messages: Sequence[Message]
    candidates: Sequence[Candidate]
    fields: Fields
    """What it was read of: no column, but for one that is found not to be plain after all."""


def columns(rows: Sequence[PlainRow]) -> pa.RecordBatch:
    """The rows, of which there is one at least."""
    *single, messages, candidates, _ = zip(*rows, strict=True)
    spoken = [(m["role"], m["content"]) for m in chain.from_iterable(messages)]
    arrays = [_array(values, field.type) for values, field in zip(single, COLUMNS, strict=False)]
    nested = (_lists(messages, spoken, _MESSAGE), _lists(candidates, chain.from_iterable(candidates), _CANDIDATE))
    return pa.RecordBatch.from_arrays([*arrays, *nested], schema=COLUMNS)


def _lists(grouped: Sequence[Sequence[Any]], flat: Iterable[Sequence[Any]], kind: pa.StructType) -> pa.LargeListArray:
    """Lists of structs, `flat` being all of them one after another."""
    fields = [_array(values, field.type) for values, field in zip(zip(*flat, strict=True), kind, strict=True)]
    edges = _array(list(accumulate(map(len, grouped), initial=0)), pa.int64())
    return pa.LargeListArray.from_arrays(edges, pa.StructArray.from_arrays(fields, fields=list(kind)))


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """By polars: pyarrow would load pandas to see whether a list of Python's is one of its own."""
    return pl.Series(values, dtype=_POLARS[kind]).to_arrow().cast(kind)


_POLARS = {
    _TEXT: pl.String,
    pa.large_binary(): pl.Binary,
    pa.int32(): pl.Int32,
    pa.int64(): pl.Int64,
    pa.float64(): pl.Float64,
}


def leaking(batch: pa.RecordBatch) -> set[int]:
    """The rows with an answer that goes on to play another turn."""
    listed = batch["candidates"]
    responses = pl.Series(listed.flatten().field("response"))
    named = responses.str.contains_any(list(ROLES)).arg_true()
    found = [number for number, text in zip(named, responses.gather(named), strict=True) if leaks(text)]
    edges = listed.offsets.to_pylist() if found else []
    return {bisect_right(edges, number) - 1 for number in found}


def frame(batches: Sequence[pa.RecordBatch]) -> pl.DataFrame:
    """The rows of these batches."""
    return pl.DataFrame(pl.from_arrow(pa.Table.from_batches(batches, COLUMNS)))


def records(rows: pl.DataFrame, sources: Sequence[SourceSettings]) -> Iterator[Record]:
    """The rows as lines of the spool."""
    for row in rows.iter_rows(named=True):
        common = {name: row[name] for name in ("prompt_id", "source_row", "source_split", "messages")}
        of_source = {"source": sources[row["order"]].revisioned, "license": sources[row["order"]].license}
        yield {
            "order": row["order"],
            "row_hash": row["row_hash"],
            "place": (os.fsdecode(row["path"]), row["start"]) if row["path"] else None,
            "prompt": {**common, **of_source, **_NOTHING_MORE},
            "candidates": [{**c, "prompt_id": row["prompt_id"], **_ALWAYS} for c in row["candidates"]],
            "drops": [],
            "finished": [],
        }


_NOTHING_MORE: Mapping[str, Any] = dict.fromkeys(("tools", "template_kwargs", "answer", "extras"))
_ALWAYS: Mapping[str, Any] = {"origin": "source", "finish": "stop", "extras": None, "label": None}


def tables(rows: pl.DataFrame, sources: Sequence[SourceSettings]) -> dict[str, pl.DataFrame]:
    """The rows' prompts and candidates; no two rows have one prompt."""
    whose = {
        "source": {i: s.revisioned for i, s in enumerate(sources)},
        "license": {i: s.license for i, s in enumerate(sources)},
    }
    named = [pl.col("order").replace_strict(names, return_dtype=pl.String).alias(column) for column, names in whose.items()]
    ordered = rows.sort("prompt_id")
    candidates = ordered.select("prompt_id", "candidates").explode("candidates").unnest("candidates")
    return {
        "prompts": _filled(ordered.with_columns(named), "prompts", {}),
        "candidates": _filled(candidates, "candidates", _ALWAYS),
    }


def _filled(rows: pl.DataFrame, table: str, always: Mapping[str, Any]) -> pl.DataFrame:
    """All columns of the table: those that the rows lack hold what is always so, else null."""
    known = TABLES[table]
    return rows.select(
        pl.col(name).cast(kind) if name in rows.columns else pl.lit(always.get(name), dtype=kind).alias(name)
        for name, kind in known.columns.items()
    )
