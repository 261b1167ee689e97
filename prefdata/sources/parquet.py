"""Rows of Parquet files in bounded memory: only the columns that somebody maps, few rows at a time, sizes watched.

Files of one source may differ as writers do: string and large_string, whole numbers and floats, a column without any value or
of JSON, columns that nobody maps.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from prefdata.errors import DataError
from prefdata.sources import json_columns
from prefdata.sources.conversations import Columnar
from prefdata.tables.files import require_bounded, require_decodable

BATCH_ROWS = 32
"""A dictionary of one long text is small until its rows are read: this many times it must fit."""
Kind = str | tuple[Any, ...] | dict[str, Any] | None
"""What a type holds, whatever its width; None: nothing but nulls, or JSON, which may be anything."""


def rows(path: Path, columns: Collection[str] | None = None) -> Iterator[tuple[str, Columnar]]:
    """("file:row", row) of every row; `columns`: the only ones that are decoded, where the file has them. Raises DataError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
            names = file.schema_arrow.names
            _require_distinct(names, path)
            wanted = [n for n in names if columns is None or n in columns]
            if len(wanted) == len(names):
                require_decodable(file, path)
            places = {f.name: json_columns.places_of(f.type) for f in file.schema_arrow if f.name in wanted}
            decoded = 0
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=wanted):
                decoded += batch.nbytes
                require_bounded(decoded, path)
                for row in batch.to_pylist():
                    where = f"{path.name}:{number}"
                    yield where, Columnar({k: json_columns.read(v, places[k], f"{where}:{k}") for k, v in row.items()})
                    number += 1
    except MemoryError as error:
        raise DataError(
            "memory ran out while it was read", f"{path.name}:{number}", "give it more, or split the file"
        ) from error
    # dates beyond Python's too, and time zones that it does not know (a KeyError of pytz, where that is installed)
    except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
        raise _damaged(path, number, error) from error
    if number == 0:
        raise DataError("the file has no rows", str(path), "give a file with at least one row")


def require_alike(paths: Sequence[Path], columns: Collection[str] | None = None) -> None:
    """The files' columns (those that are read) hold the same kinds of values. Raises DataError naming both files."""
    first: dict[str, tuple[Path, Kind]] = {}
    for path in paths if len(paths) > 1 else ():
        for name, kind in _kinds(path).items():
            if columns is not None and name not in columns:
                continue
            where, known = first.setdefault(name, (path, kind))
            if not alike(known, kind):
                what = f"its column {name} ({_shown(kind)}) differs from that of {where} ({_shown(known)})"
                raise DataError(what, str(path), "convert one of them")
            if known is None:
                first[name] = path, kind


def alike(one: Kind, other: Kind) -> bool:
    """Whether values of both kinds read the same way. A column of nulls is like any other; objects need not have all keys."""
    if one is None or other is None:
        return True
    if isinstance(one, dict) and isinstance(other, dict):
        return all(alike(one[k], other[k]) for k in one.keys() & other.keys())
    if isinstance(one, tuple) and isinstance(other, tuple):
        return alike(one[1], other[1])
    return one == other


def _kinds(path: Path) -> dict[str, Kind]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return {f.name: kind_of(f.type) for f in pq.read_schema(path)}
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, 0, error) from error


def kind_of(dtype: Any) -> Kind:
    """What an Arrow type holds."""
    from pyarrow import types

    if types.is_null(dtype) or json_columns.places_of(dtype) is True:
        return None
    if types.is_dictionary(dtype):
        return kind_of(dtype.value_type)
    if types.is_list(dtype) or types.is_large_list(dtype) or types.is_fixed_size_list(dtype):
        return "list", kind_of(dtype.value_type)
    if types.is_struct(dtype):
        return {f.name: kind_of(f.type) for f in dtype}
    if types.is_string(dtype) or types.is_large_string(dtype) or types.is_string_view(dtype):
        return "text"
    if types.is_integer(dtype) or types.is_floating(dtype):
        return "number"
    return str(dtype)


def _shown(kind: Kind) -> str:
    if isinstance(kind, dict):
        return "{" + ", ".join(f"{k}: {_shown(v)}" for k, v in kind.items()) + "}"
    return f"list of {_shown(kind[1])}" if isinstance(kind, tuple) else str(kind)


def _require_distinct(names: Sequence[str], path: Path) -> None:
    double = [name for name, count in Counter(names).items() if count > 1]
    if double:
        raise DataError("two columns have this name", f"{path.name}:*:{double[0]}", "rename one of them")


def _damaged(path: Path, number: int, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:120]
    return DataError(f"damaged Parquet ({reason})", f"{path.name}:{number}", "fetch the file again")
