"""The benchmark for GPUs, small and on whatever device there is: that it runs and prints its rows; its figures mean nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.real
def test_it_runs_and_prints_its_rows() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "--tiny"], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}
    for count in (4, 8):
        assert rows[f"gpu_mcpo_over_formula_n{count}"]["value"] is not None
        assert all(rows[f"gpu_tokens_per_s_{name}_n{count}"]["value"] > 0 for name in ("dpo", "mcpo"))
        assert rows[f"gpu_mfu_mcpo_n{count}"]["target"] == ">= 0.45"
