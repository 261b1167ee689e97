"""Arrow's types as data sets of the Hub have them: `string` and `list`, so that a published set can be joined with others.

`datasets` calls a column of large_string or large_list another type than one of string or list, and refuses to concatenate or
to interleave the two. Polars makes the large ones.
"""

from collections.abc import Iterator, Set

import pyarrow as pa

MAX_BYTES = 2**30
"""What is cast at once: the offsets of string and list are 32 bits wide."""


def portable(table: pa.Table, as_json: Set[str] = frozenset(), columns: Set[str] = frozenset()) -> Iterator[pa.Table]:
    """The rows with string and list, in one table or, where they are very large, in several; the fields `as_json` of messages
    and the columns `columns` in Arrow's JSON type, which `datasets` gives back as objects."""
    if table.nbytes > MAX_BYTES and table.num_rows > 1:
        half = table.num_rows // 2
        yield from portable(table.slice(0, half), as_json, columns)
        yield from portable(table.slice(half), as_json, columns)
    else:
        kinds = {f.name: pa.json_() if f.name in columns else _portable(f.type, as_json) for f in table.schema}
        yield table.cast(pa.schema([pa.field(name, kind) for name, kind in kinds.items()]))


def _portable(kind: pa.DataType, as_json: Set[str]) -> pa.DataType:
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_list(kind) or pa.types.is_list(kind):
        return pa.list_(_portable(kind.value_type, as_json))
    if not pa.types.is_struct(kind):
        return kind
    a_message = {"role", "content"} <= {f.name for f in kind}
    fields = [pa.field(f.name, _portable(f.type, as_json)) for f in kind]
    return pa.struct([pa.field(f.name, pa.json_(f.type)) if a_message and f.name in as_json else f for f in fields])
