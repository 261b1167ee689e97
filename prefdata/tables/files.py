"""Files that appear whole or not at all, and tables that carry their own manifest.

A table is Parquet with page checksums (written and verified). Its manifest lies in the file's key-value metadata:
stage, version, hash of its settings slice, content hashes of its inputs, rows, drops by reason; no time, host or path.
"""

import contextlib
import errno
import hashlib
import json
import os
from collections import Counter
from collections.abc import Collection, Iterator
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
from prefdata.tables.schema import TABLES, Table

MANIFEST = b"prefdata"
MAX_DECODED_BYTES = 64 * 2**30
"""A file that claims to decode to more than this is refused before it is read."""
ROW_GROUP_BYTES, ROW_GROUP_ROWS = 2**24, 2**16
"""A row group is written when so many bytes in memory, or rows, are held."""
BATCH_BYTES, BATCH_ROWS = 2**23, 2**13
"""What is decoded at once of a table, at most, as far as its footer tells."""
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


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DataError("no such file", str(path), _how_to_make(path)) from error
    except PermissionError as error:
        raise DataError("cannot read: permission denied", str(path), "fix the permissions") from error
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError, ValueError, KeyError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            reason = os.strerror(error.errno)
            raise DataError(
                f"cannot read: {reason}",
                str(path),
                "free memory or raise the limit on open files, then run the same command again",
            ) from error
        reason = str(error).splitlines()[0][:200]
        raise DataError(f"damaged or not a table of ours ({reason})", str(path), "delete it and run again") from error


def _how_to_make(path: Path) -> str:
    """The command that makes a table: tables/<table>/<stage>/<unit>/<shard>.parquet."""
    if len(path.parts) < 5 or path.parts[-5] != "tables":
        return "run the stage that makes it"
    stage, unit = path.parts[-3], path.parts[-2]
    return f"make it: prefdata {stage}{'' if unit == 'all' else f' --unit {unit}'}, or run the whole recipe"


def manifest(path: Path) -> dict[str, Any]:
    """The manifest inside a table file; reads the file's footer only."""
    with _reading(path):
        return _unsealed(pq.read_metadata(path).metadata or {})


def sealed(manifest: dict[str, Any]) -> str:
    """A manifest as it is written: with its own hash, since a file's footer has no checksum."""
    return json.dumps({**manifest, "seal": _seal(manifest)}, sort_keys=True)


def _seal(manifest: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(manifest, sort_keys=True).encode(), digest_size=8).hexdigest()


def _unsealed(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """The manifest of a footer, checked. Raises ValueError where it is not what was written."""
    loaded: dict[str, Any] = json.loads(metadata[MANIFEST])
    if loaded.pop("seal") != _seal(loaded):
        raise ValueError("its manifest was changed")
    return loaded


def iter_table(
    path: Path, table: str, batch_rows: int | None = None, columns: Collection[str] | None = None
) -> Iterator[pl.DataFrame]:
    """Yield the rows of a table file in order, checked, in frames of at most `batch_rows`, by default of as many as decode to
    BATCH_BYTES: bounded memory. `columns`: those that are read, prompt_id among them; by default all.
    """
    known = TABLES[table].only(columns)
    with _reading(path):
        file = pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False)
    with file:
        with _reading(path):
            rows = _unsealed(file.metadata.metadata or {})["rows"]
        require_decodable(file, path)
        there = None if columns is None else [n for n in file.schema_arrow.names if n in known.columns]
        batches, decoded = file.iter_batches(batch_size=batch_rows or _rows_at_once(file.metadata, columns), columns=there), 0
        while True:
            with _reading(path):
                batch = next(batches, None)
            decoded += 0 if batch is None else batch.nbytes
            require_bounded(decoded, path)
            with _reading(path):
                frame = None if batch is None else pl.DataFrame(pl.from_arrow(batch))
            if frame is None:
                break
            rows -= frame.height
            yield schema.require(frame, known, str(path))
    with _reading(path):
        if rows:  # a page whose header is damaged may be passed over: headers are not under the checksum
            raise ValueError(f"{abs(rows)} rows {'fewer' if rows > 0 else 'more'} than were written")


def _rows_at_once(footer: pq.FileMetaData, columns: Collection[str] | None) -> int:
    each = bytes_of(footer, columns) // max(footer.num_rows, 1)
    return int(min(BATCH_ROWS, max(1, BATCH_BYTES // max(each, 1))))


def bytes_of(footer: pq.FileMetaData, columns: Collection[str] | None = None) -> int:
    """What a file's columns decode to, as far as its footer tells."""
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    chunks = (group.column(place) for group in groups for place in range(footer.num_columns))
    wanted = (c for c in chunks if columns is None or c.path_in_schema.partition(".")[0] in columns)
    return sum(int(c.total_uncompressed_size) for c in wanted)


def size_of(path: Path, columns: Collection[str] | None = None) -> tuple[int, int]:
    """(rows, bytes that its columns decode to) of a table file, from its footer."""
    with _reading(path):
        footer = pq.read_metadata(path)
    return footer.num_rows, bytes_of(footer, columns)


def require_decodable(file: pq.ParquetFile, path: Path) -> None:
    """Refuse a file that says itself that it decodes to more than the bound. Raises DataError."""
    require_bounded(sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)), path)


def require_bounded(decoded: int, path: Path) -> None:
    """Refuse more than MAX_DECODED_BYTES: a dictionary of one long text is small until its rows are read."""
    if decoded > MAX_DECODED_BYTES:
        raise DataError(f"decodes to {decoded} bytes, more than {MAX_DECODED_BYTES}", str(path), "split the file")


def read_table(path: Path, table: str) -> pl.DataFrame:
    """A whole table file, checked."""
    return pl.concat([TABLES[table].empty(), *iter_table(path, table)])


class PromptReader:
    """Reads one table file in prompt order, a range of prompts at a time, holding only what is not yet asked for."""

    def __init__(self, path: Path, table: str, columns: Collection[str] | None = None) -> None:
        self._batches = iter_table(path, table, columns=columns)
        self._held = TABLES[table].only(columns).empty()
        self._done = False

    def until(self, prompt_id: str) -> pl.DataFrame:
        """Rows with a prompt_id up to and including this one (or null), not returned before."""
        batches = [self._held]
        while not self._done and (batches[-1].is_empty() or (batches[-1]["prompt_id"][-1] or "") <= prompt_id):
            batch = next(self._batches, None)
            if batch is None:
                self._done = True
            else:
                batches.append(batch)
        held = pl.concat(batches)
        rows = int((held["prompt_id"].is_null() | (held["prompt_id"] <= prompt_id)).sum())
        self._held = held.slice(rows)
        return held.head(rows)
