"""The rows of all sources on the disk between reading and writing, a file a range of prompts and writer: memory stays flat,
whatever the order they come in.

A record is the prompt's id, its length, and the row's line as `marshal` writes it: the fastest that Python has, and lone
surrogates come back. Plain rows (prefdata/stages/plain_rows.py) stand together, as Arrow writes them. Only this run writes
these files, in an empty folder, and reads them; no code is made of what is read.
"""

import marshal
import struct
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import pyarrow as pa

from prefdata.sources.rows import Record
from prefdata.tables.atomic import writing

HEAD = struct.Struct("<16sQ")
NOBODY, COLUMNS = b" " * 16, b"columns".ljust(16)
"""In place of an id: of a row that is no prompt, and of plain rows."""
BUFFER_BYTES = 2**16
"""Of each file: a line is some kilobytes, and so is Python's own buffer."""
TOGETHER_BYTES = 2**24
"""Ranges are taken together up to so many bytes: small frames cost more than their rows."""


class Spool:
    """What one process writes: a file a range, in a folder of its own; errors of the disk name the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._files = folder, dict[int, BinaryIO]()

    def __enter__(self) -> "Spool":
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def write(self, bucket: int, line: Record) -> None:
        """Append a row's line; `line["prompt"]` is None or has a prompt_id."""
        data = marshal.dumps(line)
        own = line["prompt"]["prompt_id"].encode("ascii") if line["prompt"] else NOBODY
        self._append(bucket, HEAD.pack(own, len(data)) + data)

    def write_columns(self, bucket: int, batch: pa.RecordBatch) -> None:
        """Append plain rows."""
        data = batch.serialize()
        self._append(bucket, HEAD.pack(COLUMNS, data.size), data)

    def _append(self, bucket: int, *written: bytes | pa.Buffer) -> None:
        with writing(self.folder):
            if bucket not in self._files:
                self._files[bucket] = (self.folder / str(bucket)).open("wb", buffering=BUFFER_BYTES)
            for data in written:
                self._files[bucket].write(data)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with writing(self.folder) if kind is None else suppress(OSError), ExitStack() as closing:
            for file in self._files.values():
                closing.callback(file.close)


def buckets(folder: Path, wanted: Iterable[int] | None = None) -> Iterator[list[Path]]:
    """The files of each range that has rows, one a writer; `wanted`: the numbers of the ranges, in order."""
    for number in sorted({int(p.name) for p in folder.glob("*/*")}) if wanted is None else wanted:
        if found := sorted(folder.glob(f"*/{number}")):
            yield found


def together(folder: Path, wanted: Iterable[int]) -> Iterator[list[Path]]:
    """The files of consecutive ranges in groups of some TOGETHER_BYTES."""
    held, size = list[Path](), 0
    for paths in buckets(folder, wanted):
        held += paths
        size += sum(path.stat().st_size for path in paths)
        if size >= TOGETHER_BYTES:
            yield held
            held, size = [], 0
    if held:
        yield held


def lines(paths: Iterable[Path], only: Collection[bytes] | None = None) -> Iterator[Record]:
    """The lines of these files, or those of some prompts, which alone are decoded."""
    for own, file, length in _records(paths):
        if own != COLUMNS and (only is None or own in only):
            yield marshal.loads(file.read(length))


def columns(paths: Iterable[Path], known: pa.Schema) -> list[pa.RecordBatch]:
    """The plain rows of these files."""
    found = ((file, length) for own, file, length in _records(paths) if own == COLUMNS)
    return [pa.ipc.read_record_batch(pa.py_buffer(file.read(length)), known) for file, length in found]


def _records(paths: Iterable[Path]) -> Iterator[tuple[bytes, BinaryIO, int]]:
    """(id, the file, which stands where the record begins, its length), whether it is then read or not."""
    for path in paths:
        with path.open("rb") as file:
            while head := file.read(HEAD.size):
                own, length = HEAD.unpack(head)
                after = file.tell() + length
                yield own, file, length
                file.seek(after)


def repeated(paths: Iterable[Path]) -> set[bytes]:
    """The ids of prompts with several lines in these files."""
    counts = Counter(own for own, _, _ in _records(paths))
    return {own for own, count in counts.items() if count > 1 and own not in (NOBODY, COLUMNS)}
