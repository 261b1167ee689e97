"""The content hash of a table: over rows and schema, not over the bytes of a file."""

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from prefdata.tables import schema


class ContentHash:
    """A hash over rows and schema, whatever the batches, encodings and offsets the rows come in."""

    def __init__(self, schema: pa.Schema) -> None:
        self._streams: dict[str, Any] = {}
        for field in schema:
            self._bytes(f"{field.name}={field.type}", b"")

    def update(self, table: pa.Table) -> None:
        for name in table.column_names:
            for chunk in table.column(name).chunks:
                self._add(name, chunk)

    def _bytes(self, stream: str, data: bytes | memoryview) -> None:
        self._streams.setdefault(stream, hashlib.blake2b(digest_size=16)).update(data)

    def _add(self, stream: str, array: pa.Array) -> None:
        kind = array.type
        if pa.types.is_dictionary(kind):
            return self._add(stream, array.cast(kind.value_type))
        if isinstance(array, pa.ExtensionArray):  # JSON: its text
            return self._add(stream, array.storage)
        self._bytes(f"{stream}?", _plain(array.is_valid()))
        if pa.types.is_struct(kind):
            for field, child in zip(kind, array.flatten(), strict=True):
                self._add(f"{stream}.{field.name}", child)
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
            counts = pc.list_value_length(array).cast(pa.int64())
            self._bytes(f"{stream}#", _plain(_filled(counts)))
            self._add(f"{stream}[]", array.flatten())
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            lengths, data = _utf8(array)
            self._bytes(f"{stream}#", lengths)
            self._bytes(stream, data)
        elif pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
            self._bytes(f"{stream}:{kind}", _plain(_filled(array)))
        elif not pa.types.is_null(kind):
            raise TypeError(f"no content hash for {kind}")
        return None

    def hexdigest(self) -> str:
        total = hashlib.blake2b(digest_size=16)
        for stream in sorted(self._streams):
            total.update(stream.encode() + b"\0" + self._streams[stream].digest())
        return total.hexdigest()


def _plain(values: pa.Array) -> bytes:
    """The values one after another, a byte each where they are booleans. By polars: pyarrow's way to NumPy loads pandas, which
    takes as long as many a job."""
    return pl.Series(values).to_numpy().tobytes()


def _filled(values: pa.Array) -> pa.Array:
    """The values, 0, False or "" where there are none."""
    return pc.fill_null(values, _nothing(values.type)) if values.null_count else values


@lru_cache
def _nothing(kind: pa.DataType) -> pa.Scalar:
    """By polars too: `pa.scalar` loads pandas."""
    text = pa.types.is_large_string(kind)
    return pl.Series([""] if text else [0]).to_arrow().cast(kind)[0]


def _utf8(texts: pa.Array) -> tuple[bytes, bytes | memoryview]:
    """(the texts' lengths in bytes as int64, their bytes one after another), null as "": out of Arrow's own memory."""
    known = _filled(texts.cast(pa.large_string()))
    _, places, data = known.buffers()
    if len(known) == 0 or data is None:
        return np.zeros(len(known), np.int64).tobytes(), b""
    edges = np.frombuffer(places, np.int64)[known.offset : known.offset + len(known) + 1]
    return np.diff(edges).tobytes(), memoryview(data)[edges[0] : edges[-1]]


def content_hash(frame: pl.DataFrame) -> str:
    """The content hash of a frame, as a file of it would carry."""
    arrow = schema.stored(frame).to_arrow()
    digest = ContentHash(arrow.schema)
    digest.update(arrow)
    return digest.hexdigest()
