"""Messages as published: role, content, and a column for every other key that a message of the set has.

Texts (reasoning_content, name) are texts; anything else (tool_calls) is JSON in Arrow's JSON type, which `datasets` gives back
as the objects that chat templates expect. The columns are those of the whole set, so that all files have one schema.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from prefdata.tables.messages import as_json

Keys = dict[str, bool]
"""The other keys of a set's messages; whether each is a text everywhere."""


def any_extras(path: Path) -> bool:
    """Whether a table of `sets` may hold extras, by the counts of nulls in its footer."""
    meta = pq.read_metadata(path)
    for group in range(meta.num_row_groups):
        for place in range(meta.num_columns):
            column = meta.row_group(group).column(place)
            if column.path_in_schema.endswith("extras"):
                stats = column.statistics
                if stats is None or not stats.has_null_count or stats.null_count < column.num_values:
                    return True
    return False


def keys_of(frames: Iterable[pl.DataFrame]) -> Keys:
    """The other keys that messages of these rows of `sets` have."""
    found: Keys = {}
    for rows in frames:
        answers = rows["candidates"].explode().struct.field("extras")
        for text in pl.concat([rows["prompt_extras"], answers]).drop_nulls():
            said = json.loads(text)
            for message in said if isinstance(said, list) else [said]:
                for key in message.keys() - {"content"}:
                    found[key] = found.get(key, True) and isinstance(message[key], str)
    return dict(sorted(found.items()))


def column(name: str, listed: Sequence[Sequence[Mapping[str, Any]]], keys: Keys) -> pl.Series:
    """A column of message lists; a value that is no text is JSON."""
    fields = {"role": pl.String, "content": pl.String, **dict.fromkeys(keys, pl.String)}
    rows = [[{k: _text(m.get(k), keys.get(k, True)) for k in fields} for m in messages] for messages in listed]
    return pl.Series(name, rows, dtype=pl.List(pl.Struct(fields)))


def _text(value: Any, plain: bool) -> str | None:
    return value if value is None or plain else as_json(value)


def with_json(table: pa.Table, keys: Keys) -> pa.Table:
    """The table with its JSON keys in Arrow's JSON type."""
    names = {name for name, plain in keys.items() if not plain}
    for place, field in enumerate(table.schema):
        if names and field.name in ("prompt", "chosen", "rejected", "completion"):
            made = _typed(table.column(place).combine_chunks(), names)
            table = table.set_column(place, pa.field(field.name, made.type), made)
    return table


def _typed(array: pa.Array, names: set[str]) -> pa.Array:
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        return type(array).from_arrays(array.offsets, _typed(array.values, names))
    if not pa.types.is_struct(array.type):
        return array
    columns = [array.field(f.name) for f in array.type]
    made = [_json(c) if f.name in names else c for f, c in zip(array.type, columns, strict=True)]
    return pa.StructArray.from_arrays(made, fields=[pa.field(f.name, c.type) for f, c in zip(array.type, made, strict=True)])


def _json(array: pa.Array) -> pa.Array:
    return pa.ExtensionArray.from_storage(pa.json_(array.type), array)
