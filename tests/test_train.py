"""The step against plain rows, the loop's reductions, exact resume, whole checkpoints."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import FAMILIES, VOCABULARY, model

from prefdata.draws import hex_id
from prefdata.errors import ConfigError, DataError, EngineError
from prefdata.models.forward import logprob
from train import checkpoint, first_batch, kernel_scores, loop
from train.batch_statistics import RunningMean
from train.examples import Example, Order, micro_batches
from train.metrics import Metrics
from train.objectives.registry import OBJECTIVES
from train.plan import Plan
from train.settings import TrainingSettings, with_defaults
from train.step import Step


def example(number: int, negatives: int = 3, references: int = 2) -> Example:
    """A prompt with unequal lengths and made-up reference log-probs."""
    rng = np.random.default_rng(number)
    draw = lambda n: rng.integers(3, VOCABULARY, n).tolist()  # noqa: E731
    completions = [draw(int(rng.integers(1, 6))) for _ in range(negatives + 1)]
    return Example(
        hex_id("p", number),
        draw(int(rng.integers(1, 5))),
        completions,
        [hex_id("c", number, i) for i in range(negatives + 1)],
        ["source"] * (negatives + 1),
        [[-2.0 * len(c) - float(rng.random()) - k for c in completions] for k in range(references)],
        [float(rng.random()) for _ in completions],
    )


def run_settings(**keys: object) -> TrainingSettings:
    return TrainingSettings.model_validate({"negatives": {"redraw": "epoch"}, "loss": {"beta": 0.5}, **keys})


def values_of(name: str, lm, batch: list[Example], settings: TrainingSettings | None = None, epoch: int = 0) -> torch.Tensor:
    (values,) = Step(OBJECTIVES[name], settings or run_settings(), 3).values(lm, batch, epoch, Metrics()).values()
    return values


def row_logp(lm, prompt: list[int], completion: list[int]) -> torch.Tensor:
    return logprob.row_logps(lm, [prompt], [completion])[0]


CONTRASTIVE = [n for n, row in OBJECTIVES.items() if row.loss in ("logistic", "softmax")]


@pytest.mark.parametrize("name", CONTRASTIVE)
@pytest.mark.parametrize("family", FAMILIES)
def test_values_and_gradients_equal_plain_rows_and_the_oracle(name: str, family: str) -> None:
    """The whole step in fp64: loss to 1e-9 of the oracle on single rows, gradient to 1e-6 of the rows' gradient."""
    lm, batch = model(family), [example(i, n) for i, n in enumerate((3, 1, 2))]
    values = values_of(name, lm, batch)
    step = Step(OBJECTIVES[name], run_settings(), 3)
    logps = [[row_logp(lm, e.prompt, c) for c in e.completions] for e in batch]
    forward = SimpleNamespace(weighed=lambda first: [np.array([float(x.detach()) for x in row[1:]]) for row in logps])
    picked = step._select(forward, batch, 0, Metrics())
    rows = []
    for e, lp, (places, counts) in zip(batch, logps, picked, strict=True):
        assert counts == [1] * len(places)
        assert len(places) == (len(e.completions) - 1 if name == "dpo_all" else 1)
        pairs = [pair_loss(OBJECTIVES[name].references, lp[0], lp[p], [[r[0], r[p]] for r in e.logps]) for p in places]
        rows.append(torch.stack([value for value, _ in pairs]).mean())
        assert float(rows[-1].detach()) == pytest.approx(sum(exact for _, exact in pairs) / len(pairs), abs=1e-9)
    assert values.detach().tolist() == pytest.approx([float(r.detach()) for r in rows], abs=1e-9)
    parameters = list(lm.parameters())
    mine = torch.autograd.grad(values.sum(), parameters)
    plain = torch.autograd.grad(torch.stack(rows).sum(), parameters)
    gap = sum(((a - b) ** 2).sum() for a, b in zip(mine, plain, strict=True)) ** 0.5
    assert gap / sum((b**2).sum() for b in plain) ** 0.5 < 1e-6


def pair_loss(references: str, w: torch.Tensor, lo: torch.Tensor, refs_K2: list[list[float]]) -> tuple[torch.Tensor, float]:
    """One pair's loss with graph, from the oracle's reference values, and the oracle's own number; beta 0.5."""
    first, second = [r[0] for r in refs_K2], [r[1] for r in refs_K2]
    pi_w, pi_l = float(w.detach()), float(lo.detach())
    alpha = oracle.arwc(first, second)
    eps = oracle.eps_adaptive(first, second, 0.1)
    clipped = list(zip(oracle.ctro(first, eps[0]), oracle.ctro(second, eps[1]), strict=True))
    if references == "primary":
        views, exact = [(1.0, first[0], second[0])], oracle.dpo(pi_w - first[0], pi_l - second[0], 0.5)
    elif references == "virtual":
        tilde = [oracle.virtual([c[i] for c in clipped], alpha) for i in (0, 1)]
        views, exact = [(1.0, *tilde)], oracle.mrpo(pi_w, pi_l, first, second, 0.5)
    else:
        views = [(a, *c) for a, c in zip(alpha, clipped, strict=True)]
        exact = oracle.multi_dpo(pi_w, pi_l, first, second, 0.5)
    parts = [-a * torch.nn.functional.logsigmoid(0.5 * ((w - rw) - (lo - rl))) for a, rw, rl in views]
    return torch.stack(parts).sum(), exact


def test_several_negatives_are_the_oracles_rnce() -> None:
    lm, batch = model(), [example(0, 4)]
    settings = run_settings(negatives={"count": 3, "redraw": "epoch"})
    value = float(values_of("rnce", lm, batch, settings).detach()[0])
    e = batch[0]
    logps = [float(row_logp(lm, e.prompt, c).detach()) for c in e.completions]
    ratios = [p - r for p, r in zip(logps, e.logps[0], strict=True)]
    possible = [
        oracle.rnce(ratios[0], [ratios[i] for i in kept], [1, 1, 1], 0.5)
        for kept in ([1, 2, 3], [1, 2, 4], [1, 3, 4], [2, 3, 4])
    ]
    assert min(abs(value - p) for p in possible) < 1e-9


def test_the_kernel_weighs_with_the_policy_and_its_reference() -> None:
    """Draw shares of many epochs follow softmax(beta (log pi - log ref)) of the oracle's weights: chi-square."""
    lm, e = model(), example(1, 3)
    step, seen, n = Step(OBJECTIVES["mcpo"], run_settings(), 3), np.zeros(3), 1500
    policy = [float(row_logp(lm, e.prompt, c).detach()) for c in e.completions[1:]]
    forward = SimpleNamespace(weighed=lambda first: [np.array(policy)])
    for epoch in range(n):
        seen[step._select(forward, [e], epoch, Metrics())[0][0][0] - 1] += 1
    exact = np.array(oracle.kernel_weights(policy, e.logps[0][1:], 0.5, "ratio"))
    assert ((seen - n * exact) ** 2 / (n * exact)).sum() < 13.82  # 0.999 quantile, 2 degrees of freedom


def test_the_chosen_is_drawn_by_its_weight_where_it_is_included_and_then_gives_no_gradient() -> None:
    lm, e, n = model(), example(1, 2), 1500
    step = Step(OBJECTIVES["mcpo"], run_settings(negatives={"redraw": "epoch", "include_chosen": True}), 3)
    policy = [float(row_logp(lm, e.prompt, c).detach()) for c in e.completions]
    forward, seen, metrics = SimpleNamespace(weighed=lambda first: [np.array(policy[first:])]), np.zeros(3), Metrics()
    for epoch in range(n):
        seen[step._select(forward, [e], epoch, metrics)[0][0][0]] += 1
    exact = np.array(oracle.kernel_weights(policy, e.logps[0], 0.5, "ratio"))
    assert ((seen - n * exact) ** 2 / (n * exact)).sum() < 13.82  # 0.999 quantile, 2 degrees of freedom
    assert metrics.means()["draw_chosen"] == seen[0] / n
    epoch = next(i for i in range(n) if step._select(forward, [e], i, Metrics())[0][0] == [0])
    (values,) = step.values(lm, [e], epoch, Metrics()).values()
    assert float(values.detach()) == pytest.approx(math.log(2))
    gradients = torch.autograd.grad(values.sum(), list(lm.parameters()))
    assert max(float(g.abs().max()) for g in gradients) < 1e-12


def test_the_kernel_in_steps_does_not_depend_on_how_a_batch_is_cut() -> None:
    lm, batch = model(), [example(i, 4) for i in range(4)]
    settings = run_settings(negatives={"redraw": "epoch", "steps": 3, "proposals": 2, "count": 2, "replacement": True})
    whole = values_of("mcpo", lm, batch, settings).detach()
    pieces = torch.cat([values_of("mcpo", lm, [e], settings).detach() for e in batch])
    assert whole.tolist() == pytest.approx(pieces.tolist(), abs=1e-12)
    assert whole.tolist() != pytest.approx(values_of("mcpo", lm, batch).detach().tolist(), abs=1e-6)


def test_a_batch_cut_in_pieces_gives_the_same_values_and_draws() -> None:
    lm, batch = model(), [example(i, 3) for i in range(5)]
    whole = values_of("mcpo", lm, batch).detach()
    parts = torch.cat([values_of("mcpo", lm, [e]).detach() for e in batch])
    assert (whole - parts).abs().max() < 1e-10


def test_draws_change_with_the_epoch_where_they_are_redrawn_and_never_for_dpo() -> None:
    lm, batch = model(), [example(i, 3) for i in range(4)]
    never = run_settings(negatives={"redraw": "never"})
    first, second = (values_of("dpo", lm, batch, never, epoch).detach() for epoch in (0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(*(values_of("rnce", lm, batch, None, epoch).detach() for epoch in (0, 1)))


def test_when_all_are_drawn_no_weighing_pass_is_made() -> None:
    batch = [example(0, 2)]
    forward = SimpleNamespace(weighed=lambda first: pytest.fail("a no-grad pass was made"))
    step = Step(OBJECTIVES["mcpo"], run_settings(negatives={"count": 2, "redraw": "epoch"}), 3)
    assert step._select(forward, batch, 0, Metrics()) == [([1, 2], [1, 1])]


# ---- batches ----


@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 3), st.integers(1, 2))
def test_every_example_comes_once_an_epoch(n: int, batch: int, seed: int, least: int) -> None:
    order = Order(tuple(hex_id(i) for i in range(n)), batch, seed, least)
    for epoch in (0, 1):
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        assert sorted(i for s in steps for i in order.members(s)) == list(range(n))
        assert all(order.epoch(s) == epoch for s in steps)
    sizes = [len(order.members(s)) for s in range(order.steps_per_epoch)]
    assert all(size == batch for size in sizes[:-1])
    assert sizes[-1] < batch + least
    assert batch == 1 or sizes[-1] >= min(least, n)


def test_the_order_is_of_prompts_not_of_rows() -> None:
    ids = [hex_id(i) for i in range(9)]
    one, other = Order(tuple(ids), 4, 0), Order(tuple(reversed(ids)), 4, 0)
    assert [ids[i] for i in one.members(1)] == [list(reversed(ids))[i] for i in other.members(1)]


@given(st.lists(st.integers(0, 60), min_size=1, max_size=12), st.integers(1, 200), st.sampled_from([None, 0, 1, 2]))
def test_micro_batches_hold_everything_within_the_limit(numbers: list[int], limit: int, most: int | None) -> None:
    batch = [example(n) for n in numbers]
    parts = list(micro_batches(batch, limit, most))
    assert sorted(e.prompt_id for p in parts for e in p) == sorted(e.prompt_id for e in batch)
    assert all(len(p) == 1 or sum(e.tokens(most) for e in p) <= limit for p in parts)


# ---- the loop ----


def optimize(name: str, micro_tokens: int, steps: int, lm=None, start: int = 0, optimizer=None, running=None):
    lm = lm or model()
    settings = run_settings(
        micro_tokens=micro_tokens,
        batch_prompts=4,
        steps=8,
        optimizer={"learning_rate": 1e-2, "clip_norm": 0.7, "warmup_steps": 2},
    )
    settings = with_defaults(settings, OBJECTIVES[name])
    data = [example(i, 3) for i in range(10)]
    plan = Plan.of(settings, Order(tuple(e.prompt_id for e in data), 4, 0), {"step": 0})
    optimizer = optimizer or loop.make_optimizer(lm, settings)
    step, running = Step(OBJECTIVES[name], settings, 0, model(), 1024), running or RunningMean()
    return lm, optimizer, [loop.one_step(lm, optimizer, step, data, plan, s, running) for s in range(start, steps)]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_accumulation_equals_one_big_batch(name: str) -> None:
    """Gradients' sum over micro-batches, the last partial batch included: parameters to 1e-6 of the update in fp64."""
    big, _, rows = optimize(name, 10_000, 4)
    small, _, pieces = optimize(name, 1, 4)
    for a, b, c in zip(big.parameters(), small.parameters(), model().parameters(), strict=True):
        assert (a - b).abs().max() <= 1e-6 * float((a - c).detach().abs().max()) + 1e-9
    assert [r["loss"] for r in rows] == pytest.approx([r["loss"] for r in pieces], abs=1e-9)
    assert [r["grad_norm"] for r in rows] == pytest.approx([r["grad_norm"] for r in pieces], rel=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_training_lowers_the_loss(name: str) -> None:
    _, _, rows = optimize(name, 10_000, 8)
    assert rows[-1]["loss"] < rows[0]["loss"]


def rates(first: int = 0, **optimizer: object) -> list[float]:
    plan = Plan.of(run_settings(steps=6, optimizer={"learning_rate": 1.0, **optimizer}), Order(("a",), 1, 0), {"step": first})
    return [plan.learning_rate(s) for s in range(first, plan.last)]


def test_schedules() -> None:
    assert rates(warmup_steps=2) == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert rates(warmup_share=0.3) == rates(warmup_steps=2)
    assert rates(schedule="cosine")[3] == pytest.approx(0.5)
    assert rates(schedule="constant") == [1.0] * 6


def test_a_run_that_continues_goes_on_in_the_schedule() -> None:
    """12 steps in all, of which the first 6 were another run's, of other data; its own data begins a new order."""
    assert rates(first=6) == pytest.approx([0.5, 5 / 12, 4 / 12, 3 / 12, 2 / 12, 1 / 12])
    plan = Plan.of(run_settings(steps=6), Order(("a", "b"), 1, 0), {"step": 6})
    assert [plan.epoch(s) for s in range(6, 12)] == [0, 0, 1, 1, 2, 2]
    assert sorted(i for s in (6, 7) for i in plan.members(s)) == [0, 1]


def test_a_loss_that_is_not_finite_stops_before_the_step() -> None:
    lm = model()
    with torch.no_grad():
        next(lm.parameters()).fill_(math.nan)
    before = [p.clone() for p in lm.parameters()]
    with pytest.raises(EngineError, match="the loss is nan"):
        optimize("dpo", 10_000, 1, lm)
    assert all(torch.equal(a, b) or a.isnan().all() for a, b in zip(before, lm.parameters(), strict=True))


def of(name: str, seed: int = 0) -> checkpoint.Identity:
    """The identity of a run; another seed changes its whole, not its base."""
    return checkpoint.Identity(f"{name}{seed}", f"{name}'s base", seed)


@pytest.mark.parametrize("name", ["sft", "dpo", "mcpo", "mrpo", "bco", "kto"])
@pytest.mark.parametrize("killed_at", [1, 3, 6])
def test_resume_is_bit_equal(tmp_path: Path, name: str, killed_at: int) -> None:
    whole, _, rows = optimize(name, 60, 8)
    running = RunningMean()
    lm, optimizer, first = optimize(name, 60, killed_at, running=running)
    kept = {**of("me").state(), "rows": first, "running": [running.total, running.count]}
    checkpoint.save(tmp_path, killed_at, lm, optimizer, kept)
    fresh = model()
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.zero_()
    again = loop.make_optimizer(fresh, run_settings())
    state = checkpoint.resume(tmp_path, of("me"), fresh, again)
    assert state is not None
    assert state["step"] == killed_at
    _, _, rest = optimize(name, 60, 8, fresh, killed_at, again, RunningMean(*state["running"]))
    assert [r["loss"] for r in state["rows"] + rest] == [r["loss"] for r in rows]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), fresh.parameters(), strict=True))


def test_only_whole_checkpoints_of_this_run_are_loaded(tmp_path: Path) -> None:
    lm, optimizer, _ = optimize("dpo", 10_000, 2)
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, lm, optimizer, {**of("me").state(), "rows": []})
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == ["step-00000002", "step-00000003"]
    newest = tmp_path / "step-00000003" / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:100])
    (tmp_path / "step-00000009").mkdir()  # killed before its state was written
    state = checkpoint.resume(tmp_path, of("me"), lm, optimizer)
    assert state is not None
    assert state["step"] == 2
    assert checkpoint.resume(tmp_path, of("another"), lm, optimizer) is None
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, optimizer, _ = optimize("dpo", 10_000, 1)
    checkpoint.save(tmp_path, 1, lm, optimizer, {**of("me").state(), "rows": []})
    monkeypatch.setattr(checkpoint.os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(DataError, match="cannot write a checkpoint: No space left"):
        checkpoint.save(tmp_path, 2, lm, optimizer, {**of("me").state(), "rows": []})
    assert checkpoint.resume(tmp_path, of("me"), lm, optimizer)["step"] == 1


def test_the_start_up_check_stops_a_model_that_loses_its_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's gradient checkpointing in train mode would lose the prompts' gradient; a wrong prefix is seen too."""
    data = [example(i, 3) for i in range(4)]
    lm = model(dtype=torch.float32)
    first_batch.check(lm, data, 4, 10_000)
    lm.gradient_checkpointing_enable()
    lm.train()
    with pytest.raises((EngineError, RuntimeError)):
        first_batch.check(lm, data, 4, 10_000)
    whole = logprob.Prefixes
    emptied = lambda layers, lengths: whole({i: (0 * k, v) for i, (k, v) in layers.items()}, lengths)  # noqa: E731
    monkeypatch.setattr(logprob, "Prefixes", emptied)
    with pytest.raises(EngineError, match="differ from plain rows"):
        first_batch.check(model(dtype=torch.float32), data, 4, 10_000)


def test_a_run_says_how_its_rows_are_run(capsys: pytest.CaptureFixture[str]) -> None:
    data = [example(i, 3) for i in range(6)]
    first_batch.check(model(dtype=torch.float32), data, 6, 10_000)
    once, alone = sum(e.tokens() for e in data), sum(len(e.prompt) + len(c) for e in data for c in e.completions)
    said = capsys.readouterr().err
    assert f"prompts run once, packed without padding: {once} tokens a batch, not {alone}; of 4 prompts" in said
    first_batch.check(model(dtype=torch.float32), [example(i, 0) for i in range(3)], 3, 10_000)
    assert "each completion runs with its prompt, packed" in capsys.readouterr().err
    first_batch.check(model("mistral", torch.float32, sliding_window=2), data, 6, 10_000)
    assert "cannot share a prefix; rows are padded" in capsys.readouterr().err


def test_metrics_do_not_depend_on_how_a_batch_is_cut() -> None:
    lm, batch = model(), [example(i, 1 if i == 2 else 3) for i in range(4)]
    step, whole, parts = Step(OBJECTIVES["mcpo"], run_settings(), 3), Metrics(), Metrics()
    step.values(lm, batch, 0, whole)
    for e in batch:
        step.values(lm, [e], 0, parts)
    assert whole.means() == pytest.approx(parts.means())
    means = whole.means()
    assert 1 <= means["ess"] <= 3
    assert sum(means[f"draw_{o}"] for o in ("source", "generated", "noise")) == 1
    assert json.dumps(means)


def test_a_count_of_zero_is_not_a_number() -> None:
    metrics = Metrics()
    metrics.add("accuracy", 0.0, 0.0)
    assert metrics.means() == {"accuracy": None}


@pytest.mark.parametrize(("name", "per"), [("dpo", "prompt"), ("sft", "token")])
def test_the_loss_is_the_mean_over_the_whole_batch(name: str, per: str) -> None:
    """The last batch of the epoch has two examples of four: it is divided by its own count."""
    _, _, rows = optimize(name, 60, 3)
    lm, _, _ = optimize(name, 60, 2)
    data = [example(i, 3) for i in range(10)]
    members = Order(tuple(e.prompt_id for e in data), 4, 0).members(2)
    batch = [data[i] for i in members]
    assert len(batch) == 2
    terms = Step(OBJECTIVES[name], run_settings(), 0).values(lm, batch, 0, Metrics())
    count = {"prompt": 2, "token": sum(len(e.completions[0]) for e in batch)}[per]
    assert list(terms) == [per]
    assert rows[2]["loss"] == pytest.approx(float(terms[per].detach().sum()) / count, abs=1e-9)


def test_margin_and_accuracy_are_under_the_primary_reference() -> None:
    lm, e, metrics = model(), example(1, 1), Metrics()
    Step(OBJECTIVES["mrpo"], run_settings(), 3).values(lm, [e], 0, metrics)
    w, lo = (float(row_logp(lm, e.prompt, c).detach()) for c in e.completions)
    margin = 0.5 * ((w - e.logps[0][0]) - (lo - e.logps[0][1]))
    assert metrics.means()["margin"] == pytest.approx(margin, abs=1e-9)
    assert metrics.means()["accuracy"] == float(margin > 0)


def test_another_seed_is_a_mistake_and_costs_no_checkpoint(tmp_path: Path) -> None:
    lm, optimizer, _ = optimize("dpo", 10_000, 2)
    checkpoint.save(tmp_path, 2, lm, optimizer, {**of("me", 3).state(), "rows": []})
    with pytest.raises(ConfigError, match="begun with the seed 3, not 4; take the old seed back, or remove"):
        checkpoint.resume(tmp_path, of("me", 4), lm, optimizer)
    assert checkpoint.resume(tmp_path, of("me", 3), lm, optimizer)["step"] == 2
    assert checkpoint.resume(tmp_path, of("another", 4), lm, optimizer) is None


def test_a_checkpoint_of_another_run_never_outlives_ours(tmp_path: Path) -> None:
    lm, optimizer, _ = optimize("dpo", 10_000, 2)
    for step in (100, 140):
        checkpoint.save(tmp_path, step, lm, optimizer, {**of("old").state(), "rows": []})
    (tmp_path / ".step-00000001.77.tmp").mkdir()
    assert checkpoint.resume(tmp_path, of("new"), lm, optimizer) is None
    checkpoint.save(tmp_path, 10, lm, optimizer, {**of("new").state(), "rows": []})
    assert checkpoint.resume(tmp_path, of("new"), lm, optimizer)["step"] == 10
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000010"]


def test_weights_that_are_no_numbers_name_the_prompt() -> None:
    e = example(0, 3)
    forward = SimpleNamespace(weighed=lambda first: [np.full(3, np.nan)])
    with pytest.raises(EngineError, match=f"prompt {e.prompt_id}"):
        Step(OBJECTIVES["mcpo"], run_settings(), 3)._select(forward, [e], 0, Metrics())


def test_a_kernel_without_any_reference_has_weights_too() -> None:
    e = example(0, 3, references=0)
    settings = run_settings(negatives={"weight": "policy"})
    assert kernel_scores.scores(e, np.array([-1.0, -2.0, -3.0]), 1, "primary", settings).tolist() == [-0.5, -1.0, -1.5]


def test_repeated_draws_count_as_often_as_they_were_drawn() -> None:
    metrics, e = Metrics(), example(0, 2)
    Step(OBJECTIVES["mcpo"], run_settings(), 3)._observe_draw(e, [1, 2], [3, 1], None, metrics)
    lengths = [len(c) for c in e.completions[1:]]
    shortest = sum(n for n, length in zip((3, 1), lengths, strict=True) if length == min(lengths))
    assert metrics.sums["draw_shortest"] == (shortest, 4)
    assert metrics.sums["draw_source"] == (4, 4)
