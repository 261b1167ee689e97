"""Jobs that a killed run left in Slurm's queue. They live on, for nothing of theirs died with it: they hold locks and devices
that the next run wants, and nobody waits for them."""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from prefdata.errors import DataError
from prefdata.tables import atomic

WAIT_S = 120.0
"""How long cancelled jobs may take to end: Slurm kills them 30 s after it has asked them to, unless it is told otherwise."""


def queue_name(workflow: Any) -> str | None:
    """The name that all jobs of this run have in Slurm's queue; None where another executor runs them."""
    executor = getattr(workflow.scheduler, "_executor", None)
    name = getattr(executor, "run_uuid", None)
    return None if name is None else str(name)


def take_over(kept: Path, name: str | None) -> None:
    """Cancel what the run before left, whose name is in the file `kept`, and write our own name there.

    The caller holds the run's lock, so that nobody waits for these jobs. Raises DataError where they do not end.
    """
    if kept.exists() and shutil.which("squeue") is not None:
        before = kept.read_text(encoding="utf-8", errors="replace")
        if not re.fullmatch(r"[\w.-]+", before):  # without a name, or with several, Slurm would cancel others' jobs
            raise DataError("not the name of a run's jobs", str(kept), "remove the file, and see to left jobs by squeue")
        _cancel(before)
    if name is not None:
        atomic.atomic_text(kept, name)
    else:
        kept.unlink(missing_ok=True)


def _cancel(name: str) -> None:
    jobs = _queued(name)
    if not jobs:
        return
    print(f"Slurm still has jobs of a run that is gone: {', '.join(jobs)}; they are cancelled", file=sys.stderr)
    _ask("scancel", f"--name={name}")
    deadline = time.monotonic() + WAIT_S
    while jobs := _queued(name):
        if time.monotonic() >= deadline:
            raise DataError(f"jobs of an earlier run do not end: {', '.join(jobs)}", "squeue", "see to their nodes, run again")
        time.sleep(1)


def _queued(name: str) -> list[str]:
    """Numbers of the jobs of this name that wait, run or end."""
    return _ask("squeue", "--noheader", "--format=%A", f"--name={name}").split()


def _ask(*words: str) -> str:
    """What one of Slurm's clients says. Raises DataError with its complaint."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DataError(f"Slurm does not answer: {done.stderr.strip()}", words[0], "see that its controller runs, run again")
    return done.stdout
