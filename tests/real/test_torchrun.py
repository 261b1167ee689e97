"""`torchrun -m prefdata train settings.yaml`, as a user types it: the first rank prepares, both train, the first one says where."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from test_from_file import pairs, settings_file

pytestmark = pytest.mark.real
__all__ = ["settings_file"]
ROOT = Path(__file__).parents[2]


def torchrun(path: Path) -> "subprocess.CompletedProcess[str]":
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "prefdata",
        "train",
        str(path),
    ]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=dict(os.environ), timeout=500)


def test_two_processes_from_pairs_to_a_model(
    settings_file: Callable[..., Path], write_rows: Callable[..., str], tmp_path: Path
) -> None:
    """Held-out rows are fewer than ranks, and a forward is bf16: no rank may wait for a forward that another has not."""
    import transformers

    data = {"path": write_rows(pairs(14)), "validation": 0.3}
    path = settings_file(objective="mcpo", data=data, evaluation={"every": 1, "prompts": 1}, precision="bfloat16")
    done = torchrun(path)
    assert done.returncode == 0, done.stderr[-9000:]
    assert done.stdout.strip() == str(tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [1, 2]
    assert all("eval_loss" in r for r in rows)
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "best")


def test_two_processes_train_adapters(
    settings_file: Callable[..., Path], write_rows: Callable[..., str], tmp_path: Path
) -> None:
    import transformers

    done = torchrun(settings_file(objective="dpo", data={"path": write_rows(pairs())}, lora={"rank": 2}))
    assert done.returncode == 0, done.stderr[-9000:]
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").exists()
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert not [name for name, _ in merged.named_parameters() if "lora" in name]


def test_a_batch_of_one_prompt_leaves_a_process_without_rows(
    settings_file: Callable[..., Path], write_rows: Callable[..., str], tmp_path: Path
) -> None:
    """bco's pass over the whole batch, too: nobody waits for a forward that another has not."""
    path = settings_file(objective="bco", data={"path": write_rows(pairs(5))}, batch_prompts=2, steps=3)
    done = torchrun(path)
    assert done.returncode == 0, done.stderr[-9000:]
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert len({r["shift"] for r in rows}) == 3
