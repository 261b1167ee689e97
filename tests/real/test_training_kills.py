"""SIGKILLs in the middle of training (20 by `make faults`, else 5): whatever the micro-batch, the end is the unkilled run's, bit for bit."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_runs import prepared

from prefdata.recipe.results import Results
from prefdata.recipe.settings.training import TrainSettings

pytestmark = pytest.mark.real
__all__ = ["prepared"]
KILLS = 20 if os.environ.get("PREFDATA_PROOFS") == "whole" else 5
RUNS = {
    "kto/cut": {},
    "bco/cut": {},
    "mcpo/cut": {"negatives": {"steps": 2, "proposals": 1}},
    "sft/cut": {"set": "sft", "micro_tokens": 16},
}
KNOBS = {
    "epochs": 3,
    "batch_prompts": 5,
    "micro_tokens": 40,
    "checkpoint_s": 1e-9,
    "keep_optimizer": True,
    "optimizer": {"learning_rate": 3e-3, "clip_norm": 0.5, "warmup_steps": 4, "schedule": "cosine"},
}
"""Several micro-batches a step, an epoch's last batch smaller, every step checkpointed."""


def folder_of(prepared: Results, folder: Path) -> Path:
    shutil.copytree(prepared.root / "tables", folder / "t" / "tables")
    train = TrainSettings(runs={name: {**KNOBS, **own} for name, own in RUNS.items()})
    settings = prepared.settings.model_copy(update={"name": "t", "train": train})
    (folder / "recipe.json").write_text(json.dumps(settings.model_dump(mode="json")))
    return folder


def trained(folder: Path, die_at: int) -> "subprocess.CompletedProcess[str]":
    root = Path(__file__).parents[2]
    command = [sys.executable, str(root / "tests" / "dying.py"), str(folder), str(die_at)]
    return subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(root), "PATH": ""}, timeout=300)


def test_kills_change_nothing(prepared: Results, tmp_path: Path) -> None:
    whole, cut = (folder_of(prepared, tmp_path / name) for name in ("whole", "cut"))
    done = trained(whole, 0)
    assert done.returncode == 0, done.stderr[-2000:]
    micro_batches = int(done.stdout)
    seed = random.SystemRandom().randrange(2**32)
    draw = random.Random(seed)
    print(f"seed {seed}, {micro_batches} micro-batches")
    for _ in range(KILLS):
        # what is left shrinks; a number beyond it lets the run end, and the next begins with nothing to do
        died = trained(cut, draw.randint(1, max(2, micro_batches // 8)))
        assert died.returncode in (0, -9), died.stderr[-2000:]
    last = trained(cut, 0)
    assert last.returncode == 0, last.stderr[-2000:]
    for name in RUNS:
        one, other = (f / "t" / "models" / name for f in (whole, cut))
        for file in ("metrics.jsonl", "model.safetensors", "optimizer/optimizer.safetensors", "optimizer/state.json"):
            assert (one / file).read_bytes() == (other / file).read_bytes(), (name, file)
