"""Table files written: Parquet with page checksums that appears whole or not at all, and carries its own manifest."""

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from prefdata.errors import DataError
from prefdata.tables import schema
from prefdata.tables.atomic import beside, fsync, os_error, sweep, writing
from prefdata.tables.content import ContentHash
from prefdata.tables.manifests import MANIFEST, sealed
from prefdata.tables.schema import TABLES, Table

ROW_GROUP_BYTES, ROW_GROUP_ROWS = 2**24, 2**16
"""A row group is written when so many bytes in memory, or rows, are held."""
SELDOM_REPEATED = ("response", "content", "raw", "reason", "detail", "extras", "prompt_extras", "exact", "signature")
"""Columns, or fields in them, whose values seldom repeat: a dictionary of them is work for nothing, and hides their size."""


class TableWriter:
    """Writes one table file in parts; the file appears when the `with` block ends without an error.

    Parts must come in key order. `manifest` is the caller's share of the manifest; rows, drops by reason and the
    content hash are added here.
    """

    def __init__(self, path: Path, table: Table, manifest: dict[str, Any]) -> None:
        self.path, self.table, self.manifest = path, table, manifest
        self._schema = schema.stored(table.empty()).to_arrow().schema
        self._digest, self._rows, self._reasons = ContentHash(self._schema), 0, Counter[str]()
        self._temporary = beside(path)
        self._last: tuple[Any, ...] | None = None
        self._held: list[pa.Table] = []
        self._writer: pq.ParquetWriter | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._waiting: Future[None] | None = None

    def __enter__(self) -> "TableWriter":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            sweep(self.path)
            self._writer = pq.ParquetWriter(
                self._temporary,
                self._schema,
                write_page_checksum=True,
                compression="zstd",
                store_schema=False,
                use_dictionary=_repeating(self._schema),
            )
        except OSError as error:
            self.discard()
            raise os_error(error, self.path) from error
        return self

    def write(self, frame: pl.DataFrame) -> None:
        """Append rows: checked against the table, and after the rows before."""
        frame = schema.require(frame, self.table, str(self.path))
        if frame.is_empty():
            return
        self._require_after(frame)
        if self.table.name == "drops":
            self._reasons.update(frame["reason"].to_list())
        arrow = schema.stored(frame).to_arrow().cast(self._writer.schema)  # type: ignore[union-attr]
        self._digest.update(arrow)
        self._rows += frame.height
        self._held.append(arrow)
        if sum(t.nbytes for t in self._held) >= ROW_GROUP_BYTES or sum(t.num_rows for t in self._held) >= ROW_GROUP_ROWS:
            self._flush_behind()

    def _flush_behind(self) -> None:
        """Write what is held as one row group, since small ones cost more to read than their rows, while more rows are checked
        and hashed: to compress leaves Python. What was written before is waited for, so that no more is held than that."""
        self._settle()
        self._thread = self._thread or ThreadPoolExecutor(1)
        self._waiting, self._held = self._thread.submit(self._write_group, self._held), []

    def _settle(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.result()

    def _write_group(self, held: list[pa.Table]) -> None:
        with writing(self.path):
            self._writer.write_table(pa.concat_tables(held))  # type: ignore[union-attr]

    def _require_after(self, frame: pl.DataFrame) -> None:
        first, last = frame["prompt_id"][0] or "", frame["prompt_id"][-1] or ""
        if self._last is not None and (first,) < self._last:
            raise DataError(f"part begins at {first}, before {self._last[0]}", str(self.path), "sort the parts")
        self._last = (last,)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self.complete()
                self.appear()
                self.settle()
        finally:
            self.discard()

    def complete(self) -> None:
        """Write the manifest and all that is left, and flush the file to the disk; it is not in its place yet."""
        assert self._writer is not None
        self._settle()
        if self._held:
            self._write_group(self._held)
            self._held = []
        with writing(self.path):
            self._writer.add_key_value_metadata({MANIFEST: sealed(self._manifest())})
            self._writer.close()
            fsync(self._temporary)

    def appear(self) -> None:
        """Put the complete file in its place."""
        with writing(self.path):
            os.replace(self._temporary, self.path)

    def settle(self) -> None:
        """Flush the name of the file to the disk."""
        with writing(self.path):
            fsync(self.path.parent)

    def discard(self) -> None:
        """Close and remove what has not appeared."""
        if self._thread is not None:
            self._thread.shutdown()
        if self._writer is not None and self._writer.is_open:
            with contextlib.suppress(OSError):
                self._writer.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink()

    def _manifest(self) -> dict[str, Any]:
        return {
            **self.manifest,
            "table": self.table.name,
            "rows": self._rows,
            "reasons": dict(sorted(self._reasons.items())),
            "content_hash": self._digest.hexdigest(),
        }


def _repeating(schema: pa.Schema) -> list[str]:
    """The leaves, by their paths in Parquet, that are written with a dictionary."""
    return [
        path for field in schema for path, name in _leaves(field.name, field.name, field.type) if name not in SELDOM_REPEATED
    ]


def _leaves(path: str, name: str, kind: pa.DataType) -> Iterator[tuple[str, str]]:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        yield from _leaves(f"{path}.list.element", name, kind.value_type)
    elif pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(f"{path}.{field.name}", field.name, field.type)
    else:
        yield path, name


def write_table(path: Path, table: str, frame: pl.DataFrame, manifest: dict[str, Any] | None = None) -> None:
    """Write a whole table file at once."""
    with TableWriter(path, TABLES[table], manifest or {}) as writer:
        writer.write(frame)
