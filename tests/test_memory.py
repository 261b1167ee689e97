"""The count of a step's memory: over tensors without memory it is that over real ones, and the allocator's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from allocated import peak_bytes
from models import config

from prefdata.models.forward import norms, rotary
from prefdata.recipe.settings.whole import Settings
from train import fits, loop, memory
from train.memory import Held, Peak, Rows, counting, peak, sizes_of_a_gpu
from train.objectives.registry import OBJECTIVES
from train.processes import SINGLE
from train.settings import TrainingSettings, with_defaults
from train.step import Step

ROWS = Rows(prompt=6, completion=20, candidates=4)


@pytest.fixture(autouse=True)
def nothing_tried_yet() -> None:
    """Norms and rotations are tried once a process: not before these tests."""
    norms._is_norm.cache_clear()
    rotary._halves.cache_clear()


def settings_of(objective: str, **keys: Any) -> TrainingSettings:
    return with_defaults(TrainingSettings.model_validate({"micro_tokens": 200, **keys}), OBJECTIVES[objective])


def on_real_tensors(objective: str, settings: TrainingSettings, rows: Rows = ROWS) -> Peak:
    model, held = memory._made(config("llama", vocab_size=3001), settings), Held()
    for weight in model.parameters():
        held.see(weight)
    with sizes_of_a_gpu(), counting(held):
        return memory._steps(model, Step(OBJECTIVES[objective], settings, 0), rows, SINGLE, held)


@pytest.mark.parametrize(
    ("objective", "keys"),
    [
        ("sft", {}),
        ("dpo", {"checkpoint_activations": True}),
        ("mcpo", {}),
        ("mcpo", {"precision": "bfloat16"}),
        ("dpo", {"lora": {"rank": 2}}),
    ],
)
def test_tensors_without_memory_count_like_real_ones(objective: str, keys: dict[str, Any]) -> None:
    settings = settings_of(objective, **keys)
    ours = peak(config("llama", vocab_size=3001), OBJECTIVES[objective], settings, ROWS, 1)
    real = on_real_tensors(objective, settings)
    assert ours.most == pytest.approx(real.most, rel=0.001)
    assert (ours.when, ours.between) == (real.when, real.between)


def test_the_allocator_counts_the_same() -> None:
    """Within what operators take for themselves."""
    settings = settings_of("dpo")
    ours = peak(config("llama", vocab_size=3001), OBJECTIVES["dpo"], settings, ROWS, 1)
    assert peak_bytes(lambda: on_real_tensors("dpo", settings)) == pytest.approx(ours.most, rel=0.1)


@pytest.mark.parametrize(("ranks", "tied"), [(1, False), (4, False), (1, True), (4, True)])
def test_weights_and_moments_are_a_ranks_share(ranks: int, tied: bool) -> None:
    made = config("llama", vocab_size=3000, tie_word_embeddings=tied)
    parameters = sum(p.numel() for p in memory._made(made, settings_of("dpo")).parameters())
    found = peak(made, OBJECTIVES["dpo"], settings_of("dpo"), ROWS, ranks)
    assert found.between == pytest.approx(12 * parameters / ranks, rel=0.02)  # fp32: a weight and two moments
    assert found.most > 4 * parameters / ranks + found.between


def test_ranks_hold_a_few_layers_beside_their_share() -> None:
    """While a step runs: the layer at hand and the next one, their gradients on the way, and what lies outside of layers. A weight
    that prompts and completions both use has one gradient at a time, not one for each layer."""
    made = config("llama", num_hidden_layers=24, hidden_size=128, intermediate_size=512)
    weights = memory._made(made, settings_of("dpo"))
    layer = 4 * sum(p.numel() for p in weights.model.layers[0].parameters())
    outside = 4 * sum(p.numel() for p in weights.parameters()) - 24 * layer
    found = peak(made, OBJECTIVES["dpo"], settings_of("dpo", micro_tokens=30, checkpoint_activations=True), ROWS, 8)
    gradients = found.between / 3  # of a share: a weight and two moments lie between steps
    assert found.most - found.between - gradients < 8 * layer + 4 * outside


def test_more_rows_hold_more_and_checkpoints_hold_less() -> None:
    made, row = config("llama", vocab_size=500), OBJECTIVES["dpo"]
    few, many = (peak(made, row, settings_of("dpo", micro_tokens=n), ROWS, 1).most for n in (50, 500))
    again = peak(made, row, settings_of("dpo", micro_tokens=500, checkpoint_activations=True), ROWS, 1).most
    assert few < again < many


def test_storages_that_are_emptied_and_filled_are_counted_as_they_are() -> None:
    held = Held()
    with counting(held):
        held.part = "first"
        tensor = torch.zeros(100)
        view = tensor[:50]
        assert held.held == 400
        held.part = "second"
        tensor.untyped_storage().resize_(0)
        assert held.held == 0
        tensor.untyped_storage().resize_(800)
        assert (held.held, held.most, held.when) == (800, 800, "second")
        del tensor
        assert held.held == 800
        del view
        assert held.held == 0


# ---- in words ----


def recipe(tmp_path: Path, runs: dict[str, Any]) -> Settings:
    config("llama", vocab_size=3001, architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path / "model")
    return Settings.model_validate(
        {
            "name": "t",
            "sources": {"sources": [{"name": "s", "path": "s.jsonl", "license": "mit"}]},
            "score": {"references": [{"name": "r", "model": str(tmp_path / "model"), "template": "plain"}]},
            "train": {"runs": {name: {"steps": 1, "micro_tokens": 100, **run} for name, run in runs.items()}},
        }
    )


def test_each_run_is_told_and_runs_alike_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []

    def count(*args: Any) -> Peak:
        counted.append(args)
        return peak(*args)

    monkeypatch.setattr(fits, "peak", count)
    runs = {"dpo/a": {}, "dpo/b": {"optimizer": {"learning_rate": 1e-3}}, "mcpo/c": {"checkpoint_activations": True}}
    lines = list(fits.told(recipe(tmp_path, runs), ROWS, fits.Machine(4, 80)))
    assert [line.partition(":")[0] for line in lines] == list(runs)
    assert all("GiB at most on each of 4" in line and "too much" not in line for line in lines)
    assert len(counted) == 2


def test_a_run_that_does_not_fit_says_what_it_would_say(tmp_path: Path) -> None:
    (line,) = fits.told(recipe(tmp_path, {"dpo/a": {}}), ROWS, fits.Machine(1, 0.001))
    assert "too much for 0.001 GiB" in line
    error = loop._explained(RuntimeError("CUDA out of memory"), 0, 100)
    assert line.partition('"')[2].partition('"')[0] in str(error)


def test_what_the_config_says_is_read_from_where_the_run_starts(tmp_path: Path) -> None:
    made = recipe(tmp_path, {"dpo/a": {"init": {"vocab_size": 300}, "model": None}, "mcpo/b": {"model": "run:dpo/a"}})
    assert [line.partition(": ")[2] for line in fits.told(made, ROWS, fits.Machine(1, 80))] == [
        "a fresh model, not counted"
    ] * 2
