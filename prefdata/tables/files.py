"""Table files read: checked, in bounded memory, in the order of their prompts. What writes them is `table_writer`."""

import contextlib
import errno
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from prefdata.errors import DataError
from prefdata.tables import manifests, schema
from prefdata.tables.schema import TABLES

MAX_DECODED_BYTES = 64 * 2**30
"""A file that claims to decode to more than this is refused before it is read."""
BATCH_BYTES, BATCH_ROWS = 2**23, 2**13
"""What is decoded at once of a table, at most, as far as its footer tells."""


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
        return manifests.unsealed(pq.read_metadata(path).metadata or {})


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
            rows = manifests.unsealed(file.metadata.metadata or {})["rows"]
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
