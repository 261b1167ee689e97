"""Draws that belong to the set: the same whatever the run's seed and epoch, and equal where objectives must agree."""

import math
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from models import model
from test_train import example, run_settings

from prefdata.errors import EngineError
from prefdata.models.forward import logprob
from train import kernel_scores, loop
from train.metrics import Metrics
from train.micro_batch import forward_of
from train.objectives.registry import OBJECTIVES
from train.step import Step

BATCH = [example(i, n) for i, n in enumerate((3, 4, 2, 5, 3, 4))]
NOTHING = SimpleNamespace(weighed=lambda first: pytest.fail("a no-grad pass was made"))
WEIGHED = SimpleNamespace(weighed=lambda first: [torch.tensor(e.logps[0][first:]).double().numpy() - 1.0 for e in BATCH])


def step(name: str, seed: int = 3, redraw: str = "never", **negatives: object) -> Step:
    return Step(OBJECTIVES[name], run_settings(negatives={"redraw": redraw, **negatives}), seed)


def drawn(name: str, seed: int, epoch: int, **negatives: object) -> list[tuple[list[int], list[int]]]:
    return step(name, seed, **negatives)._select(WEIGHED, BATCH, epoch, Metrics())


@pytest.mark.parametrize(
    ("name", "negatives"),
    [
        ("dpo", {}),
        ("rnce", {"count": 2}),
        ("mcpo", {}),
        ("mcpo", {"steps": 3, "proposals": 2, "count": 2, "replacement": True}),
        ("mcpo_max", {}),
        ("mcpo_min", {"count": 2}),
    ],
)
def test_what_is_never_redrawn_belongs_to_the_set(name: str, negatives: dict[str, object]) -> None:
    of_the_set = drawn(name, 0, 0, **negatives)
    assert all(drawn(name, seed, epoch, **negatives) == of_the_set for seed in range(5) for epoch in (0, 1, 7))


def test_what_is_redrawn_changes_with_seed_and_epoch() -> None:
    for name in ("rnce", "mcpo"):
        made = [drawn(name, seed, epoch, redraw="epoch") for seed, epoch in ((0, 0), (0, 1), (1, 0))]
        assert made[0] != made[1] != made[2] != made[0]
        assert drawn(name, 0, 0) not in made, "seed 0 is a seed like any other"


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_rnce_of_one_negative_never_redrawn_is_dpo(seed: int) -> None:
    """The same pairs exactly; the losses are the same number written in two ways."""
    assert drawn("rnce", seed, 4) == drawn("dpo", 9, 0)
    lm = model()
    rnce, dpo = (step(n, s).values(lm, BATCH, e, Metrics())["prompt"] for n, s, e in (("rnce", seed, 4), ("dpo", 9, 0)))
    assert rnce.tolist() == pytest.approx(dpo.tolist(), rel=1e-12)


@pytest.mark.parametrize("redraw", ["never", "epoch"])
@pytest.mark.parametrize("keys", [{}, {"count": 2}, {"count": 2, "replacement": True}])
def test_the_kernel_at_beta_0_is_rnce(redraw: str, keys: dict[str, object]) -> None:
    lm = model()
    for epoch in range(3):
        rnce = step("rnce", 3, redraw, **keys).values(lm, BATCH, epoch, Metrics())["prompt"]
        mcpo = step("mcpo", 3, redraw, beta=1e-30, **keys).values(lm, BATCH, epoch, Metrics())["prompt"]
        assert torch.equal(rnce, mcpo)


@pytest.mark.parametrize("redraw", ["never", "epoch"])
def test_samplers_agree_on_a_pool_of_one(redraw: str) -> None:
    lm, batch = model(), [example(i, 1) for i in range(3)]
    softmax = ("rnce", "mcpo", "mcpo_max", "mcpo_min")
    for names in (softmax, ("dpo", "dpo_all", "dpo_noise")):
        found = [step(n, 3, redraw).values(lm, batch, 2, Metrics())["prompt"] for n in names]
        assert all(torch.equal(found[0], f) for f in found[1:])


@pytest.mark.parametrize("name", ["dpo", "rnce", "mcpo"])
def test_runs_of_all_seeds_are_evaluated_on_the_same_draws(name: str) -> None:
    lm = model()
    losses = {loop.evaluate(lm, step(name, seed, "epoch"), BATCH, 0.0)["eval_loss"] for seed in range(4)}
    assert losses == {loop.evaluate(lm, step(name), BATCH, 0.0)["eval_loss"]}


@pytest.mark.parametrize("redraw", ["never", "epoch"])
def test_extremes_at_the_start_are_rnces_draws(redraw: str) -> None:
    """fp32, and log-probs stored by another forward, of plain rows: which one is larger is rounding alone."""
    lm = model().float()
    rows = [logprob.row_logps(lm, [e.prompt] * len(e.completions), e.completions).tolist() for e in BATCH]
    batch = [replace(e, logps=[stored]) for e, stored in zip(BATCH, rows, strict=True)]
    for count, epoch in product((1, 2), (0, 1)):
        picked = []
        for name in ("rnce", "mcpo_max", "mcpo_min"):
            made = step(name, 3, redraw, count=count)
            picked.append(made._select(forward_of(lm, batch), batch, epoch, Metrics()))
        assert picked[0] == picked[1] == picked[2]
        assert any(1 not in places for places, _ in picked[0])


def test_the_tolerance_is_of_the_weight_the_lengths_and_the_precision() -> None:
    """By hand, answers of 4 and 9 tokens, beta 0.5: two scores, each off by what the longer one may be."""
    e = replace(example(0, 2), completions=[[1], [1] * 4, [1] * 9])
    of = lambda **keys: kernel_scores.tolerance(e, 1, run_settings(**keys))  # noqa: E731
    assert of() == pytest.approx(2 * (0.5 * 1e-4 * 3) * 2), "fresh and stored"
    assert of(negatives={"weight": "policy"}) == pytest.approx(2 * (0.5 * 1e-4 * 3)), "fresh alone"
    assert of(negatives={"weight": "policy_per_token"}) == pytest.approx(2 * (0.5 * 1e-4 * 2 / 4)), (
        "the shorter's mean is worse"
    )
    assert of(negatives={"beta": 5.0}) == pytest.approx(10 * of())
    assert of(precision="bfloat16") == pytest.approx(1000 * of())


@pytest.mark.parametrize("name", ["mcpo", "mcpo_max", "mcpo_min"])
def test_a_log_prob_that_is_no_number_names_its_prompt(name: str) -> None:
    bad = replace(BATCH[1], logps=[[-1.0, -2.0, -math.inf, -3.0, -1.0]])
    forward = SimpleNamespace(weighed=lambda first: [np.array([-1.0, -math.inf, -math.inf, -3.0])])
    with pytest.raises(EngineError, match=f"prompt {bad.prompt_id}: .*finite weight"):
        step(name)._select(forward, [bad], 0, Metrics())
