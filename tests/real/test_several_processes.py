"""A run in two processes from a recipe: killed or stopped in its middle, it ends as the one that was let alone, bit for bit;
nobody outlives anything, and its devices are its own."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recipes import TOY
from runs import Workflow, clean_environment

pytestmark = [pytest.mark.real, pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="Linux only")]
WAIT_S = 300
MARK = "TEST_OF_SEVERAL_PROCESSES"
RUN: dict[str, Any] = {
    **TOY["train"]["runs"]["sft/policy"],
    "steps": 24,
    "batch_prompts": 8,
    "processes": 2,
    "checkpoint_s": 1e-9,
    "keep_optimizer": True,
}
RECIPE = {key: TOY[key] for key in ("name", "seed", "toy", "sources")} | {"dedup": None, "noise": {"copies": 0}}
KEPT = ("metrics.jsonl", "model.safetensors", "optimizer/optimizer.safetensors", "optimizer/state.json")


def recipe(processes: int = 2) -> dict[str, Any]:
    return {**RECIPE, "train": {"runs": {"sft/two": {**RUN, "processes": processes}}}}


class Started:
    """`snakemake train_all` in a folder, whose processes are known by a mark in their environment."""

    def __init__(self, workflow: Workflow) -> None:
        self.workflow, self.mark = workflow, f"{workflow.folder.parent.name}-{time.monotonic_ns()}"
        self.leases = workflow.folder / "leases"
        environment = {
            **clean_environment(),
            MARK: self.mark,
            "CUDA_VISIBLE_DEVICES": "a,b,c",
            "PREFDATA_LEASES": str(self.leases),
        }
        self.process = subprocess.Popen(
            workflow.command("train_all", cores=2),
            cwd=workflow.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )

    def all(self, variable: str = "") -> list[int]:
        """The living processes of this call that have a variable in their environment."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                environment = (place / "environ").read_bytes().decode().split("\0")
            except OSError:
                continue
            if f"{MARK}={self.mark}" in environment and any(e.startswith(variable) for e in environment):
                found.append(int(place.name))
        return sorted(found)

    def ranks(self) -> list[int]:
        return self.all("LOCAL_RANK=")

    def torchrun(self) -> int:
        """Who started the ranks."""
        return int(Path(f"/proc/{self.ranks()[0]}/stat").read_text().rpartition(")")[2].split()[1])

    def until(self, what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not what():
            assert time.monotonic() < deadline
            assert self.process.poll() is None or what(), self.process.communicate()[0]
            time.sleep(0.02)

    def has_checkpoints(self, count: int) -> None:
        """Wait until the run is that far."""
        place = self.workflow.root / "chunks" / "train" / "sft" / "two"
        self.until(lambda: any(int(p.name[-8:]) >= count for p in place.glob("step-*")))

    def held(self) -> list[str]:
        """The devices that somebody has."""
        names = []
        for path in sorted(self.leases.glob("device-*")):
            with path.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    names.append(path.name.removeprefix("device-"))
        return names

    def ends(self) -> str:
        """What it said, once it and every process of it are gone."""
        said = self.process.communicate(timeout=WAIT_S)[0]
        deadline = time.monotonic() + WAIT_S
        # the kernel takes a dying process's environment before it closes its files, so its lease may be seen a little longer
        while (self.all() or self.held()) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert self.all() == []
        assert self.held() == []
        return said


def kill_snakemake(started: Started) -> None:
    started.process.kill()


def kill_a_rank(started: Started) -> None:
    os.kill(started.ranks()[1], signal.SIGKILL)


def interrupt_torchrun(started: Started) -> None:
    os.kill(started.torchrun(), signal.SIGINT)


def test_kills_and_a_sigterm_change_nothing_and_leave_nobody(tmp_path: Path) -> None:
    whole = Started(Workflow(tmp_path / "whole", recipe()))
    whole.has_checkpoints(1)
    assert whole.held() == ["a", "b"]
    assert whole.process.wait(WAIT_S) == 0, whole.process.communicate()[0]
    whole.ends()
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    cut = Workflow(tmp_path / "cut", recipe())
    model, checkpoints = (cut.root / place / "sft" / "two" for place in ("models", "chunks/train"))
    log = cut.root / "logs" / "train" / "sft" / "two.log"
    shutil.rmtree(model)
    shutil.rmtree(checkpoints)
    for number, end in enumerate((kill_snakemake, kill_a_rank, interrupt_torchrun)):
        started = Started(cut)
        started.has_checkpoints(4 * (number + 1))
        assert len(started.ranks()) == 2
        end(started)
        said = started.ends()
        assert started.process.returncode != 0
        assert not (model / "train.json").exists(), "it was cut in its middle"
        if end is kill_a_rank:
            assert "was killed by SIGKILL; the same command goes on" in log.read_text()
            assert "was killed by SIGKILL; the same command goes on" in said
    started = Started(cut)
    started.has_checkpoints(15)
    os.kill(started.torchrun(), signal.SIGTERM)
    said = started.ends()
    stopped = int(log.read_text().partition("stopped after step ")[2].split()[0])
    assert (checkpoints / f"step-{stopped:08d}" / "state.json").exists()
    assert "Traceback" not in said
    cut.write(recipe(processes=1))
    command = [sys.executable, "-P", "-m", "prefdata", "train", "--settings", "recipe.yaml", "--run", "sft/two"]
    alone = subprocess.run(command, cwd=cut.folder, capture_output=True, text=True, env=clean_environment(), check=False)
    assert "the run was begun by 2 processes, not 1" in alone.stderr
    cut.write(recipe())
    last = Started(cut)
    assert last.process.wait(WAIT_S) == 0, last.process.communicate()[0]
    last.ends()
    for file in KEPT:
        one, other = (w.root / "models" / "sft" / "two" / file for w in (whole.workflow, cut))
        assert one.read_bytes() == other.read_bytes(), file
    cut.write(recipe(processes=1))
    assert "Nothing to be done" in cut.run("train_all", "-n"), "how many made it runs nothing again"
