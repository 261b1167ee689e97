"""What a killed run left in Slurm's queue is cancelled before the next one begins; Slurm is two scripts here."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from prefdata.errors import DataError
from prefdata.workflow import slurm

SQUEUE = """#!/bin/sh
[ -e broken ] && { echo "no controller" >&2; exit 1; }
case "$*" in *--name=one*) cat queue ;; esac
"""
SCANCEL = """#!/bin/sh
echo "$@" >> cancelled
[ -e stuck ] || : > queue
"""


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the numbers of the jobs that run one has in the queue."""
    for name, script in {"squeue": SQUEUE, "scancel": SCANCEL}.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "queue").write_text("7\n8\n")
    return tmp_path / "queue"


def test_the_jobs_of_the_run_before_are_cancelled(queue: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = queue.with_name(".slurm")
    slurm.take_over(kept, "one")
    assert not Path("cancelled").exists()
    slurm.take_over(kept, "two")
    assert Path("cancelled").read_text() == "--name=one\n"
    assert "a run that is gone: 7, 8" in capsys.readouterr().err
    assert kept.read_text() == "two"
    slurm.take_over(kept, "three")  # that of two has none in the queue
    assert Path("cancelled").read_text() == "--name=one\n"


def test_a_run_without_slurm_cancels_them_too_and_leaves_no_name(queue: Path) -> None:
    kept = queue.with_name(".slurm")
    slurm.take_over(kept, "one")
    slurm.take_over(kept, None)
    assert Path("cancelled").exists()
    assert not kept.exists()


def test_jobs_that_do_not_end_stop_the_next_run(queue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "WAIT_S", 0.0)
    Path("stuck").touch()
    kept = queue.with_name(".slurm")
    slurm.take_over(kept, "one")
    with pytest.raises(DataError, match="jobs of an earlier run do not end: 7, 8"):
        slurm.take_over(kept, "two")
    assert kept.read_text() == "one"
    Path("broken").touch()
    with pytest.raises(DataError, match="Slurm does not answer: no controller"):
        slurm.take_over(kept, "two")


@pytest.mark.parametrize("text", ["", "one,other", "one --user=root", "\ufffd"])
def test_a_damaged_name_cancels_nothing(queue: Path, text: str) -> None:
    """Of an empty name, or of a list, Slurm would take jobs that are not ours."""
    kept = queue.with_name(".slurm")
    kept.write_text(text)
    with pytest.raises(DataError, match="not the name of a run's jobs; remove the file"):
        slurm.take_over(kept, "two")
    assert not Path("cancelled").exists()
    assert kept.read_text() == text


def test_where_slurm_is_not_there_is_nothing_to_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / ".slurm").write_text("one")
    slurm.take_over(tmp_path / ".slurm", None)
    assert not (tmp_path / ".slurm").exists()


def test_a_run_has_a_name_in_the_queue_under_slurm_alone() -> None:
    for executor, name in ((SimpleNamespace(run_uuid="u"), "u"), (SimpleNamespace(), None)):
        assert slurm.queue_name(SimpleNamespace(scheduler=SimpleNamespace(_executor=executor))) == name
