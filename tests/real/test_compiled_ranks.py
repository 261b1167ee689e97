"""Compiled layers in shards: two processes on gloo give the rows and weights of one whose layers are plain."""

import json
import os
import subprocess
import sys
from pathlib import Path

import in_ranks
import pytest
import torch
from safetensors.torch import load_file
from test_compiled import needs_compiler

from train.processes import SINGLE

pytestmark = [pytest.mark.real, needs_compiler]
PLAIN = {"compiled": "mcpo", "compiled_again": "mcpo_again"}


def test_ranks_with_compiled_layers_give_what_one_process_gives_with_plain_ones(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    tests = Path(in_ranks.__file__).parent
    done = subprocess.run(
        [*torchrun, in_ranks.__file__, str(tmp_path), *PLAIN],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{tests.parent}:{tests}", "OMP_NUM_THREADS": "1"},
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in range(2):
        frames = json.loads((tmp_path / f"frames-{rank}.json").read_text())
        assert 0 < frames["ok"] == frames["total"], "what is not compiled runs as it is, unsaid"
    for name, plain in PLAIN.items():
        rows, weights = in_ranks.steps(plain, SINGLE)
        found, theirs = json.loads((tmp_path / f"{name}.json").read_text()), load_file(tmp_path / f"{name}.safetensors")
        for one, other in zip(rows, found, strict=True):
            # norms compute in fp32 inside, and round otherwise where they are joined with their neighbours: by 2^-24 each, of sums
            # of tens of nats a few times 1e-6
            assert {k: v for k, v in other.items() if v is not None} == pytest.approx(
                {k: v for k, v in one.items() if v is not None}, rel=1e-5, abs=1e-5
            )
        assert weights.keys() == theirs.keys()
        assert all(torch.allclose(theirs[n], w, rtol=0, atol=1e-6) for n, w in weights.items())
