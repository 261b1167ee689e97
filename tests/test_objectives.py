"""Every loss of a pair and of a list against the oracle, the numbers of a whole batch, and what a set must carry."""

import math
from dataclasses import replace

import oracle_objectives as oracle
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import model
from test_losses import close, compared, value
from test_train import example, optimize, row_logp, run_settings
from typer.testing import CliRunner

from prefdata.errors import ConfigError, DataError
from prefdata.recipe.read import validate_recipe
from prefdata.workflow.cli import app
from train import examples
from train.batch_statistics import RunningMean, mean_log_ratio, mismatched
from train.metrics import Metrics
from train.objectives.losses import LOSSES
from train.objectives.negatives import NEGATIVES, Draw
from train.objectives.reference_weights import VALIDATION_WEIGHTS, alpha
from train.objectives.registry import OBJECTIVES
from train.resolve import resolve
from train.settings import with_defaults
from train.step import Step

NATS = st.floats(-1000, -0.5)
BETA = st.floats(0.01, 10)
TOKENS = 3.0, 1.0
"""Of the chosen and of a rejected answer in `compared`."""


@given(NATS, NATS, NATS, NATS, BETA, st.floats(1e-6, 0.4))
def test_pair_losses_are_the_oracles(w: float, lo: float, rw: float, rl: float, beta: float, e: float) -> None:
    rows, (u, v) = compared(w, [lo], [rw], [[rl]]), (w - rw, lo - rl)
    assert close(value("reverse_kl", rows, beta=beta, label_smoothing=e), oracle.exo(u, v, beta, e))
    assert close(value("apo_zero", rows, beta=beta), oracle.apo_zero(u, v, beta))
    assert close(value("apo_down", rows, beta=beta), oracle.apo_down(u, v, beta))
    assert close(value("sppo", rows, beta=beta), oracle.sppo(u, v, beta))
    assert close(value("sppo_soft", rows, beta=beta), oracle.sppo_soft(u, v, 0.9, 0.4, beta))
    assert close(value("nca", rows, beta=beta), oracle.nca(u, v, beta))
    assert close(value("squared", rows, beta=beta), oracle.ipo(u, v, *TOKENS, beta))


@given(NATS, NATS, BETA, st.floats(0, 5), st.floats(0, 0.4))
def test_losses_without_a_reference_are_the_oracles(w: float, lo: float, beta: float, margin: float, e: float) -> None:
    rows = compared(w, [lo], [-7.0], [[-9.0]], "none")
    assert close(value("length_averaged", rows, beta=beta, margin=margin), oracle.simpo(w, lo, *TOKENS, beta, margin))
    assert close(value("logistic_nll", rows, beta=beta, label_smoothing=e), oracle.cpo(w, lo, beta, e))


@given(NATS, NATS, NATS, NATS, BETA, st.floats(-50, 50), st.floats(0, 2), st.floats(0, 2))
def test_losses_with_a_batchs_number_are_the_oracles(
    w: float, lo: float, rw: float, rl: float, beta: float, shift: float, wanted: float, unwanted: float
) -> None:
    rows = replace(compared(w, [lo], [rw], [[rl]]), shift=shift)
    u, v = w - rw, lo - rl
    assert close(value("bco", rows, beta=beta), oracle.bco(u, v, beta, shift))
    ours = value("kto", rows, beta=beta, desirable_weight=wanted, undesirable_weight=unwanted)
    assert close(ours, oracle.kto(u, v, beta, shift, wanted, unwanted))


@given(NATS, st.lists(st.tuples(NATS, NATS), min_size=1, max_size=3), NATS, BETA, st.floats(0.05, 5))
def test_losses_over_a_list_are_the_oracles(
    w: float, negatives: list[tuple[float, float]], rw: float, beta: float, temperature: float
) -> None:
    rows = compared(w, [x for x, _ in negatives], [rw], [[r for _, r in negatives]])
    ratios, scores = [w - rw, *(x - r for x, r in negatives)], [0.9, 0.4, 0.2, 0.1][: len(negatives) + 1]
    for name in ("infonca", "nca_kway"):
        exact = getattr(oracle, name)(ratios, scores, beta, temperature)
        assert close(value(name, rows, beta=beta, temperature=temperature), exact)


def test_exo_at_the_start_and_infonca_at_a_sharp_temperature() -> None:
    """2.761 at d = 0 (the paper's e = 1e-3); all of p on the chosen is RNCE."""
    assert value("reverse_kl", compared(-5.0, [-6.0], [-5.0], [[-6.0]]), label_smoothing=1e-3) == pytest.approx(2.761, abs=1e-3)
    rows = compared(-5.0, [-6.0, -7.0], [-5.5], [[-6.1, -6.0]])
    assert value("infonca", rows, temperature=1e-3) == pytest.approx(value("softmax", rows), abs=1e-12)


def test_nll_is_per_token_of_the_whole_batch() -> None:
    """rpo's and cpo's term: the sum over prompts of -log pi(w), divided by the batch's chosen tokens, times lambda."""
    lm, data = model(), [example(i, 2) for i in range(3)]
    settings = with_defaults(run_settings(loss={"nll_weight": 0.3}), OBJECTIVES["cpo"])
    terms = Step(OBJECTIVES["cpo"], settings, 3).values(lm, data, 0, Metrics())
    sums = [float(row_logp(lm, e.prompt, e.completions[0]).detach()) for e in data]
    tokens = [len(e.completions[0]) for e in data]
    assert float(terms["token"].detach().sum()) / sum(tokens) == pytest.approx(0.3 * oracle.nll(sums, tokens), abs=1e-9)


def test_simpo_averages_over_each_answers_own_tokens() -> None:
    lm, e = model(), example(2, 1)
    settings = with_defaults(run_settings(), OBJECTIVES["simpo"]).model_copy(update={"loss": run_settings().loss})
    (ours,) = Step(OBJECTIVES["simpo"], settings, 3).values(lm, [e], 0, Metrics()).values()
    w, lo = (float(row_logp(lm, e.prompt, c).detach()) for c in e.completions)
    lengths = [len(c) for c in e.completions]
    assert lengths[0] != lengths[1]
    assert float(ours.detach()) == pytest.approx(oracle.simpo(w, lo, *lengths, 0.5, 0.0), abs=1e-9)


def test_each_candidate_keeps_its_own_label_through_the_step() -> None:
    """Prompts with pools of unequal size, labels that all differ: infonca over everything, sppo_soft over the fixed pair."""
    lm, batch = model(), [example(i, n) for i, n in enumerate((3, 1, 2))]
    infonca, soft = (_values(name, lm, batch) for name in ("infonca", "sppo_soft"))
    for e, listwise, pairwise in zip(batch, infonca, soft, strict=True):
        logps = [float(row_logp(lm, e.prompt, c).detach()) for c in e.completions]
        ratios = [p - r for p, r in zip(logps, e.logps[0], strict=True)]
        assert listwise == pytest.approx(oracle.infonca(ratios, e.labels, 0.5, 1.0), abs=1e-9)
        drawn = NEGATIVES["fixed"].select(None, e.candidate_ids[1:], Draw(None, 0))[0][0] + 1
        exact = oracle.sppo_soft(ratios[0], ratios[drawn], e.labels[0], e.labels[drawn], 0.5)
        assert pairwise == pytest.approx(exact, abs=1e-9)


def _values(name: str, lm, batch) -> list[float]:
    (values,) = Step(OBJECTIVES[name], run_settings(), 3).values(lm, batch, 0, Metrics()).values()
    return values.detach().tolist()


# ---- numbers of a whole batch ----


def test_bcos_delta_is_the_mean_of_all_rewards_so_far() -> None:
    lm, running = model(), RunningMean()
    groups = [[example(i, 1) for i in range(3)], [example(i, 1) for i in range(3, 5)]]
    step = Step(OBJECTIVES["bco"], run_settings(), 3)
    deltas = [step.shift(lm, batch, 0, running) for batch in groups]
    ratios = [[_ratios(lm, e) for e in batch] for batch in groups]
    assert deltas == pytest.approx(oracle.running_delta(ratios, 0.5), abs=1e-9)


def _ratios(lm, e) -> tuple[float, float]:
    w, lo = (float(row_logp(lm, e.prompt, c).detach()) for c in e.completions)
    return w - e.logps[0][0], lo - e.logps[0][1]


def test_ktos_z_pairs_each_prompt_with_the_next_ones_answers() -> None:
    """By hand, over single rows: both answers of prompt i + 1 after prompt i; the reference is a model of its own."""
    lm, reference, batch = model(), model("qwen2"), [example(i, 1) for i in range(3)]
    step = Step(OBJECTIVES["kto"], run_settings(), 3, reference)
    rows = [(batch[i].prompt, c) for i in range(3) for c in batch[(i + 1) % 3].completions]
    policy, other = ([float(row_logp(m, p, c).detach()) for p, c in rows] for m in (lm, reference))
    assert mean_log_ratio(policy, other) == pytest.approx(oracle.kto_z(policy, other))
    assert step.shift(lm, batch, 0, RunningMean()) == pytest.approx(oracle.kto_z(policy, other), abs=1e-9)
    back = Step(OBJECTIVES["kto"], run_settings(), 3, lm).shift(reference, batch, 0, RunningMean())
    assert back == pytest.approx(oracle.kto_z(other, policy), abs=1e-9)
    assert 0 in (back, oracle.kto_z(policy, other))  # one of the two is below 0, and cut


def test_mismatched_answers_that_do_not_fit_are_left_out() -> None:
    batch = [example(i, 1) for i in range(3)]
    longest = max(len(batch[i].prompt) + len(c) for i in range(3) for c in batch[(i + 1) % 3].completions)
    places = [[1]] * 3
    count = lambda limit: sum(len(e.completions) for e in mismatched(batch, places, limit))  # noqa: E731
    assert count(longest) == 6
    assert count(longest - 1) < 6
    assert mismatched(batch, places, 0) == []
    assert mean_log_ratio([], []) == 0.0


@pytest.mark.parametrize("name", ["bco", "kto"])
def test_the_batchs_number_is_in_the_metrics_and_in_the_loss(name: str) -> None:
    _, _, rows = optimize(name, 60, 3)
    assert all(math.isfinite(r["shift"]) for r in rows)
    rows_of = compared(-5.0, [-6.0], [-5.5], [[-5.0]])
    assert value(name, rows_of) != value(name, replace(rows_of, shift=0.7))


# ---- weights of references from held-out pairs ----


def held_out(*pairs: tuple[tuple[float, float], tuple[float, float]], split: str = "validation") -> pl.DataFrame:
    """Rows of one pair each: (chosen's, rejected's) log-probs, each under the references a and b."""

    def candidate(role: str, logps: tuple[float, float], number: int) -> dict[str, object]:
        both = [{"reference": n, "logp": x} for n, x in zip("ab", logps, strict=True)]
        return {"candidate_id": f"{role}{number}", "role": role, "origin": "source", "logps": both}

    rows = [[candidate("chosen", w, i), candidate("rejected", lo, i)] for i, (w, lo) in enumerate(pairs)]
    return pl.DataFrame({"split": [split] * len(rows), "candidates": rows})


def test_held_out_pairs_weigh_the_references_by_hand() -> None:
    """a is right 3 times of 4 with mean gap 2.5, b is right once with mean gap 7.5."""
    frame = held_out(((-1, -9), (-2, -5)), ((-3, -9), (-5, -1)), ((-1, -5), (-4, -1)), ((-9, -1), (-6, -9)))
    found = {name: alpha(frame, ["a", "b"], ["source"], name) for name in VALIDATION_WEIGHTS}
    gaps = [(1 + 2 + 3 + 3) / 4, (4 + 8 + 4 + 8) / 4]
    assert found["validation_discrimination"] == pytest.approx([g / sum(gaps) for g in gaps])
    right = [3 / 4, 1 / 4]
    assert found["validation_accuracy"] == pytest.approx([r / sum(right) for r in right])
    assert alpha(frame, ["b", "a"], ["source"], "validation_accuracy") == pytest.approx([0.25, 0.75])


def test_references_that_are_never_right_weigh_the_same_and_no_pair_is_an_error() -> None:
    wrong = held_out(((-5, -5), (-1, -1)))
    assert alpha(wrong, ["a", "b"], ["source"], "validation_accuracy") == [0.5, 0.5]
    assert alpha(held_out(((-1, -1), (-1, -1))), ["a", "b"], ["source"], "validation_discrimination") == [0.5, 0.5]
    tied = held_out(((-1, -1), (-1, -2)))  # a cannot tell them apart, which is not being right
    assert alpha(tied, ["a", "b"], ["source"], "validation_accuracy") == [0.0, 1.0]
    with pytest.raises(DataError, match="no pair of split validation"):
        alpha(held_out(((-1, -9), (-2, -5)), split="train"), ["a", "b"], ["source"], "validation_accuracy")


# ---- what a set and a recipe must carry ----


def frame(**keys: object) -> pl.DataFrame:
    """A set of one prompt with two candidates."""
    candidate = {
        "response": "ab",
        "rank": 1,
        "score": 1.0,
        "win_prob": 0.5,
        "origin": "source",
        "finish": "stop",
        "logps": [{"reference": "r", "logp": -3.0, "num_tokens": 3}],
        **keys,
    }
    pair = [{**candidate, "candidate_id": role, "role": role} for role in ("chosen", "rejected")]
    row = {"prompt_id": "p", "prompt": [{"role": "user", "content": "Sba"}], "tools": None, "template_kwargs": None}
    return pl.DataFrame([{**row, "candidates": pair}])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory):
    from prefdata.models.tokens import load_encoder
    from prefdata.sources.toy import tokenizers

    folder = tmp_path_factory.mktemp("t")
    tokenizers.write(folder)
    return load_encoder(str(folder / "small"))


@pytest.mark.parametrize("need", ["score", "win_prob"])
def test_a_set_without_labels_is_refused_by_the_loss_that_needs_them(encoder, need: str) -> None:
    (made,) = examples.examples(frame().to_dicts(), encoder, ["source"], ["r"], need)
    assert made.labels == [{"score": 1.0, "win_prob": 0.5}[need]] * 2
    with pytest.raises(ConfigError, match=f"candidate chosen of prompt p: .*needs the {need} of every candidate"):
        examples.examples(frame(**{need: None}).to_dicts(), encoder, ["source"], ["r"], need)
    assert examples.examples(frame(**{need: None}).to_dicts(), encoder, ["source"], ["r"])[0].labels == []


def test_length_averaged_ratios_need_the_policys_tokenizer(encoder) -> None:
    own = len(encoder.completions(["ab"], ["stop"])[0])
    same = [{"reference": "r", "logp": -3.0, "num_tokens": own}]
    assert examples.examples(frame(logps=same).to_dicts(), encoder, ["source"], ["r"], "same_tokenizer")
    other = [{"reference": "r", "logp": -3.0, "num_tokens": own + 1}]
    with pytest.raises(ConfigError, match=f"r counts {own + 1} tokens and the policy {own}"):
        examples.examples(frame(logps=other).to_dicts(), encoder, ["source"], ["r"], "same_tokenizer")


REFERENCES = {"references": [{"name": "r", "model": "run:sft/policy", "template": "chat", "end": "eos"}]}


def recipe_of(objective: str, **run: object):
    runs = {"sft/policy": {"init": {"tokenizer": "toy:small"}}, "sft/other": {"init": {"tokenizer": "toy:small"}}}
    own = {**runs, f"{objective}/default": run}
    source = {"sources": [{"name": "s", "path": "x.jsonl"}]}
    return validate_recipe({"name": "t", "sources": source, "score": REFERENCES, "train": {"runs": own}}, "f.yaml")


def test_what_an_objective_cannot_do_is_said_before_the_run() -> None:
    for objective, run, message in (
        ("exo", {"loss": {"label_smoothing": 0}}, "infinite at loss.label_smoothing 0"),
        ("kto", {"batch_prompts": 1}, "batch_prompts of 2 at least"),
        ("dpo", {"negatives": {"steps": 2}}, "negatives.steps has no effect: dpo reads loss.beta, loss.label_smoothing, neg"),
        ("mcpo", {"negatives": {"steps": 2, "count": 2}}, "the 2 kernel chains may draw the same candidate"),
        ("dpo", {"references": {"weights": "validation_accuracy"}}, "references.weights has no effect: dpo reads"),
        ("mrpo", {"references": {"weights": "validation_accuracy", "alpha": [1]}}, "either alpha or weights"),
        ("kto", {"model": "run:sft/other"}, "start from the primary reference run:sft/policy"),
    ):
        with pytest.raises(ConfigError, match=message):
            resolve(recipe_of(objective, **run), f"{objective}/default")


def test_held_out_weights_need_the_split_in_the_set() -> None:
    asked = {"references": {"weights": "validation_accuracy"}}
    settings = recipe_of("mrpo", **asked)
    with pytest.raises(ConfigError, match="mrpo combines two references or more, score.references has 1"):
        resolve(settings, "mrpo/default")
    other = settings.score.references[0].model_copy(update={"name": "other", "model": "run:sft/other"})
    score = settings.score.model_copy(update={"references": [*settings.score.references, other]})
    settings = settings.model_copy(update={"score": score})
    assert resolve(settings, "mrpo/default").references.weights == "validation_accuracy"
    without = settings.model_copy(update={"sets": settings.sets.model_copy(update={"splits": ["train"]})})
    with pytest.raises(ConfigError, match="needs split validation in sets.splits"):
        resolve(without, "mrpo/default")


def test_objectives_bring_their_own_defaults_which_a_recipe_overrides() -> None:
    simpo = resolve(recipe_of("simpo_mc"), "simpo_mc/default")
    assert (simpo.loss.beta, simpo.loss.margin, simpo.negatives.weight) == (2.0, 1.0, "policy_per_token")
    own = resolve(recipe_of("simpo_mc", loss={"beta": 0.1}, negatives={"weight": "policy"}), "simpo_mc/default")
    assert (own.loss.beta, own.loss.margin, own.negatives.weight) == (0.1, 1.0, "policy")
    assert resolve(recipe_of("exo"), "exo/default").loss.label_smoothing == 1e-3
    assert resolve(recipe_of("dpo"), "dpo/default").loss.beta == 0.1


def test_every_objective_is_listed_with_formula_needs_and_paper() -> None:
    shown = CliRunner().invoke(app, ["objectives"]).output
    for name, row in OBJECTIVES.items():
        assert f"\n{name}\n" in f"\n{shown}"
        assert row.paper in shown
        assert LOSSES[row.loss].formula in shown
    assert "a score of every candidate" in CliRunner().invoke(app, ["objectives", "infonca"]).output
    assert CliRunner().invoke(app, ["objectives", "dpo2"]).exit_code != 0


def test_gradients_of_every_loss_equal_finite_differences() -> None:
    """Central differences in fp64 of the whole loss by each policy log-prob; h = 1e-5 leaves an error of about 1e-9."""
    for name, row in OBJECTIVES.items():
        rows = replace(compared(-5.0, [-6.0, -4.0], [-5.5, -5.2], [[-6.1, -5.0], [-5.9, -4.5]], row.references), shift=0.3)
        keys = {"beta": 0.7, "label_smoothing": 1e-3}
        rows.chosen_B.requires_grad_(True)
        rows.rejected_BM.requires_grad_(True)
        inputs = [rows.chosen_B, rows.rejected_BM]
        total = sum(t.sum() for t in LOSSES[row.loss].function(rows, _knobs(**keys)).values())
        ours = torch.cat([g.flatten() for g in torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)])
        assert ours.tolist() == pytest.approx(_differences(row.loss, rows, keys), abs=1e-7), name


def _differences(loss: str, rows, keys: dict[str, float]) -> list[float]:
    found, h = [], 1e-5
    for attribute, place in (("chosen_B", (0,)), ("rejected_BM", (0, 0)), ("rejected_BM", (0, 1))):
        ends = []
        for sign in (1, -1):
            moved = getattr(rows, attribute).detach().clone()
            moved[place] += sign * h
            terms = LOSSES[loss].function(replace(rows, **{attribute: moved}), _knobs(**keys))
            ends.append(float(sum(t.sum() for t in terms.values()).detach()))
        found.append((ends[0] - ends[1]) / (2 * h))
    return found


def _knobs(**keys: object):
    from test_losses import knobs

    return knobs(**keys)
