"""Progress of long work: a bar on a terminal of one's own, plain lines every few seconds otherwise."""

import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TextIO

RUN_PID = "PREFDATA_RUN_PID"
"""Set by the workflow: several jobs then share one terminal, where bars would overwrite each other."""
BATCH_SYSTEMS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")
"""Each sets one of these for its jobs."""


@contextmanager
def logged(path: Path | None) -> Iterator[None]:
    """Also write what is said on stderr to a file, errors included."""
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    real = sys.stderr
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        sys.stderr = _Tee(real, file)
        try:
            yield
        except BaseException as error:
            file.write(f"error: {error}\n")
            raise
        finally:
            sys.stderr = real


def processors() -> int:
    """Processors that this process may use: those it was given, where the system tells."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def in_batch_system() -> bool:
    """Whether a batch system runs this process: it counts what a job uses, and ends it, by its own processes, and other jobs
    may run on other machines."""
    return any(name in os.environ for name in BATCH_SYSTEMS)


class _Tee(io.TextIOBase):
    """Writes to two streams."""

    def __init__(self, first: TextIO, second: TextIO) -> None:
        self._first, self._second = first, second

    def write(self, text: str) -> int:
        self._second.write(text)
        return self._first.write(text)

    def flush(self) -> None:
        self._first.flush()
        self._second.flush()

    def isatty(self) -> bool:
        return self._first.isatty()


class Progress:
    """`with Progress("score", total) as p: p.advance(n, "note")`; total None where it is not known."""

    def __init__(self, label: str, total: int | None, every_s: float = 5.0, shown: bool = True) -> None:
        self.shown, self.label, self.total, self.done, self.note = shown, label, total, 0, ""
        self._every, self._start, self._last = every_s, time.monotonic(), time.monotonic()
        interactive = shown and sys.stderr.isatty() and RUN_PID not in os.environ
        self._bar = _bar(label, total) if interactive else None

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done, self.note = self.done + count, note
        if self._bar:
            self._bar.update(self._bar.task_ids[0], advance=count, note=note)
        elif time.monotonic() - self._last >= self._every:
            self._last = time.monotonic()
            self._print()

    def _print(self) -> None:
        if not self.shown:
            return
        of = f"/{self.total}" if self.total is not None else ""
        rate = self.done / max(time.monotonic() - self._start, 1e-9)
        print(f"{self.label}: {self.done}{of} ({rate:.1f}/s) {self.note}".rstrip(), file=sys.stderr, flush=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()
        elif kind is None and time.monotonic() - self._start > self._every:
            self._print()


def _bar(label: str, total: int | None):  # type: ignore[no-untyped-def]
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    bar = RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )
    bar.add_task(label, total=total, note="")
    return bar
