"""The judge report: biases that were planted are found, and none where none was; cycles, agreement, scores; pointwise judges."""

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import nectar, run_stages
from models import config

from prefdata.errors import ConfigError, EngineError
from prefdata.judging import pointwise
from prefdata.judging.measures import of_verdicts
from prefdata.models.forward.logprob import row_logps
from prefdata.models.loading import load_model
from prefdata.models.scorer import Item
from prefdata.models.tokens import load_encoder
from prefdata.recipe import places
from prefdata.recipe.results import Results
from prefdata.recipe.units import Part, judge_unit
from prefdata.sources.settings import ToySettings
from prefdata.sources.toy import tokenizers
from prefdata.stages import toy
from prefdata.tables import files

Make = Callable[..., Results]


@pytest.fixture
def judged(make_run: Make, write_rows: Callable[..., str]) -> Callable[..., dict[str, Any]]:
    """judged([judge, ...]) -> the reports by judge, on 160 prompts of the embedded world with seven answers each."""

    def run_judges(judges: list[dict[str, Any]], prompts: int = 160) -> dict[str, Any]:
        rows = list(toy.rows(ToySettings(demonstrations=1, train=prompts, test=1), 5))
        sources = {"sources": [{"name": "s", "path": write_rows(rows), "split": "train"}], "max_reject_rate": 1}
        run = make_run(sources=sources, prune={"drop_ranks": []}, judge=judges)
        run_stages(run, "sources", "split", "prune", "judge", "judge_report")
        reports = {j.name: run.path(places.judge_report(judge_unit(j))) for j in run.settings.judge}
        return {name: json.loads(path.read_text()) for name, path in reports.items()}

    return run_judges


def noisy(name: str, **errors: float) -> dict[str, Any]:
    judge = {"name": name, "kind": "noisy", "noisy": {"spread": 0.1, **errors}, "min_consistency": 0.0}
    return {**judge, "procedure": "round_robin"}


def in_se(facts: dict[str, Any], name: str) -> float:
    return facts["first_place"][name] / facts["first_place"][f"{name}_se"]


def test_planted_biases_are_found_and_no_others(judged: Callable[..., dict[str, Any]]) -> None:
    """In standard errors; verdicts of a prompt are not independent, so what is not there may reach three or four of them."""
    reports = judged(
        [noisy("fair"), noisy("first", first_place=0.15), noisy("second", first_place=-0.15), noisy("long", length=0.2)]
    )
    assert abs(in_se(reports["fair"], "log_odds")) < 4
    assert in_se(reports["first"], "log_odds") > 10
    assert in_se(reports["second"], "log_odds") < -10
    assert abs(in_se(reports["long"], "log_odds")) < 4
    assert in_se(reports["long"], "longer_log_odds") > in_se(reports["fair"], "longer_log_odds") + 10
    assert reports["long"]["longer_won"]["share"] > reports["fair"]["longer_won"]["share"] + 0.1
    assert reports["first"]["first_place"]["share"] > 0.6 > 0.4 > reports["second"]["first_place"]["share"]
    consistent = {name: facts["consistency"]["share"] for name, facts in reports.items()}
    assert consistent["first"] < consistent["fair"] - 0.05
    assert all(facts["calls"] == facts["calls_bound"] for facts in reports.values())


def test_judges_are_compared_with_each_other_and_the_exact_one_goes_in_no_circles(
    judged: Callable[..., dict[str, Any]],
) -> None:
    exact = {"name": "exact", "procedure": "round_robin"}
    reports = judged([exact, noisy("sharp", spread=0.01), noisy("blunt", spread=0.5)], 60)
    assert reports["exact"]["consistency"]["share"] == 1
    assert reports["exact"]["cycles"]["share"] == 0
    assert reports["exact"]["cycles"]["of"] > 100
    assert reports["blunt"]["cycles"]["share"] > reports["sharp"]["cycles"]["share"]
    agreement = reports["exact"]["agreement"]
    assert agreement["sharp"]["share"] > 0.95 > agreement["blunt"]["share"]
    assert agreement["sharp"]["kappa"] > agreement["blunt"]["kappa"] > 0
    assert reports["blunt"]["agreement"]["exact"]["share"] == agreement["blunt"]["share"]


def test_the_figures_of_hand_made_verdicts() -> None:
    found = of_verdicts.Gathered(calls=10, both=5, bound=6)
    found.outcomes.update({"pair:a": 2, "pair:tie": 1, "pair:inconsistent": 1, "pair:missing": 1, "missing": 1})
    found.reasons["parse"] = 1
    from prefdata.recipe.settings.judging import JudgeSettings

    facts = of_verdicts.facts_of(JudgeSettings(), found)
    assert (facts["pairs"], facts["calls_bound"]) == (5, 12)
    assert facts["consistency"] == {"share": 0.75, "se": math.sqrt(0.75 * 0.25 / 4), "of": 4}
    assert facts["missing"] == {
        "verdicts": {"share": 0.1, "se": pytest.approx(math.sqrt(0.009)), "of": 10},
        "reasons": {"parse": 1},
    }
    assert facts["ties"]["share"] == 0.2
    assert facts["cycles"]["share"] is facts["longer_won"]["share"] is facts["first_place"]["log_odds"] is None


def test_triples_go_round_or_not() -> None:
    found = of_verdicts.Gathered()
    of_verdicts._triples({("x", "y"): "a", ("y", "z"): "a", ("x", "z"): "b"}, found)
    of_verdicts._triples({("x", "y"): "a", ("y", "z"): "a", ("x", "z"): "a"}, found)
    of_verdicts._triples({("x", "y"): "a", ("y", "z"): "tie", ("x", "z"): "a"}, found)
    assert (found.triples, found.cycles) == (2, 1)


def test_bias_is_a_logistic_regression() -> None:
    """Against the log-odds of a two-by-two table, which the saturated model must give."""
    table = {(1, 1): 60, (0, 1): 20, (1, -1): 45, (0, -1): 55}
    rows = np.array([row for row, n in table.items() for _ in range(n)], dtype=np.float64)
    found = of_verdicts.bias(rows)
    longer, shorter = math.log(60 / 20), math.log(45 / 55)
    assert found["log_odds"] == pytest.approx((longer + shorter) / 2, abs=1e-4)
    assert found["longer_log_odds"] == pytest.approx((longer - shorter) / 2, abs=1e-4)
    variance = (1 / 60 + 1 / 20 + 1 / 45 + 1 / 55) / 4
    assert found["log_odds_se"] == pytest.approx(math.sqrt(variance), rel=1e-3)


def test_agreement_takes_chance_off() -> None:
    facts = of_verdicts.agreement(Counter({"a/a": 20, "a/b": 5, "b/a": 10, "b/b": 15, "tie/a": 9, "inconsistent/b": 3}))
    assert facts["share"] == 0.7
    assert facts["kappa"] == pytest.approx(0.4)  # the textbook's own table
    assert of_verdicts.agreement(Counter({"tie/a": 3}))["kappa"] is None


# ---- pointwise judges ----


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny causal LM, a reward model and a classifier of two classes."""
    import transformers

    folder = tmp_path_factory.mktemp("models")
    tokenizers.write(folder / "t")
    encoder = load_encoder(str(folder / "t" / "small"))
    kinds = {
        "lm": (transformers.LlamaForCausalLM, {}),
        "reward": (transformers.LlamaForSequenceClassification, {"num_labels": 1}),
        "classes": (transformers.LlamaForSequenceClassification, {"num_labels": 2}),
    }
    for name, (kind, keys) in kinds.items():
        torch.manual_seed(0)
        shape = config("llama", vocab_size=len(encoder.tokenizer), max_position_embeddings=48, initializer_range=0.2, **keys)
        kind(shape).save_pretrained(folder / name)
        encoder.tokenizer.save_pretrained(folder / name)
    return folder


ROWS = [nectar(q, [("ab", 1), ("abcdefgh", 2), ("a", 3), ("x" * 60, 4)]) for q in ("Sba", "Rabcde", "Dab")]


@pytest.fixture
def scored(make_run: Make, write_rows: Callable[..., str]) -> Callable[..., Results]:
    def run_judge(judge: dict[str, Any], rows: list[dict[str, Any]] = ROWS) -> Results:
        sources = {"sources": [{"name": "s", "path": write_rows(rows), "split": "train"}], "max_reject_rate": 1}
        run = make_run(sources=sources, prune={"drop_ranks": []}, judge=[{"name": "j", **judge}], sets={"method": "j"})
        run_stages(run, "sources", "split", "prune", "judge", "judge_report", "rank:" + run.units("judge")[0])
        return run

    return run_judge


def verdicts(run: Results) -> list[dict[str, Any]]:
    return files.read_table(run.table(Part("verdicts", "judge", run.units("judge")[0]), 0), "verdicts").to_dicts()


def given(run: Results) -> dict[str, dict[str, Any]]:
    prompts = {p["prompt_id"]: p for p in files.read_table(run.table(Part("prompts", "sources"), 0), "prompts").to_dicts()}
    candidates = files.read_table(run.table(Part("candidates", "sources"), 0), "candidates").to_dicts()
    return {c["candidate_id"]: {**c, "messages": prompts[c["prompt_id"]]["messages"]} for c in candidates}


@pytest.mark.parametrize("judge", ["likelihood", "reward"])
def test_model_scores_equal_each_row_alone_and_rank_higher_first(
    models: Path, scored: Callable[..., Results], judge: str
) -> None:
    name = {"likelihood": "lm", "reward": "reward"}[judge]
    run = scored({"kind": judge, "model": {"id": str(models / name)}, "max_failed": 0.3})
    encoder, rows = load_encoder(str(models / name)), given(run)
    for verdict in verdicts(run):
        candidate = rows[verdict["a"]]
        prompt, (answer,) = encoder.prompt(candidate["messages"]), encoder.completions([candidate["response"]], ["stop"])
        if len(candidate["response"]) == 60:
            assert verdict["score"] is None
            assert verdict["reason"] == "too_long"
            continue
        if judge == "likelihood":
            with torch.no_grad():
                total = row_logps(load_model(str(models / name)), [prompt], [answer])
            alone = float(total[0]) / len(candidate["response"])
        else:
            from transformers import AutoModelForSequenceClassification

            model = AutoModelForSequenceClassification.from_pretrained(models / name).eval()
            with torch.no_grad():
                alone = float(model(torch.tensor([prompt + answer])).logits[0, 0])
        assert verdict["score"] == pytest.approx(alone, abs=1e-4)
        assert verdict["b"] is verdict["order"] is verdict["outcome"] is None
    scores = {v["a"]: v["score"] for v in verdicts(run) if v["score"] is not None}
    ranks = files.read_table(run.table(Part("ranks", "rank", run.units("judge")[0]), 0), "ranks").to_dicts()
    assert {r["candidate_id"] for r in ranks} == set(scores)
    for prompt in {r["prompt_id"] for r in ranks}:
        own = sorted((r for r in ranks if r["prompt_id"] == prompt), key=lambda r: r["rank"])
        assert [scores[r["candidate_id"]] for r in own] == sorted((scores[r["candidate_id"]] for r in own), reverse=True)
        assert [r["rank"] for r in own] == [1, 2, 3]


def test_equal_scores_have_no_order_by_length() -> None:
    from prefdata.recipe.settings.judging import JudgeSettings

    settings = JudgeSettings(kind="verifier")
    tied = [(0.0, 3.0), (1.0, 9.0), (0.0, 3.0), (1.0, 9.0), (0.0, 3.0)]
    for scores in (tied, tied[::-1], tied[2:] + tied[:2]):
        facts = of_verdicts.scored_facts(settings, of_verdicts.Gathered(calls=5, scores=scores))
        assert facts["rank_correlation_with_length"] == pytest.approx(1)


def test_the_dtype_of_the_scores_is_part_of_a_likelihood_judge(make_run: Make, models: Path) -> None:
    from prefdata.judging.registry import KINDS

    judge = {"name": "j", "kind": "likelihood", "model": {"id": str(models / "lm")}}
    runs = [
        make_run(sources={"sources": [{"name": "s", "path": "x"}]}, judge=[judge], score={"dtype": d})
        for d in ("float32", "float64")
    ]
    assert len({KINDS["likelihood"].make(run, run.settings.judge[0]).what for run in runs}) == 2
    assert len({run.trigger("judge", run.units("judge")[0]) for run in runs}) == 2


def test_the_bound_counts_what_is_judged(make_run: Make, write_rows: Callable[..., str]) -> None:
    """Of four answers rank 2 is pruned: two comparisons, both orders."""
    rows = [nectar("Sba", [("ab", 1), ("a", 2), ("b", 3), ("ba", 4)])]
    sources = {"sources": [{"name": "s", "path": write_rows(rows), "split": "train"}]}
    run = make_run(sources=sources, prune={"drop_ranks": [2]}, judge=[{"name": "exact"}], sets={"method": "exact"})
    run_stages(run, "sources", "split", "prune", "judge", "judge_report")
    facts = json.loads(run.path(places.judge_report(run.units("judge")[0])).read_text())
    assert (facts["calls"], facts["calls_bound"]) == (4, 4)


def test_the_verifier_scores_against_the_final_answer(scored: Callable[..., Results]) -> None:
    items = [Item({"answer": final}, {"response": r}) for final, r in (("4", "so 4"), ("4", "#### 5"), (None, "4"))]
    assert pointwise.verifier(None, None).scores(items) == [(1.0, None), (0.0, None), (None, "nothing to verify")]  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="2 of 2 verdicts are missing .2 nothing to verify"):
        scored({"kind": "verifier"}, [nectar("What is love?", [("a", 1), ("b", 2)])])


def test_what_is_no_reward_model_is_refused(models: Path, scored: Callable[..., Results]) -> None:
    with pytest.raises(ConfigError, match="the model has 2 outputs"):
        scored({"kind": "reward", "model": {"id": str(models / "classes")}})


def test_the_embedded_worlds_comparisons_are_asked_as_the_rubric_asks_them() -> None:
    from prefdata.sources.toy import tasks

    rows = [
        r for r in toy.rows(ToySettings(demonstrations=1, train=1, test=1, judgements=200), 0) if r["split"] == "validation"
    ]
    assert len(rows) == 200
    labels = Counter(r["answers"][0]["answer"] for r in rows)
    assert set(labels) == {"A", "B"}
    assert abs(labels["A"] - 100) < 40
    for row in rows:
        task, _, shown = row["prompt"].removeprefix("\n\nHuman: ").removesuffix("\n\nAssistant: ").partition(">")
        first, second = shown.split("|")
        ahead = tasks.score(task, first) > tasks.score(task, second)
        assert row["answers"][0]["answer"] == ("A" if ahead else "B")
