"""Weights of references from the pairs of earlier steps: by hand, by exact probabilities, never of the example's own label."""

import json
from dataclasses import replace
from math import comb
from pathlib import Path

import pytest
import torch
from test_runs import dies_at, prepared, rows_of, with_runs
from test_train import example, run_settings

from prefdata.recipe.results import Results
from train import loop
from train import run as run_
from train.examples import Example, Order
from train.objectives.negatives import NEGATIVES, Draw
from train.objectives.reference_weights import ONLINE_WEIGHTS, sliding_window, thompson
from train.objectives.registry import OBJECTIVES
from train.online_weights import OnlineWeights
from train.plan import Plan
from train.settings import TrainingSettings
from train.step import Step

__all__ = ["prepared"]
DATA = [example(i, 3) for i in range(7)]


def test_the_window_is_the_mean_gap_by_hand() -> None:
    """Gaps 8 and 4 under the first reference, 1 and 3 under the second."""
    chosen, rejected = torch.tensor([[-1.0, -5.0], [-2.0, -1.0]]), torch.tensor([[-9.0, -1.0], [-3.0, -4.0]])
    assert sliding_window(chosen, rejected, (0, 0)).tolist() == pytest.approx([12 / 16, 4 / 16])
    nothing = torch.zeros(3, 0, dtype=torch.float64)
    assert sliding_window(nothing, nothing, (0, 0)).tolist() == pytest.approx([1 / 3] * 3)


def beats(right: int, other: int, seen: int) -> float:
    """P(X > Y) of X ~ Beta(1 + right, 1 + seen - right) and Y ~ Beta(1 + other, 1 + seen - other): X > Y where of the 2 (seen
    + 1) uniforms that X and Y are order statistics of, more than other + 1 of Y's lie below X."""
    n = seen + 1
    ways = sum(comb(right + y, y) * comb(2 * n - 1 - right - y, n - y) for y in range(other + 1, n + 1))
    return ways / comb(2 * n, n)


@pytest.mark.parametrize(("right", "other", "seen"), [(0, 0, 0), (3, 1, 4), (2, 2, 4), (5, 4, 5)])
def test_thompson_takes_a_reference_as_often_as_it_is_likely_the_best(right: int, other: int, seen: int) -> None:
    of = lambda n: torch.tensor([1.0] * n + [-1.0] * (seen - n), dtype=torch.float64)  # noqa: E731
    chosen, steps = torch.stack([of(right), of(other)]), 2000
    drawn = [thompson(chosen, torch.zeros_like(chosen), (0, step)).tolist() for step in range(steps)]
    assert all(sorted(d) == [0.0, 1.0] for d in drawn)
    exact = beats(right, other, seen)
    assert abs(sum(d[0] for d in drawn) / steps - exact) < 4 * (exact * (1 - exact) / steps) ** 0.5
    assert [d[0] for d in drawn] != [thompson(chosen, torch.zeros_like(chosen), (1, s))[0] for s in range(steps)], "the seed"


def test_a_tie_is_not_being_right() -> None:
    """Of 200 pairs one reference is right in half, the other says the same of both answers."""
    chosen = torch.tensor([[1.0, -1.0] * 100, [0.0] * 200], dtype=torch.float64)
    assert all(thompson(chosen, torch.zeros_like(chosen), (0, step))[0] == 1 for step in range(50))


def plan_of(data: list[Example], batch: int, **keys: object) -> Plan:
    settings = run_settings(batch_prompts=batch, epochs=3, **keys)
    return Plan.of(settings, Order(tuple(e.prompt_id for e in data), batch, 0), {"step": 0})


def test_earlier_examples_come_once_the_latest_first_without_the_steps_own() -> None:
    plan = plan_of(DATA, 2)
    assert list(plan.earlier(0)) == []
    assert list(plan.earlier(1)) == plan.members(0)[::-1]
    assert list(plan.earlier(2)) == plan.members(1)[::-1] + plan.members(0)[::-1]
    for step in range(4, plan.last):
        found = list(plan.earlier(step))
        assert sorted([*found, *plan.members(step)]) == list(range(7)), "every other example has been seen"
        assert found[0] == next(
            i for s in range(step - 1, -1, -1) for i in plan.members(s)[::-1] if i not in plan.members(step)
        )


def test_a_run_that_continues_has_what_the_first_one_saw_before_it() -> None:
    settings, order = run_settings(batch_prompts=2, steps=2), Order(tuple(e.prompt_id for e in DATA), 2, 0)
    first = Plan.of(settings, order, {"step": 0})
    second = Plan.of(settings, order, {"step": 2, **first.state()})
    assert list(second.earlier(2)) == first.members(1)[::-1] + first.members(0)[::-1]


def alpha(data: list[Example], step: int, settings: TrainingSettings, seed: int = 3) -> list[float]:
    objective = OBJECTIVES["mrpo"]
    made = OnlineWeights.of(data, settings, seed).at(Step(objective, settings, seed), step, plan_of(data, 2).earlier(step))
    assert made.settings.references.alpha is not None
    return made.settings.references.alpha


def of(weights: str, **keys: object) -> TrainingSettings:
    return run_settings(references={"weights": weights, **keys})


def swapped(e: Example) -> Example:
    """With the other answer of its pair preferred."""
    place = NEGATIVES["fixed"].select(None, e.candidate_ids[1:], Draw(None, 0))[0][0] + 1
    return replace(e, logps=[[-r[place] * 9, *r[1:place], r[0] * 9, *r[place + 1 :]] for r in e.logps])


@pytest.mark.parametrize("weights", ONLINE_WEIGHTS)
def test_no_label_is_in_its_own_weight_and_earlier_ones_are(weights: str) -> None:
    plan = plan_of(DATA, 2)
    for step in range(plan.last):
        own = plan.members(step)
        other = [swapped(e) if i in own else e for i, e in enumerate(DATA)]
        assert alpha(other, step, of(weights)) == alpha(DATA, step, of(weights)), step
    every = [swapped(e) for e in DATA]
    assert any(alpha(every, step, of(weights)) != alpha(DATA, step, of(weights)) for step in range(plan.last))


def test_the_window_holds_the_pairs_seen_last() -> None:
    step, plan = 3, plan_of(DATA, 2)
    last = list(plan.earlier(step))[:2]
    found = alpha(DATA, step, of("sliding_window", window=2))
    gaps = [0.0, 0.0]
    for e in (DATA[i] for i in last):
        place = NEGATIVES["fixed"].select(None, e.candidate_ids[1:], Draw(None, 0))[0][0] + 1
        gaps = [g + abs(row[0] - row[place]) for g, row in zip(gaps, e.logps, strict=True)]
    assert found == pytest.approx([g / sum(gaps) for g in gaps])
    assert alpha(DATA, 0, of("sliding_window")) == [0.5, 0.5]


@pytest.mark.parametrize("weights", ONLINE_WEIGHTS)
def test_a_run_that_stops_weighs_as_an_unbroken_one(prepared: Results, monkeypatch: pytest.MonkeyPatch, weights: str) -> None:
    run = {"steps": 6, "batch_prompts": 5, "checkpoint_s": 1e-9, "references": {"weights": weights}}
    run["evaluation"] = {"every": 2, "prompts": 3}
    settings = with_runs(prepared, {"mrpo/whole": run, "mrpo/cut": run})
    evaluated: list[list[float]] = []
    real = loop.evaluate
    monkeypatch.setattr(loop, "evaluate", lambda *a: evaluated.append(a[1].settings.references.alpha) or real(*a))
    whole = rows_of(run_.train(settings, "mrpo/whole"))
    dies_at(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        run_.train(settings, "mrpo/cut")
    monkeypatch.undo()
    folder: Path = run_.train(settings, "mrpo/cut")
    assert rows_of(folder) == whole
    assert all(r["alpha_0"] + r["alpha_1"] == pytest.approx(1) for r in whole)
    assert len({r["alpha_0"] for r in whole}) > 1
    assert evaluated[0] == evaluated[1], "evaluations take the same weights"
    assert json.loads((folder / "train.json").read_text())["settings"]["references"]["alpha"] is None
