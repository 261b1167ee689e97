"""Compiled layers in shards: two processes on gloo give the rows and weights of one whose layers are plain."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import in_ranks
import pytest
import torch
from safetensors.torch import load_file

from train.processes import SINGLE

pytestmark = [pytest.mark.real, pytest.mark.skipif(not (shutil.which("g++") or shutil.which("c++")), reason="no C++ compiler")]
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
    for name, plain in PLAIN.items():
        rows, weights = in_ranks.steps(plain, SINGLE)
        found, theirs = json.loads((tmp_path / f"{name}.json").read_text()), load_file(tmp_path / f"{name}.safetensors")
        for one, other in zip(rows, found, strict=True):
            # norms compute in fp32 inside: one that is joined with its neighbours rounds there as fp32 does
            assert {k: v for k, v in other.items() if v is not None} == pytest.approx(
                {k: v for k, v in one.items() if v is not None}, rel=1e-5, abs=1e-5
            )
        assert weights.keys() == theirs.keys()
        assert all(torch.allclose(theirs[n], w, rtol=0, atol=1e-6) for n, w in weights.items())
