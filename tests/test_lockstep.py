"""Weights in shards by layer: several processes on gloo give one process's rows, weights and refusals, whoever has how much to
do, and hold their share."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import in_ranks
import pytest
import torch
from models import model
from safetensors.torch import load_file
from test_train import example

from prefdata.errors import DataError
from prefdata.models.forward import logprob
from train import checkpoint, lockstep
from train.lockstep import Slot, agreed
from train.micro_batch import forward_of
from train.processes import SINGLE, World


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return {name: in_ranks.steps(name, SINGLE) for name in in_ranks.CASES}


@pytest.fixture(scope="module", params=[2, 4])
def several(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """How many processes, and the folder that they left."""
    folder, here = tmp_path_factory.mktemp("ranks"), Path(__file__).parent
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={request.param}"]
    done = subprocess.run(
        [*torchrun, str(here / "in_ranks.py"), str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{here.parent}:{here}", "OMP_NUM_THREADS": "1"},
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return request.param, folder


@pytest.mark.parametrize("name", in_ranks.CASES)
def test_ranks_give_the_rows_and_the_weights_of_one_process(
    name: str, alone: dict[str, Any], several: tuple[int, Path]
) -> None:
    rows, weights = alone[name]
    found = json.loads((several[1] / f"{name}.json").read_text())
    assert len(rows) == len(found) == in_ranks.STEPS
    for one, other in zip(rows, found, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert other[key] == (value if value is None else pytest.approx(value, abs=1e-6, rel=1e-6)), key
    theirs = load_file(several[1] / f"{name}.safetensors")
    assert weights.keys() == theirs.keys()
    assert all(theirs[n].dtype == torch.float64 and torch.allclose(theirs[n], w, rtol=0, atol=1e-6) for n, w in weights.items())


def test_between_layers_a_rank_holds_its_share_and_a_layer(several: tuple[int, Path]) -> None:
    """Parameters, gradients and moments, in a step that finds moments there."""
    size, folder = several
    for rank in range(size):
        held = json.loads((folder / f"held-{rank}.json").read_text())
        assert held["most"] <= 1.1 * held["whole"] / size + held["layer"] + held["outside"]
        assert held["most"] > held["whole"] / size


@pytest.mark.parametrize("name", in_ranks.LOADED)
def test_a_rank_reads_its_part_of_the_weights(name: str, several: tuple[int, Path]) -> None:
    size, folder = several
    for rank in range(size):
        found = json.loads((folder / f"loaded-{name}-{rank}.json").read_text())
        assert all(found.values()), found


def test_a_checkpoint_in_parts_goes_on_bit_for_bit(several: tuple[int, Path]) -> None:
    size, folder = several
    for rank in range(size):
        found = json.loads((folder / f"resumed-{rank}.json").read_text())
        assert all(found.values()), found


# ---- what ranks agree on ----


class Gathered(World):
    """A rank whose others ask for these slots."""

    others: tuple[list[Slot], ...] = ()

    def gathered(self, value: Any) -> list[Any]:
        return [value, *self.others]


def test_the_most_that_any_rank_asks_for_is_what_all_do() -> None:
    world = Gathered(0, 3)
    object.__setattr__(world, "others", ([Slot(True, 0), Slot(False, 1)], []))
    assert agreed(world, [Slot(False, 4), Slot(), Slot(True, 2)]) == [Slot(True, 4), Slot(False, 1), Slot(True, 2)]
    assert [s.calls for s in (Slot(), Slot(True, 4))] == [1, 6]


def test_gradients_apart_are_those_of_one_backward() -> None:
    """Of the prompts' forward after those of their completions', fp64; a prompt's logits and log-probs of first tokens alike."""
    batch = [example(i, 4) for i in range(3)]

    def gradients(apart: bool) -> list[torch.Tensor]:
        lm = model()
        forward = forward_of(lm, batch, apart)
        chosen, rejected = forward.trained([[1, 3]] * 3)
        forward.backward((chosen.sum() - (rejected**2).sum()) / 7)
        return [p.grad for p in lm.parameters() if p.grad is not None]

    one, other = gradients(False), gradients(True)
    assert len(one) == len(other) > 10
    assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-14) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("world", "kept"), [(1, ["step-00000002"]), (3, ["step-00000002", "step-00000009"])])
def test_what_as_many_ranks_wrote_whole_is_not_in_the_way_of_parts(tmp_path: Path, world: int, kept: list[str]) -> None:
    """It would outlive every new one of a lower step. Of other ranks it is what the run was begun with, which is said."""
    for step, state in ((9, {"world": 1}), (2, {"world": 1, "parts": True})):
        checkpoint.place(tmp_path, step).mkdir()
        (checkpoint.place(tmp_path, step) / "state.json").write_text(json.dumps(state))
    checkpoint._discard_of_other_form(tmp_path, World(0, world), parts=True)
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == kept


def test_a_checkpoint_that_cannot_be_begun_says_so(tmp_path: Path) -> None:
    (tmp_path / "steps").write_text("no folder")
    with pytest.raises(DataError, match="cannot write a checkpoint: Not a directory"):
        checkpoint.begin(tmp_path / "steps" / ".step-1.tmp", checkpoint.place(tmp_path / "steps", 1))


def test_more_calls_than_agreed_on_are_an_error() -> None:
    """Nobody would wait for them: in the middle of a run all would hang."""
    lm, batch = model(), [example(i, 4) for i in range(3)]
    forward = lockstep.InStep(lm, batch, Slot(True, 0))
    with pytest.raises(RuntimeError, match="more than 0 times"):
        forward.pooled(1)
    with pytest.raises(RuntimeError, match="more than 0 times"):
        lockstep.InStep(lm, batch, Slot(False, 0))


def test_calls_are_made_up_for() -> None:
    """A slot of a prompts' call, three without gradient and the trained one, for rows that need the last alone."""
    lm, calls = model(), []
    lm.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    batch = [example(0, 1)]
    batch[0].completions[1:] = []
    expected = [True, False, False, False, True]
    forward = lockstep.InStep(lm, batch, Slot(True, 3))
    chosen, _ = forward.trained([[]])
    assert calls == expected
    row = logprob.row_logps(model(), [batch[0].prompt], batch[0].completions)
    assert chosen.detach().tolist() == pytest.approx(row.detach().tolist(), abs=1e-9)
    calls.clear()
    lockstep.idle(lm, Slot(True, 3), nullcontext())
    assert calls == expected
    assert all(p.grad is None or not p.grad.any() for p in lm.parameters())
