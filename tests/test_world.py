"""Two processes on gloo give one process's losses, and go on after a kill."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_runs import prepared, rows_of
from test_unpaired import ROWS, made, rows

from prefdata.errors import ConfigError
from prefdata.models.loading import load_model
from prefdata.recipe.results import Results
from prefdata.recipe.settings.training import TrainSettings
from prefdata.stages.registry import STAGES
from train import checkpoint
from train import run as run_
from train.processes import World, like, whole

__all__ = ["made", "prepared"]
RUNS = {
    "mcpo/two": {"negatives": {"steps": 2, "proposals": 1}, "checkpoint_activations": True},
    "kto/two": {},
    "bco/two": {"micro_tokens": 40},
    "sft/two": {"set": "sft", "micro_tokens": 20},
    "mrpo/two": {"evaluation": {"every": 2, "prompts": 4}, "keep_optimizer": True},
    "rpo/two": {"micro_tokens": 30},
    "mcpo/adapters": {"lora": {"rank": 2}},
}
KNOBS = {"steps": 4, "batch_prompts": 5, "optimizer": {"learning_rate": 3e-3, "clip_norm": 0.5, "warmup_steps": 2}}


def ranks(folder: Path, die_at: int = 0, size: int = 2, room: int | None = None) -> subprocess.CompletedProcess[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
    here = Path(__file__).parent
    return subprocess.run(
        [*torchrun, str(here / "dying.py"), str(folder), str(die_at), *([] if room is None else [str(room)])],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(here.parent), "OMP_NUM_THREADS": "1"},
        timeout=500,
    )


@pytest.fixture(scope="module")
def recipe_(prepared: Results) -> Results:
    """The runs above over the prepared set: one process here, and the folder that two will work in."""
    runs = {name: {**KNOBS, **own} for name, own in RUNS.items()}
    made = prepared.settings.model_copy(update={"train": TrainSettings(runs=runs)})
    return Results(made, STAGES, Path("/"))


@pytest.fixture
def folder(recipe_: Results, tmp_path: Path) -> Path:
    """A copy of the prepared tables under the name `t`, with the recipe."""
    shutil.copytree(recipe_.root / "tables", tmp_path / "t" / "tables")
    settings = recipe_.settings.model_copy(update={"name": "t"}).model_dump(mode="json")
    (tmp_path / "recipe.json").write_text(json.dumps(settings))
    return tmp_path


def test_two_processes_give_the_losses_and_the_weights_of_one(recipe_: Results, folder: Path) -> None:
    done = ranks(folder)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in RUNS:
        alone = run_.train(recipe_.settings, name, recipe_)
        two = folder / "t" / "models" / name
        mine, theirs = rows_of(alone), rows_of(two)
        assert len(mine) == len(theirs) == 4
        for one, other in zip(mine, theirs, strict=True):
            assert one.keys() == other.keys()
            for key in one.keys() - {"accuracy", "eval_accuracy"}:  # at the start margins are 0 but for rounding
                # losses, means and norms of fp32 sums in another order; log-probs of -20 nats are the largest
                assert other[key] == pytest.approx(one[key], abs=1e-5, rel=1e-6), (name, key)
        first, second = (dict(load_model(str(p)).named_parameters()) for p in (alone, two))
        assert all(torch.allclose(first[n], second[n], atol=1e-4) for n in first)
        assert load_model(str(two)).config.architectures == ["LlamaForCausalLM"]
    kept = "models/mrpo/two/optimizer/optimizer.safetensors"
    from safetensors.torch import load_file

    one, other = load_file(recipe_.root / kept), load_file(folder / "t" / kept)
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[k], other[k], atol=1e-4) for k in one)


def test_two_processes_give_labelled_answers_the_losses_and_the_weights_of_one(
    made: Callable[..., Results], tmp_path: Path
) -> None:
    """z of the whole batch, weights by the counts of all answers, one prompt with two of them; a last batch of one answer more."""
    own = {**KNOBS, "set": "unpaired", "steps": None, "epochs": 2, "micro_tokens": 20}
    recipe = made([*rows(15)[1:], *ROWS[:2]], train={"runs": {"kto/two": own}})
    alone, two = run_.train(recipe.settings, "kto/two", recipe), tmp_path / "two" / "t"
    shutil.copytree(recipe.root / "tables", two / "tables")
    (two.parent / "recipe.json").write_text(json.dumps(recipe.settings.model_dump(mode="json")))
    done = ranks(two.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    mine, theirs = rows_of(alone), rows_of(two / "models" / "kto" / "two")
    assert len(mine) == len(theirs) == 6
    assert any(row["shift"] > 0 for row in mine)
    for one, other in zip(mine, theirs, strict=True):
        known = {k for k, v in one.items() if v is not None}  # of a label that a batch has none of there is no mean
        assert known == {k for k, v in other.items() if v is not None}
        assert all(other[k] == pytest.approx(one[k], abs=1e-5, rel=1e-6) for k in known), (one, other)
    first, second = (dict(load_model(str(p)).named_parameters()) for p in (alone, two / "models" / "kto" / "two"))
    assert all(torch.allclose(first[n], second[n], atol=1e-4) for n in first)


def test_two_processes_without_room_for_logits_give_the_losses_and_the_weights_of_one_that_has(
    recipe_: Results, folder: Path
) -> None:
    """The head's weight is whole within the model's call only, and its gradient must be reduced like any other's."""
    name = "mcpo/room"
    settings = recipe_.settings.model_copy(
        update={"name": "t", "train": TrainSettings(runs={name: {**KNOBS, "negatives": {"count": 2}}})}
    )
    (folder / "recipe.json").write_text(json.dumps(settings.model_dump(mode="json")))
    done = ranks(folder, room=0)
    assert done.returncode == 0, done.stderr[-3000:]
    two = folder / "t" / "models" / name
    kept = two.rename(folder / "kept")
    alone = run_.train(settings, name, Results(settings, STAGES, folder))
    for one, other in zip(rows_of(alone), rows_of(kept), strict=True):
        for key in one.keys() - {"accuracy"}:
            assert other[key] == pytest.approx(one[key], abs=1e-5, rel=1e-6), key
    first, second = (dict(load_model(str(p)).named_parameters()) for p in (alone, kept))
    assert all(torch.allclose(first[n], second[n], atol=1e-4) for n in first)


@pytest.mark.real
def test_two_killed_processes_go_on_to_the_same_end(recipe_: Results, folder: Path) -> None:
    """Bit for bit, moments and running means included; one process alone refuses to take over."""
    run = {**KNOBS, **RUNS["bco/two"], "checkpoint_s": 1e-9, "keep_optimizer": True}
    settings = recipe_.settings.model_copy(update={"name": "t", "train": TrainSettings(runs={"bco/cut": run})})
    (folder / "recipe.json").write_text(json.dumps(settings.model_dump(mode="json")))
    assert ranks(folder, die_at=7).returncode != 0
    assert not (folder / "t" / "models").exists()
    with pytest.raises(ConfigError, match="begun by 2 processes, not 1"):
        run_.train(settings, "bco/cut", Results(settings, STAGES, folder))
    assert ranks(folder).returncode == 0
    cut = (folder / "t" / "models").rename(folder / "cut")
    shutil.rmtree(folder / "t" / "chunks" / "train")
    assert ranks(folder).returncode == 0
    for file in ("metrics.jsonl", "model.safetensors", "optimizer/optimizer.safetensors", "optimizer/state.json"):
        assert (cut / "bco" / "cut" / file).read_bytes() == (folder / "t" / "models" / "bco" / "cut" / file).read_bytes()


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_every_row_is_some_ranks(size: int) -> None:
    shares = [World(rank, size).share(range(5)) for rank in range(size)]
    assert sorted(i for share in shares for i in share) == list(range(5))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_without_shards_tensors_are_themselves() -> None:
    tensor = torch.ones(2)
    assert whole(tensor) is tensor
    assert like(tensor, tensor + 1).tolist() == [2, 2]
    assert checkpoint.optimizer_tensors(torch.optim.AdamW([tensor.requires_grad_()])) == {}
