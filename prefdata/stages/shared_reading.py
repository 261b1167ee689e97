"""Large files of JSON lines read by several processes: each reads whole pieces of a file and spools them in its own folder.

What comes of a file does not depend on who reads which piece: lines of the spool are put in order when they are read back, and
what is counted is added up in the order of the pieces, of which the first that is wrong is told.
"""

import gc
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from prefdata import errors
from prefdata.children import die_with
from prefdata.progress import processors
from prefdata.sources import readers
from prefdata.sources.settings import SourceSettings, SourcesSettings
from prefdata.stages.spool import Spool

if TYPE_CHECKING:
    from prefdata.stages.reading import Found, Task

PIECE_BYTES = 2**25
"""Of a file; one that is not twice as large is read by one process: to start others takes longer."""
MOST = 8
"""Processes that share a file: the next thing that takes time is to write what they read, which one process does."""
START = "from prefdata.stages.shared_reading import serve; serve()"


@dataclass(frozen=True)
class Piece:
    """Whole lines of a file, from byte `start` up to `stop`; `number`: of its first line, from 1."""

    path: str
    start: int
    stop: int
    number: int


def pays(source: SourceSettings, paths: Sequence[Path]) -> bool:
    """Whether several processes read a source sooner than one: not where there are few rows, they are no JSON lines, something
    is wrong with a file, or their ids must all be different."""
    if processors() == 1 or "id" in source.fields or not readers.are_json_lines(source, paths):
        return False
    return sum(path.stat().st_size for path in paths) >= 2 * PIECE_BYTES


def cut(path: Path) -> Iterator[Piece]:
    """The pieces of a file, in order."""
    number, start = 1, 0
    with path.open("rb") as file:
        while block := file.read(PIECE_BYTES):
            rest = file.readline(readers.MAX_LINE_BYTES + 1)  # whoever reads a longer line says that it is too long
            yield Piece(str(path), start, start + len(block) + len(rest), number)
            number += block.count(b"\n") + rest.count(b"\n")
            start += len(block) + len(rest)


def read(task: "Task", order: int, paths: Sequence[Path], folder: Path) -> Iterator[tuple[Piece, "Found"]]:
    """What was found in each piece of the source's files, in order. Raises the error of the first piece that has one."""
    at_most = sum(-(-path.stat().st_size // PIECE_BYTES) for path in paths)
    count, idle = min(processors(), at_most, MOST), SimpleQueue["_Reader"]()

    def ask(piece: Piece) -> Any:
        reader = idle.get()
        try:
            return reader.ask(asdict(piece))
        finally:
            idle.put(reader)

    with _readers(task, order, count, folder) as started, ThreadPoolExecutor(count) as threads:
        for reader in started:
            idle.put(reader)
        # the first are read while the last are cut
        waiting = [(piece, threads.submit(ask, piece)) for path in paths for piece in cut(path)]
        try:
            for piece, answer in waiting:
                yield piece, _found(answer.result())
        finally:
            for _, answer in waiting:
                answer.cancel()
        for reader in started:
            _found(reader.end())


@contextmanager
def _readers(task: "Task", order: int, count: int, folder: Path) -> Iterator[list["_Reader"]]:
    """Processes that read the source for as long as the block lasts."""
    told = {
        "settings": task.settings.model_dump(mode="json"),
        "num_shards": task.num_shards,
        "per_shard": task.per_shard,
        "order": order,
        "folder": str(folder),
    }
    started: list[_Reader] = []
    try:
        started += (_Reader(told) for _ in range(count))
        yield started
    finally:
        for reader in started:
            reader.stop()


class _Reader:
    """One process. It is started by the thread that waits for all of them: Linux lets it die with that thread."""

    def __init__(self, told: dict[str, Any]) -> None:
        command = [sys.executable, "-P", "-c", START]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._say({**told, "parent": os.getpid()})

    def ask(self, piece: dict[str, Any]) -> Any:
        self._say(piece)
        return self._hear()

    def end(self) -> Any:
        """Let it close its files; what it says of that."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._hear()

    def _say(self, value: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        print(json.dumps(value), file=self._process.stdin, flush=True)

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        text = self._process.stdout.readline()
        if not text:
            raise errors.DataError(
                f"a process that read rows ended with code {self._process.wait()}", "sources", "run the same command again"
            )
        return json.loads(text)

    def stop(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # what it was told last may not have reached it
                pipe.close()  # type: ignore[union-attr]
        self._process.wait()


def _found(answer: dict[str, Any]) -> "Found":
    from prefdata.stages.reading import Found

    if "error" in answer:
        kind: type[errors.PrefdataError] = getattr(errors, answer["kind"])
        raise kind(*answer["error"])
    found = Found(Counter(answer["counts"]), answer["rows"])
    found.templated.rows, found.templated.first = answer["templated"]
    return found


# ---- in a process of its own ----


def serve() -> None:
    """Read the pieces that standard input names, one a line; say on standard output what was found in each."""
    gc.disable()  # rows hold no circles, and so many are held that looking for some takes a twentieth of the time
    told = json.loads(sys.stdin.readline())
    die_with(told["parent"])
    for answer in _answers(told):
        print(json.dumps(answer), flush=True)


def _answers(told: dict[str, Any]) -> Iterator[dict[str, Any]]:
    from prefdata.stages.reading import Found, Task, spool_rows

    task = Task(SourcesSettings.model_validate(told["settings"]), told["num_shards"], told["per_shard"])
    try:
        with Spool(Path(told["folder"]) / str(os.getpid())) as spooled:
            for line in sys.stdin:
                piece = Piece(**json.loads(line))
                rows = readers.lines_of(Path(piece.path), piece.start, piece.stop, piece.number)
                try:
                    yield _said(spool_rows(task, told["order"], rows, spooled))
                except errors.PrefdataError as error:
                    yield _wrong(error)
        yield _said(Found())
    except errors.PrefdataError as error:  # its files could not be closed
        yield _wrong(error)


def _said(found: "Found") -> dict[str, Any]:
    return {"counts": found.counts, "rows": found.rows, "templated": [found.templated.rows, found.templated.first]}


def _wrong(error: errors.PrefdataError) -> dict[str, Any]:
    return {"kind": type(error).__name__, "error": [error.what, error.where, error.do]}
