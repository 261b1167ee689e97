"""The seven tables: columns, dtypes, keys and invariants (docs/adr/0001-tables-and-contracts.md), and the set view."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import polars as pl

from prefdata.errors import DataError, snippet

SPLITS = ("sft", "train", "validation", "test")
READ_SPLITS = (*SPLITS[1:], SPLITS[0])
"""In the order in which readers look for them."""
AGAIN = "delete the file and run its stage again"
ROLES = ("system", "user", "assistant", "tool")

MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
LOGPS = pl.List(pl.Struct({"reference": pl.String, "logp": pl.Float64, "num_tokens": pl.Int32}))
SET_CANDIDATE = pl.Struct(
    {
        "candidate_id": pl.String,
        "role": pl.Enum(("chosen", "rejected", "other")),
        "response": pl.String,
        "rank": pl.Int32,
        "score": pl.Float64,
        "win_prob": pl.Float64,
        "origin": pl.Enum(("source", "generated", "noise")),
        "producer": pl.String,
        "finish": pl.Enum(("stop", "length", "error")),
        "copies": pl.Int32,
        "logps": LOGPS,
        "extras": pl.String,
    }
)


@dataclass(frozen=True)
class Table:
    """Columns with dtypes, the key rows are sorted and unique by (None: sorted by it, repeats allowed), nullable ones."""

    name: str
    columns: dict[str, pl.DataType | type[pl.DataType]]
    key: tuple[str, ...]
    nullable: frozenset[str] = frozenset()
    unique: bool = True

    @property
    def schema(self) -> pl.Schema:
        return pl.Schema(self.columns)

    def empty(self) -> pl.DataFrame:
        return pl.DataFrame(schema=self.schema)

    def only(self, columns: Collection[str] | None) -> "Table":
        """The table as whoever reads these columns alone sees it, prompt_id among them; None: all. Raises KeyError.

        Rows stay in the order of the whole key; what is left of it may repeat.
        """
        if columns is None:
            return self
        if unknown := set(columns) - set(self.columns):
            raise KeyError(f"{self.name} has no columns {sorted(unknown)}")
        kept = {name: dtype for name, dtype in self.columns.items() if name == "prompt_id" or name in columns}
        key = tuple(takewhile(lambda name: name in kept, self.key))
        return replace(self, columns=kept, key=key, unique=self.unique and key == self.key)


def _enum(*values: str) -> pl.Enum:
    return pl.Enum(values)


_ALL = (
    Table(
        "prompts",
        {
            "prompt_id": pl.String,
            "messages": MESSAGES,
            "source": pl.String,
            "source_row": pl.String,
            "source_split": _enum(*SPLITS),
            "license": pl.String,
            "tools": pl.String,
            "template_kwargs": pl.String,
            "answer": pl.String,
            "extras": pl.String,
        },
        key=("prompt_id",),
        nullable=frozenset({"source_split", "tools", "template_kwargs", "answer", "extras"}),
    ),
    Table(
        # of dedup, never published: what makes two prompts one
        "signatures",
        {
            "prompt_id": pl.String,
            "source": pl.String,
            "source_split": _enum(*SPLITS),
            "exact": pl.String,
            "signature": pl.List(pl.UInt32),
        },
        key=("prompt_id",),
        nullable=frozenset({"source_split"}),
    ),
    Table(
        "clusters",
        {"prompt_id": pl.String, "cluster_id": pl.String, "source_split": _enum(*SPLITS)},
        key=("prompt_id",),
        nullable=frozenset({"source_split"}),
    ),
    Table(
        "splits",
        {"prompt_id": pl.String, "cluster_id": pl.String, "split": _enum(*SPLITS)},
        key=("prompt_id",),
    ),
    Table(
        "candidates",
        {
            "prompt_id": pl.String,
            "candidate_id": pl.String,
            "response": pl.String,
            "origin": _enum("source", "generated", "noise"),
            "producer": pl.String,
            "temperature": pl.Float64,
            "seed": pl.Int64,
            "sample": pl.Int32,
            "finish": _enum("stop", "length", "error"),
            "num_tokens": pl.Int32,
            "parent_id": pl.String,
            "source_rank": pl.Float64,
            "source_score": pl.Float64,
            "raw": pl.String,
            "extras": pl.String,
            "segment": pl.Int32,
            "label": pl.Boolean,
        },
        key=("prompt_id", "candidate_id"),
        nullable=frozenset(
            {
                "temperature",
                "seed",
                "num_tokens",
                "parent_id",
                "source_rank",
                "source_score",
                "raw",
                "extras",
                "segment",
                "label",
            }
        ),
    ),
    Table(
        "verdicts",
        {
            "prompt_id": pl.String,
            "a": pl.String,
            "b": pl.String,
            "order": _enum("ab", "ba"),
            "judge": pl.String,
            "rubric": pl.String,
            "outcome": _enum("a", "b", "tie", "missing"),
            "margin": pl.Float64,
            "reason": pl.String,
            "raw": pl.String,
            "tokens": pl.Int32,
            "cost": pl.Float64,
            "round": pl.Int32,
            "score": pl.Float64,
        },
        # a pointwise judge scores `a` alone: b, order and outcome are null
        key=("prompt_id", "a", "b", "order", "judge", "rubric"),
        nullable=frozenset({"b", "order", "outcome", "margin", "reason", "raw", "tokens", "cost", "score"}),
    ),
    Table(
        "ranks",
        {
            "prompt_id": pl.String,
            "candidate_id": pl.String,
            "method": pl.String,
            "rank": pl.Int32,
            "score": pl.Float64,
            "win_prob": pl.Float64,
        },
        key=("prompt_id", "candidate_id", "method"),
        nullable=frozenset({"score", "win_prob"}),
    ),
    Table(
        "logps",
        {
            "prompt_id": pl.String,
            "candidate_id": pl.String,
            "reference": pl.String,
            "logp": pl.Float64,
            "num_tokens": pl.Int32,
        },
        key=("prompt_id", "candidate_id", "reference"),
    ),
    Table(
        # sorted by prompt before scope, so that a shard's drops merge with the other tables in one pass
        "drops",
        {
            "scope": _enum("row", "prompt", "candidate"),
            "prompt_id": pl.String,
            "candidate_id": pl.String,
            "source": pl.String,
            "source_row": pl.String,
            "stage": pl.String,
            "reason": pl.String,
            "detail": pl.String,
        },
        key=("prompt_id", "candidate_id", "scope", "source", "source_row", "stage", "reason", "detail"),
        nullable=frozenset({"prompt_id", "candidate_id", "source", "source_row", "detail"}),
        unique=False,
    ),
    Table(
        "sets",
        {
            "prompt_id": pl.String,
            "split": _enum(*SPLITS),
            "prompt": MESSAGES,
            "tools": pl.String,
            "template_kwargs": pl.String,
            "source": pl.String,
            "candidates": pl.List(SET_CANDIDATE),
            "prompt_extras": pl.String,
            "segment": pl.Int32,
        },
        key=("prompt_id",),
        nullable=frozenset({"tools", "template_kwargs", "source", "prompt_extras", "segment"}),
    ),
)
TABLES: dict[str, Table] = {table.name: table for table in _ALL}


def require(frame: pl.DataFrame, table: Table, where: str = "rows") -> pl.DataFrame:
    """Return `frame` with the table's columns in order, or raise DataError naming the offending column and row.

    Checked: column names, dtypes (strings are read into enums, nothing else is cast), nulls, order, unique keys, ids.
    A nullable column that lacks is filled with nulls, so that a column can be added without old files becoming unreadable.
    """
    missing = [c for c in table.columns if c not in frame.columns and c not in table.nullable]
    unknown = [c for c in frame.columns if c not in table.columns]
    if missing or unknown:
        raise DataError(f"not a {table.name} table: missing {missing}, unknown {unknown}", where, AGAIN)
    columns = []
    for name, dtype in table.schema.items():
        if name not in frame.columns:  # a file from before a nullable column was added
            columns.append(pl.Series(name, [None] * frame.height, dtype=dtype))
            continue
        column = frame[name]
        if column.dtype != dtype:
            column = _with_extras(column, dtype)
        if column.dtype != dtype:
            column = _as_enum(column, dtype, table, where)
        if name not in table.nullable and column.null_count():
            row = int(column.is_null().arg_max() or 0)
            raise DataError(f"null in a column of {table.name} that allows none", f"{where}:{row}:{name}", AGAIN)
        _require_numbers(column, table, where)
        columns.append(column)
    checked = pl.DataFrame(columns)
    _require_ids(checked, table, where)
    return _require_sorted(checked, table, where)


def _require_numbers(column: pl.Series, table: Table, where: str) -> None:
    """No NaN in any column; no infinite log-prob."""
    if column.dtype.is_float():
        bad = ~column.is_finite() if table.name == "logps" else column.is_nan()
        if bad.any():
            row = int(bad.arg_max() or 0)
            raise DataError(f"{column[row]} in a table of {table.name}", f"{where}:{row}:{column.name}", AGAIN)


def _with_extras(column: pl.Series, dtype: pl.DataType) -> pl.Series:
    """Candidates of a set from before they had extras, with null ones."""
    fields = _fields(dtype)
    if "extras" not in fields or not (known := _fields(column.dtype)) or "extras" in known:
        return column
    null = pl.lit(None, dtype=pl.String).alias("extras")
    wanted = [n for n in fields if n in known or n == "extras"]
    filled = pl.element().struct.with_fields(null).struct.field(wanted)
    return column.list.eval(pl.struct(filled)) if set(known) | {"extras"} == set(fields) else column


def _fields(dtype: pl.DataType) -> list[str]:
    """The names of the fields of a list of structs."""
    inner = dtype.inner if isinstance(dtype, pl.List) else None
    return [f.name for f in inner.fields] if isinstance(inner, pl.Struct) else []


def _as_enum(column: pl.Series, dtype: pl.DataType, table: Table, where: str) -> pl.Series:
    if column.dtype == pl.Null:
        return column.cast(dtype)
    if not isinstance(dtype, pl.Enum) or column.dtype != pl.String:
        if not _holds_enum(dtype) or _relaxed(dtype) != _relaxed(column.dtype):
            raise DataError(f"{column.dtype} where {table.name} has {dtype}", f"{where}:*:{column.name}", AGAIN)
        return column.cast(dtype)
    bad = ~column.is_in(list(dtype.categories)) & column.is_not_null()
    if bad.any():
        row = int(bad.arg_max() or 0)
        raise DataError(f"{snippet(column[row])} is none of {list(dtype.categories)}", f"{where}:{row}:{column.name}", AGAIN)
    return column.cast(dtype)


def _holds_enum(dtype: pl.DataType) -> bool:
    return dtype != _relaxed(dtype)


def _relaxed(dtype: pl.DataType) -> pl.DataType:
    """The dtype with every enum inside it as String: what a Parquet file holds."""
    if isinstance(dtype, pl.Enum):
        return pl.String()
    if isinstance(dtype, pl.List):
        return pl.List(_relaxed(_instance(dtype.inner)))
    if isinstance(dtype, pl.Struct):
        return pl.Struct([pl.Field(f.name, _relaxed(_instance(f.dtype))) for f in dtype.fields])
    return dtype


def _instance(dtype: Any) -> pl.DataType:
    made: pl.DataType = dtype() if isinstance(dtype, type) else dtype
    return made


def stored(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame as it is written: enums as plain strings, so that every Parquet reader can read them."""
    return frame.cast({name: _relaxed(dtype) for name, dtype in frame.schema.items()})


def _require_ids(frame: pl.DataFrame, table: Table, where: str) -> None:
    for name in ("prompt_id", "candidate_id", "cluster_id", "parent_id", "a", "b"):
        if name in frame.columns:
            bad = ~frame[name].str.contains(r"^[0-9a-f]{16}$")
            if bad.any():  # null is neither
                row = int(bad.arg_max() or 0)
                raise DataError(f"{snippet(frame[name][row])} is not 16 hex digits", f"{where}:{row}:{name}", AGAIN)


def _require_sorted(frame: pl.DataFrame, table: Table, where: str) -> pl.DataFrame:
    keys = frame.select(table.key)
    if _ascends(keys):
        return frame
    ordered = keys.cast({n: pl.String for n, d in keys.schema.items() if isinstance(d, pl.Enum)})
    if table.unique and (double := ordered.is_duplicated()).any():
        row = int(double.arg_max() or 0)
        raise DataError(f"two rows with the key {ordered.row(row)} in {table.name}", f"{where}:{row}", AGAIN)
    if not ordered.equals(ordered.sort(table.key, nulls_last=False)):
        raise DataError(f"rows of {table.name} are not sorted by {table.key}", where, "sort them with tables.ordered")
    return frame


def _ascends(keys: pl.DataFrame) -> bool:
    """Whether each row comes after the one before it: sorted, and none twice. What holds nulls is not looked at: False."""
    if any(keys.null_count().row(0)):
        return False
    after = pl.repeat(False, max(keys.height - 1, 0), eager=True)
    for column in reversed(keys.get_columns()):
        texts = column.cast(pl.String) if isinstance(column.dtype, pl.Enum) else column
        one, next_ = texts.slice(0, max(keys.height - 1, 0)), texts.slice(1)
        after = (next_ > one) | ((next_ == one) & after)
    return bool(after.all())


def ordered(frame: pl.DataFrame, table: Table) -> pl.DataFrame:
    """The table's columns, in order and dtype, rows sorted by its key (enums by their text, nulls first)."""
    typed = frame.select([pl.col(n).cast(d) for n, d in table.columns.items()])
    if _ascends(typed.select(table.key)):
        return typed
    by = [pl.col(n).cast(pl.String) if isinstance(table.columns[n], pl.Enum) else pl.col(n) for n in table.key]
    return typed.sort(by, nulls_last=False)


def frame(table: str, rows: Iterable[dict[str, object]]) -> pl.DataFrame:
    """Rows (dicts; left-out nullable columns become null) as that table, typed and sorted."""
    known = TABLES[table]
    return ordered(pl.DataFrame(list(rows), schema=known.schema), known)


def alive(rows: pl.DataFrame, drops: pl.DataFrame) -> pl.DataFrame:
    """`rows` less every dropped prompt and, where it has a candidate_id, every dropped candidate. Order is kept."""
    prompts = drops.filter(pl.col("scope") == "prompt")["prompt_id"]
    rows = rows.filter(~pl.col("prompt_id").is_in(prompts.implode())) if prompts.len() else rows
    if "candidate_id" not in rows.columns:
        return rows
    candidates = drops.filter(pl.col("scope") == "candidate")
    return rows.join(candidates, on=["prompt_id", "candidate_id"], how="anti", maintain_order="left")


def shard_of(prompt_id: str, num_shards: int) -> int:
    """floor(prompt_id * num_shards / 2^64): shards read in order are the global prompt_id order for every number."""
    return int(prompt_id, 16) * num_shards >> 64


def first_of(shard: int, num_shards: int) -> str:
    """The least that a prompt_id of the shard can be; of the one behind the last, what is behind all ids."""
    least = -(-(shard << 64) // num_shards)
    return f"{least:016x}" if least < 1 << 64 else "g"
