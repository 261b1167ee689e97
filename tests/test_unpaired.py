"""Labelled answers (KTO on unpaired rows): their set, their files, the loss, the step, weights by the counts, runs."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import oracle_objectives as oracle
import polars as pl
import pytest
import torch
import transformers
import yaml
from conftest import nectar, run_stages
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from models import model
from test_losses import knobs
from test_train import example, row_logp, run_settings

import prefdata
from prefdata.draws import hex_id
from prefdata.errors import ConfigError, DataError
from prefdata.output.published_configs import OURS
from prefdata.recipe.results import Results
from prefdata.recipe.units import Part, reference_unit
from prefdata.tables import files
from prefdata.workflow.execute import bring_up
from train import from_file, loop
from train import run as run_
from train.balance import Balance, balanced
from train.batch_statistics import RunningMean, mismatched
from train.examples import Example, Order
from train.metrics import Metrics
from train.objectives.compared import Compared
from train.objectives.losses import LOSSES
from train.objectives.registry import ON_LABELS
from train.plan import Plan
from train.resolve import resolve
from train.settings import LossSettings
from train.step import Step

NATS = st.floats(-1000, -0.5)
KTO = ON_LABELS["kto"]


def said(prompt: str, completion: str, label: bool) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion, "label": label}


ROWS = [
    said("Sa", "ab", True),
    said("Sa", "ba", True),
    said("Sa", "c", False),
    said("Sb", "ab", True),  # good alone
    said("Sc", "c", False),  # bad alone
    said("Sc", "cc", False),
    said("Sd", "abc", True),
    said("Sd", "abc", False),  # contradicts the row before
    said("Sd", "b", False),
    said("Se", "d", True),
    said("Se", "d", True),  # the same again
    said("Sac", "a", True),
    said("Sac", "a", False),  # nothing of this prompt is left
]
"""Eight desirable and undesirable answers that agree: 4 and 4, of six prompts; two contradictions."""
GOOD, BAD = {"ab", "ba", "d"}, {"c", "cc", "b"}


@pytest.fixture
def made(make_run: Callable[..., Results], write_rows: Callable[..., str], lm: Path) -> Callable[..., Results]:
    """made(rows, stage, ..., key=...) -> a recipe with the set `unpaired`, run up to its sets and through the stages."""

    def make(rows: list[dict[str, Any]], *more: str, **keys: Any) -> Results:
        source = {"name": "s", "path": write_rows(rows), "format": "trl_unpaired", "license": "mit"}
        score = {"references": [{"name": "primary", "model": str(lm)}]}
        given = {"sources": {"sources": [source], "max_reject_rate": 1}, "split": {"train": 1, "validation": 0, "test": 0}}
        run = make_run(**{**given, "score": score, "sets": {"unpaired": True}, "noise": {"copies": 0}, **keys})
        run_stages(run, "sources", "split", "prune", "rank", "noise", "score", "sets", *more)
        return run

    return make


def table(run: Results, name: str, stage: str, unit: str = "all") -> pl.DataFrame:
    return pl.concat([files.read_table(run.table(Part(name, stage, unit), s), name) for s in run.shards])


# ---- the set ----


def test_answers_keep_their_labels_and_need_no_partner(made: Callable[..., Results]) -> None:
    run = made(ROWS, num_shards=2)
    rows = {r["prompt"][0]["content"]: r["candidates"] for r in table(run, "sets", "sets", "unpaired").to_dicts()}
    found = {p: [(c["role"], c["response"], c["copies"]) for c in candidates] for p, candidates in rows.items()}
    assert found.pop("Sa")[2] == ("rejected", "c", 1)
    assert {p: sorted(c) for p, c in found.items()} == {
        "Sb": [("chosen", "ab", 1)],
        "Sc": [("rejected", "c", 1), ("rejected", "cc", 1)],
        "Sd": [("rejected", "b", 1)],
        "Se": [("chosen", "d", 2)],
    }
    every = [c for candidates in rows.values() for c in candidates]
    assert all((c["rank"], c["score"], c["win_prob"]) == (None, None, None) for c in every)
    assert all([x["reference"] for x in c["logps"]] == ["primary"] for c in every)
    drops = table(run, "drops", "sets", "unpaired").select("scope", "reason", "detail").sort("scope", "detail").rows()
    contradictions = [("candidate", "contradictory", f"label {x}") for x in ("false", "false", "true", "true")]
    assert drops == [("prompt", "unlabelled", "unpaired"), *contradictions]


def test_a_prompt_of_bad_answers_alone_is_in_no_other_set(made: Callable[..., Results]) -> None:
    """Dense ranks would make one of them the best."""
    run = made(ROWS)
    assert table(run, "sets", "sets", "preference")["prompt"].list.first().struct.field("content").to_list() != []
    for unit in ("preference", "sft"):
        rows = table(run, "sets", "sets", unit).to_dicts()
        assert "Sc" not in {r["prompt"][0]["content"] for r in rows}
    bad = table(run, "prompts", "sources").filter(pl.col("messages").list.first().struct.field("content") == "Sc")
    ranks = table(run, "ranks", "rank", "source").join(bad, on="prompt_id", how="semi")
    assert ranks.is_empty()


def test_labels_are_not_pruned_and_other_sources_ranks_are(
    made: Callable[..., Results], write_rows: Callable[..., str]
) -> None:
    other = write_rows([nectar("Sbb", (("ab", 1), ("ba", 2), ("c", 3)))], "nectar.jsonl")
    both = [
        {"name": "s", "path": write_rows(ROWS), "format": "trl_unpaired"},
        {"name": "n", "path": other},
    ]
    run = made(ROWS, sources={"sources": both, "max_reject_rate": 1}, prune={"drop_ranks": [2]})
    assert table(run, "drops", "prune")["detail"].to_list() == ["position 2, source_rank 2.0"]
    reasons = table(run, "drops", "sets", "unpaired").filter(pl.col("scope") == "prompt")["reason"].to_list()
    assert reasons == ["unlabelled"] * 2, "the ranked prompt has no label"


def test_without_the_set_nothing_changes(make_run: Callable[..., Results], write_rows: Callable[..., str]) -> None:
    source = {"name": "s", "path": write_rows(ROWS), "format": "trl_unpaired"}
    run = make_run(sources={"sources": [source], "max_reject_rate": 1})
    run_stages(run, "sources")
    assert table(run, "drops", "sources")["reason"].to_list() == ["no_good_answer"]
    assert "unpaired" not in run.units("sets")
    for stage in ("sources", "prune"):
        assert '"unpaired"' not in run.trigger(stage, "all")


def test_a_recipe_without_labels_is_refused(make_run: Callable[..., Results], write_rows: Callable[..., str]) -> None:
    source = {"name": "s", "path": write_rows([nectar()])}
    with pytest.raises(ConfigError, match="sets.unpaired: no source gives labels, as format: trl_unpaired does"):
        make_run(sources={"sources": [source]}, sets={"unpaired": True})


# ---- what is published ----


def test_datasets_loads_the_answers_with_their_labels(made: Callable[..., Results], tmp_path: Path) -> None:
    folder = made(ROWS, "report", "card", "publish").root / "publish" / "t"
    loaded = datasets.load_dataset(str(folder), "unpaired", cache_dir=str(tmp_path / "cache"))
    assert set(loaded) == {"train"}
    rows = loaded["train"].to_list()
    names = {"prompt", "completion", "label", "tools", "prompt_id", "candidate_id"}
    assert set(rows[0]) == names
    assert {r["completion"][0]["content"] for r in rows if r["label"]} == GOOD
    assert {r["completion"][0]["content"] for r in rows if not r["label"]} == BAD
    assert all(r["completion"][0]["role"] == "assistant" and r["prompt"][0]["role"] == "user" for r in rows)
    assert "| train | 4 | 4 |" in (folder / "README.md").read_text()


def test_what_is_published_is_read_again_as_it_was(
    made: Callable[..., Results], make_run: Callable[..., Results], tmp_path: Path
) -> None:
    """Reasoning and calls beside the answer included."""
    calls = [{"type": "function", "function": {"name": "f", "arguments": {"day": None, "a": 1}}}]
    thinking = {"role": "assistant", "content": "b", "reasoning_content": "why", "tool_calls": calls, "weight": 0}
    rows = [*ROWS[:6], {"prompt": "Sf", "completion": [thinking], "label": True}]
    first = made(rows, "report", "card", "publish", score={"references": []})
    loaded = datasets.load_dataset(f"{first.root}/publish/t", "unpaired", cache_dir=str(tmp_path / "cache"))
    (answer,) = [r["completion"][0] for r in loaded["train"].to_list() if r["completion"][0]["content"] == "b"]
    assert json.dumps([answer["tool_calls"], answer["weight"]]) == json.dumps([calls, 0]), "objects, as templates expect them"
    source = {"name": "s", "path": f"{first.root}/publish/t/data/unpaired/*.parquet", "format": "trl_unpaired"}
    again = Results(make_run(sources={"sources": [source]}, sets={"unpaired": True}).settings, first.stages, tmp_path / "2")
    run_stages(again, "sources")
    kept = ["prompt_id", "candidate_id", "response", "extras", "label"]
    assert table(again, "candidates", "sources").select(kept).equals(table(first, "candidates", "sources").select(kept))


def test_answers_without_any_pair_are_published_alone(made: Callable[..., Results]) -> None:
    run = made([said("Sa", "ab", True), said("Sb", "b", False)], "report", "card", "publish")
    manifest = json.loads((run.root / "publish" / "t" / "manifest.json").read_text())
    assert {name.split("/")[1] for name in manifest["files"]} == {"unpaired"}
    assert "unpaired" in OURS


# ---- the loss and the step ----


def labelled(number: int, prompt: int, good: bool) -> Example:
    """One answer of a made-up prompt."""
    whole = example(number, 0, 1)
    return replace(whole, prompt_id=hex_id("p", prompt), prompt=example(prompt, 0).prompt, labels=[], desirable=good)


BATCH = [labelled(i, p, g) for i, (p, g) in enumerate([(0, True), (0, False), (1, True), (2, False), (2, False), (3, True)])]


def surprise(policy: float, reference: float, good: bool, beta: float, z: float, lam: tuple[float, float]) -> float:
    """The oracle's pair with the other half weighing nothing."""
    ratio = policy - reference
    return oracle.kto(ratio, 0.0, beta, z, lam[0], 0.0) if good else oracle.kto(0.0, ratio, beta, z, 0.0, lam[1])


@given(NATS, NATS, st.booleans(), st.floats(0.01, 10), st.floats(0, 50), st.floats(0, 2), st.floats(0, 2))
def test_the_loss_is_the_oracles(
    logp: float, reference: float, good: bool, beta: float, z: float, wanted: float, unwanted: float
) -> None:
    one = lambda x: torch.tensor([x], dtype=torch.float64)  # noqa: E731
    none = torch.zeros(1, 1, 0, dtype=torch.float64)
    rows = Compared(one(logp), none[0], none, none, none, none[0], one(3.0), none[0], shift=z)
    rows = replace(rows, reference_B=one(reference), desirable_B=torch.tensor([good]))
    own = knobs(beta=beta, desirable_weight=wanted, undesirable_weight=unwanted)
    (ours,) = LOSSES["kto_labelled"].function(rows, own)["prompt"].tolist()
    assert ours == pytest.approx(surprise(logp, reference, good, beta, z, (wanted, unwanted)), rel=1e-9, abs=1e-12)


def step_of(lm: Any, **loss: float) -> Step:
    return Step(KTO, run_settings(loss={"beta": 0.5, **loss}), 3, lm)


def test_values_and_gradient_equal_plain_rows_and_the_oracle() -> None:
    lm, reference = model(), model("qwen2")
    step = step_of(reference, desirable_weight=1.5, undesirable_weight=0.7)
    z = step.shift(lm, BATCH, 0, RunningMean())
    others = [next(o for o in [*BATCH[i + 1 :], *BATCH[:i]] if o.prompt_id != e.prompt_id) for i, e in enumerate(BATCH)]
    pairs = [(e.prompt, o.completions[0]) for e, o in zip(BATCH, others, strict=True)]
    sums = [[float(row_logp(m, *pair).detach()) for pair in pairs] for m in (lm, reference)]
    assert z == pytest.approx(oracle.kto_z(*sums), abs=1e-9)
    (values,) = step.values(lm, BATCH, 0, Metrics(), 0.3).values()
    plain = [row_logp(lm, e.prompt, e.completions[0]) for e in BATCH]
    exact = [
        surprise(float(p.detach()), e.logps[0][0], bool(e.desirable), 0.5, 0.3, (1.5, 0.7))
        for p, e in zip(plain, BATCH, strict=True)
    ]
    assert values.detach().tolist() == pytest.approx(exact, abs=1e-9)
    slopes = [_slope(p, e) for p, e in zip(plain, BATCH, strict=True)]
    parameters = list(lm.parameters())
    ours = torch.autograd.grad(values.mean(), parameters)
    theirs = torch.autograd.grad(sum(s * p for s, p in zip(slopes, plain, strict=True)) / len(BATCH), parameters)
    assert torch.cat([g.flatten() for g in ours]).tolist() == pytest.approx(
        torch.cat([g.flatten() for g in theirs]).tolist(), abs=1e-9
    )


def _slope(logp: torch.Tensor, e: Example) -> float:
    """d loss / d logp by hand: -lam beta s(x) s(-x) of a desirable answer, + of an undesirable one."""
    x = 0.5 * (float(logp.detach()) - e.logps[0][0] - 0.3)
    bell = 1 / (2 + math.exp(x) + math.exp(-x))
    return -1.5 * 0.5 * bell if e.desirable else 0.7 * 0.5 * bell


def test_the_loss_is_trls_formula() -> None:
    """As the KTOTrainer of TRL writes it: one mean over the rows of both kinds, 1 - s(beta(u-z)) and 1 - s(beta(z-v))."""
    lm = model()
    settings = step_of(lm, desirable_weight=1.5, undesirable_weight=0.7)
    (values,) = settings.values(lm, BATCH, 0, Metrics(), 0.3).values()
    ratios = torch.stack([row_logp(lm, e.prompt, e.completions[0]) - e.logps[0][0] for e in BATCH]).detach()
    good = torch.tensor([bool(e.desirable) for e in BATCH])
    chosen = 1 - torch.sigmoid(0.5 * (ratios[good] - 0.3))
    rejected = 1 - torch.sigmoid(0.5 * (0.3 - ratios[~good]))
    assert float(values.detach().mean()) == pytest.approx(float(torch.cat([1.5 * chosen, 0.7 * rejected]).mean()), abs=1e-12)


def optimized(micro_tokens: int, batch: list[Example]) -> tuple[dict[str, Any], list[torch.Tensor]]:
    lm = model()
    settings = run_settings(batch_prompts=len(batch), steps=1, micro_tokens=micro_tokens, set="unpaired")
    order = Order(tuple(e.id for e in batch), len(batch), 3, 2)
    plan = Plan.of(settings, order, {"step": 0})
    step = Step(KTO, settings, 3, model("qwen2"))
    row = loop.one_step(lm, loop.make_optimizer(lm, settings), step, batch, plan, 0, RunningMean())
    return row, [p.grad for p in lm.parameters()]


WHOLE = optimized(10**6, BATCH)


@hypothesis_settings(max_examples=12)
@given(st.integers(1, 60))
def test_how_a_batch_is_cut_changes_nothing(micro_tokens: int) -> None:
    row, gradient = optimized(micro_tokens, BATCH)
    assert row == {k: v if v is None else pytest.approx(v, abs=1e-9) for k, v in WHOLE[0].items()}
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(gradient, WHOLE[1], strict=True))


def test_z_takes_no_answer_of_the_same_prompt() -> None:
    places: list[list[int]] = [[]] * len(BATCH)
    made = mismatched(BATCH, places, 1024)
    assert [e.id for e in made] == [e.id for e in BATCH]
    own = {e.prompt_id: [o.completions[0] for o in BATCH if o.prompt_id == e.prompt_id] for e in BATCH}
    assert all(e.completions[0] not in own[e.prompt_id] for e in made)
    alone = [labelled(i, 0, True) for i in range(3)]
    assert mismatched(alone, [[]] * 3, 1024) == []
    assert step_of(model("qwen2")).shift(model(), alone, 0, RunningMean()) == 0


def test_metrics_are_means_over_either_label() -> None:
    lm, metrics = model(), Metrics()
    step_of(lm).values(lm, BATCH, 0, metrics)
    rewards: dict[bool, list[float]] = {True: [], False: []}
    for e in BATCH:
        rewards[bool(e.desirable)].append(0.5 * (float(row_logp(lm, e.prompt, e.completions[0]).detach()) - e.logps[0][0]))
    means = {good: sum(r) / len(r) for good, r in rewards.items()}
    shown = metrics.shown()
    assert (shown["reward_desirable"], shown["reward_undesirable"]) == pytest.approx((means[True], means[False]), abs=1e-9)
    assert shown["margin"] == pytest.approx(means[True] - means[False], abs=1e-9)
    good = [float(row_logp(lm, e.prompt, e.completions[0]).detach()) for e in BATCH if e.desirable]
    assert shown["chosen_logp"] == pytest.approx(sum(good) / len(good), abs=1e-9)
    assert "accuracy" not in shown
    one = Metrics()
    step_of(lm).values(lm, [e for e in BATCH if e.desirable], 0, one)
    assert one.shown()["margin"] is None


# ---- weights by the counts ----


def answers(good: int, bad: int) -> list[Example]:
    return [labelled(i, i, i < good) for i in range(good + bad)]


@given(st.integers(1, 40), st.integers(1, 40))
def test_the_rarer_label_is_raised_until_both_weigh_alike(good: int, bad: int) -> None:
    balance = Balance.of(answers(good, bad), LossSettings())
    assert balance.ratio == pytest.approx(1)
    assert min(balance.desirable_weight, balance.undesirable_weight) == 1
    assert balance.chosen
    settings = balanced(run_settings(), balance)
    assert (settings.loss.desirable_weight, settings.loss.undesirable_weight) == (
        balance.desirable_weight,
        balance.undesirable_weight,
    )
    assert settings.loss.beta == 0.5


@pytest.mark.parametrize(
    ("good", "bad", "loss", "warned"),
    [
        (4, 3, {"desirable_weight": 1.0}, None),
        (3, 3, {"undesirable_weight": 1.0}, None),
        (3, 6, {"desirable_weight": 2.0}, None),
        (8, 4, {"desirable_weight": 1.0}, "weigh 2.00 times"),
        (3, 4, {"desirable_weight": 1.0}, "weigh 0.75 times"),
        (3, 4, {"undesirable_weight": 0.0}, "weigh inf times"),
        (3, 0, {}, "every answer is desirable"),
        (0, 3, {}, "every answer is undesirable"),
    ],
)
def test_weights_that_are_given_stay(
    good: int, bad: int, loss: dict[str, float], warned: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    balance = Balance.of(answers(good, bad), LossSettings(**loss))
    assert not balance.chosen
    assert balance.desirable_weight == loss.get("desirable_weight", 1)
    assert balance.undesirable_weight == loss.get("undesirable_weight", 1)
    balance.say("train")
    stderr = capsys.readouterr().err
    assert f"train: labels: {good} desirable, {bad} undesirable" in stderr
    assert (warned in stderr) if warned else ("warning" not in stderr)


# ---- runs ----


def rows(count: int = 16) -> list[dict[str, Any]]:
    return [said("S" + "abcde"[i % 5] * (i // 5 + 1), "ab" * (i % 3 + 1), i % 4 > 0) for i in range(count)]


@pytest.fixture
def file(tmp_path: Path, lm: Path, write_rows: Callable[..., str]) -> Callable[..., Path]:
    """file(rows, key=...) -> a file that trains kto on these rows."""

    def write(listed: list[dict[str, Any]], **keys: Any) -> Path:
        data = {"path": write_rows(listed), "format": "trl_unpaired", "max_reject_rate": 1, **keys.pop("data", {})}
        given_ = {"objective": "kto", "model": str(lm), "output": str(tmp_path / "out"), "epochs": 2, "batch_prompts": 6}
        path = tmp_path / "kto.yaml"
        path.write_text(yaml.safe_dump({**given_, "threads": 1, "data": data, **keys}))
        return path

    return write


def train(path: Path) -> list[dict[str, Any]]:
    made = from_file.load(path)
    left = from_file.prepare(made, bring_up)
    folder = run_.train(made.recipe, made.name, made.results, left)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_from_json_lines_to_a_trained_model(
    file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = train(file(rows(), optimizer={"learning_rate": 3e-3}, epochs=6))
    assert len(steps) == 18, "16 answers in batches of 6"
    assert steps[-1]["margin"] > 0.01 > abs(steps[0]["margin"])
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    said_ = "12 desirable, 4 undesirable; desirable_weight 1, undesirable_weight 3 by their counts"
    assert f"train: labels: {said_}" in capsys.readouterr().err
    receipt = json.loads((tmp_path / "out" / "train.json").read_text())
    assert receipt["labels"] == said_
    assert receipt["settings"]["loss"]["undesirable_weight"] == 3
    assert "| labels | 12 desirable, 4 undesirable;" in (tmp_path / "out" / "README.md").read_text()


def test_what_is_left_out_is_counted_by_answers(file: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    long = [said("S" + "a" * 80, "b", True), said("Sa", " ", True)]
    train(file([*ROWS, *long], steps=1, epochs=None))
    assert "train: 6 of 15 rows left out: contradictory 4, too_long 1, empty_answer 1\n" in capsys.readouterr().err


def test_pairs_of_labelled_rows_are_trained_on_where_the_file_asks(file: Callable[..., Path]) -> None:
    steps = train(file([*ROWS[:6], said("Sb", "x", False)], set="preference", steps=1, epochs=None))
    assert "reward_desirable" not in steps[0]
    assert "accuracy" in steps[0]


def test_held_out_answers_are_evaluated(file: Callable[..., Path]) -> None:
    steps = train(file(rows(40), data={"validation": 0.4}, evaluation={"every": 2}, steps=2, epochs=None))
    assert math.isfinite(steps[-1]["eval_loss"])
    assert "eval_margin" in steps[-1]


def test_rows_in_memory_are_the_files(file: Callable[..., Path], lm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = [*rows(), rows()[0], said("Sq", "ab", True), said("Sq", "ab", False)]
    of_file = train(file(listed, epochs=1))
    loaded = [k.from_pretrained(lm) for k in (transformers.AutoModelForCausalLM, transformers.AutoTokenizer)]
    capsys.readouterr()
    trained = prefdata.fit(*loaded, listed, "kto", epochs=1, batch_prompts=6)
    stderr = capsys.readouterr().err
    assert "fit: 2 of 19 rows left out: contradictory 2" in stderr
    assert trained.facts["labels"].startswith("12 desirable, 4 undesirable")
    for one, other in zip(trained.rows, of_file, strict=True):
        for name in ("loss", "shift", "grad_norm"):
            assert one[name] == pytest.approx(other[name], abs=2e-4, rel=2e-4), name


def test_a_stopped_run_goes_on_bit_for_bit(lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, made, texts = loop.one_step, list[int](), list[str]()
    monkeypatch.setattr(loop, "one_step", lambda *a: made.append(a[5]) or step(*a))  # type: ignore[func-returns-value]
    for _ in range(2):
        loaded = [k.from_pretrained(lm) for k in (transformers.AutoModelForCausalLM, transformers.AutoTokenizer)]
        prefdata.fit(*loaded, rows(), "kto", folder=tmp_path / "out", epochs=2, batch_prompts=6, checkpoint_s=1e-9)
        texts.append((tmp_path / "out" / "metrics.jsonl").read_text())
    assert made == [0, 1, 2, 3, 4, 5, 5], "from the last checkpoint"
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("listed", "objective", "said_"),
    [
        (
            rows(),
            "dpo",
            "dpo needs a chosen answer of each prompt, or a pair: set unpaired has labelled answers alone, which kto",
        ),
        (rows(), "sft", "sft needs a chosen answer"),
        ([*rows(), {"prompt": "x", "chosen": "a", "rejected": "b"}], "kto", r"rows\[16\]: missing completion, label"),
        (
            [said("x", "a", True), {**said("y", "b", True), "label": 1}],
            "kto",
            r"rows\[1\].label: true or false expected, not 1",
        ),
        ([said("x", "a", True), said("x", "b", False)], "kto", "rows of one prompt to train on"),
        ([said("x", "a", True)], "kto", "one row to train on"),
        ([said("x", "a", True), said("x", "a", False)], "kto", "no row to train on, 2 of 2 rows left out: contradictory 2"),
    ],
)
def test_mistakes_say_what_to_do(listed: list[dict[str, Any]], objective: str, said_: str, lm: Path) -> None:
    loaded = [k.from_pretrained(lm) for k in (transformers.AutoModelForCausalLM, transformers.AutoTokenizer)]
    with pytest.raises((ConfigError, DataError), match=said_):
        prefdata.fit(*loaded, listed, objective, steps=1, batch_prompts=4)


def test_a_recipe_says_why_a_run_cannot_read_the_set(made: Callable[..., Results], lm: Path) -> None:
    run = made(ROWS, train={"runs": {"kto/labels": {"set": "unpaired", "steps": 2, "batch_prompts": 3}}})
    assert resolve(run.settings, "kto/labels").split == "train"
    folder = run_.train(run.settings, "kto/labels", run)
    assert json.loads((folder / "train.json").read_text())["labels"].startswith("4 desirable, 4 undesirable")
    for name, keys, unpaired, said_ in (
        ("mcpo/x", {"set": "unpaired"}, True, "mcpo needs a chosen answer of each prompt"),
        ("kto/x", {"set": "unpaired"}, False, "the recipe makes no set unpaired: sets: .unpaired: true."),
        ("kto/x", {"set": "unpaird"}, True, "is no set of the recipe .did you mean 'unpaired'"),
        ("kto/x", {"set": "unpaired", "batch_prompts": 1}, True, "batch_prompts of 2 at least"),
    ):
        sets = run.settings.sets.model_copy(update={"unpaired": unpaired})
        settings = run.settings.model_copy(
            update={"sets": sets, "train": run.settings.train.model_copy(update={"runs": {name: keys}})}
        )
        with pytest.raises(ConfigError, match=said_):
            resolve(settings, name)


@pytest.mark.parametrize("data", [{"format": "trl_pairs"}, {"format": "sets"}])
def test_a_file_that_wants_labels_of_others_is_refused(file: Callable[..., Path], data: dict[str, str]) -> None:
    path = file([{"prompt": "a", "chosen": "b", "rejected": "c"}], set="unpaired", data=data)
    with pytest.raises((ConfigError, DataError), match="no source gives labels|no published set"):
        from_file.load(path)


def test_scores_of_a_lone_answer_reach_the_set(made: Callable[..., Results]) -> None:
    """Nothing before the set drops a prompt with one answer."""
    run = made([said(f"S{'ab'[i % 2] * (i + 1)}", "ab", i % 2 == 0) for i in range(6)])
    unit = reference_unit(run.settings.score.references[0])
    assert table(run, "logps", "score", unit).height == 6
    assert table(run, "sets", "sets", "unpaired").height == 6
    assert table(run, "sets", "sets", "preference").is_empty()
