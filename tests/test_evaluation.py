"""Evaluation: common random numbers, KL to the primary reference, foreign text; on literal frames and on a real tiny model."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from conftest import run_stages

from prefdata.models.engines.protocol import Request
from prefdata.models.scorer import Item, Scorer
from prefdata.output import evaluation
from prefdata.recipe import fill
from prefdata.recipe.job import Job
from prefdata.recipe.read import validate_recipe
from prefdata.recipe.results import Results
from prefdata.recipe.units import Part, evaluation_unit
from prefdata.stages import evaluate
from prefdata.stages.registry import STAGES as ROWS
from prefdata.tables import files
from prefdata.workflow.recipes import checked

RUNS = ("dpo/first", "dpo/second")
STAGES = ("toy", "sources", "split", "prune", "rank:source", "noise", "score", "sets")


def samples(*rows: tuple[str, str, float]) -> pl.DataFrame:
    """(prompt, response, temperature)."""
    return pl.DataFrame(rows, schema=["prompt_id", "response", "temperature"], orient="row")


def test_foreign_is_the_share_of_samples_with_a_character_of_no_set() -> None:
    frame = samples(
        ("p", "xx", 0.0), ("p", "ab", 1.0), ("p", "axb", 1.0), ("q", "", 1.0), ("r", "x", 1.0), ("r", "\ufffd", 1.0)
    )
    assert evaluation.foreign(frame, set("ab")).rows() == [("p", 0.5), ("q", 0.0), ("r", 1.0)]


def test_kl_is_the_mean_log_ratio_of_a_prompts_samples() -> None:
    own = pl.DataFrame({"prompt_id": ["p", "p", "q"], "candidate_id": ["1", "2", "3"], "logp": [-1.0, -2.0, -4.0]})
    other = pl.DataFrame({"prompt_id": ["p", "p", "s"], "candidate_id": ["1", "2", "9"], "logp": [-3.0, -2.5, 0.0]})
    assert evaluation.log_ratios(own, other).rows() == [("p", (2.0 + 0.5) / 2)]


def test_a_margin_is_the_runs_own_less_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-probs of the same candidates under another model are none of the run's."""
    rows = [
        ("p", "w", "run", -2.0),
        ("p", "l", "run", -5.0),
        ("p", "w", "r", -90.0),
        ("p", "l", "r", -7.0),
        ("q", "w", "run", -1.0),
    ]
    logps = pl.DataFrame(rows, schema=["prompt_id", "candidate_id", "reference", "logp"], orient="row")
    monkeypatch.setattr(evaluation, "_read", lambda *of: logps)
    pairs = pl.DataFrame({"prompt_id": ["p", "q"], "chosen_id": ["w", "w"], "rejected_id": ["l", "l"]}).with_columns(
        chosen_reference=pl.Series([-1.5, 0.0]), rejected_reference=pl.Series([-2.5, 0.0])
    )
    nothing: Any = None
    assert evaluation.pair_log_ratios(nothing, "run", pairs).rows() == [("p", -2.0 + 1.5, -5.0 + 2.5, -2.0 + 5.0 - 1.0)]


def test_margins_within_rounding_are_ties_of_accuracy_alone() -> None:
    found = evaluation.of_pairs(pl.Series([2.0, 1.0, -3.0, -1e-6, -2e-6]))
    assert found["pairs"] == 5
    assert found["accuracy"][0] == pytest.approx(2 / 3)
    assert found["margin"][0] == pytest.approx(0, abs=1e-5)
    assert evaluation.of_pairs(pl.Series([1e-6, -1e-6]))["accuracy"] is None


def test_the_share_in_kl_is_of_samples_that_both_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {
        "candidates": pl.DataFrame({"candidate_id": ["g", "1", "2", "3", "4"], "temperature": [0.0, 1.0, 1.0, 1.0, 1.0]}),
        "logps": pl.DataFrame({"candidate_id": ["1", "1", "2", "2", "3", "g"], "reference": ["m", "r", "m", "r", "m", "m"]}),
    }
    monkeypatch.setattr(evaluation, "_read", lambda job, table, name: tables[table])
    assert evaluation._kl_share(None, "m") == 0.5  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, lm: Path) -> Results:
    """Two models of equal weights under other names, and the reference they come from; only read."""
    recipe = {
        "name": "t",
        "seed": 3,
        "num_shards": 2,
        "dedup": None,
        "toy": {"demonstrations": 4, "train": 8, "test": 6},
        "sources": {"sources": [{"name": "toy", "path": "toy:", "license": "apache-2.0"}]},
        "score": {"references": [{"name": "r", "model": str(lm)}]},
        "train": {"runs": {name: {"model": str(lm)} for name in RUNS}},
        "evaluate": {"runs": list(RUNS), "samples": 3, "max_tokens": 6},
    }
    run = Results(checked(validate_recipe(recipe, "test"), "test"), ROWS, tmp_path_factory.mktemp("evaluated"))
    run_stages(run, *STAGES)
    for name in RUNS:
        folder = Path(run.model_path(f"run:{name}"))
        shutil.copytree(lm, folder)
        settings = {"template": "chat", "end": "eos", "negatives": {"redraw": "never"}}
        receipt = {"revision": name[4:].ljust(16, "0"), "settings": settings, "negatives": "fixed"}
        (folder / "train.json").write_text(json.dumps(receipt))
    run_stages(run, "evaluate")
    return run


def table(run: Results, name: str, of: str) -> pl.DataFrame:
    part = Part(name, "evaluate", evaluation_unit(of))
    return pl.concat([files.read_table(run.table(part, s), name) for s in run.shards])


def test_equal_models_of_other_names_give_equal_answers(evaluated: Results) -> None:
    shown = ["prompt_id", "temperature", "sample", "response", "finish"]
    first, second = (table(evaluated, "candidates", name).select(shown).sort(shown[:3]) for name in RUNS)
    assert first.equals(second)
    sampled = first.filter(pl.col("temperature") > 0)
    assert sampled["response"].n_unique() > sampled.height / 2, "samples of a prompt are others"


def test_figures_of_a_model_that_is_its_own_reference(evaluated: Results) -> None:
    facts = evaluation.evaluation(Job(evaluated, "summary"))
    for found in facts:
        mean, error = found["kl"]
        assert (abs(mean) < 1e-5, error < 1e-5) == (True, True)
        assert found["redraw"] == "never"
        assert found["kl_share"] == 1
        # the model's tokenizer has all bytes, and it was never trained
        assert found["foreign"][0] > 0.5
    assert [f["run"] for f in facts] == list(RUNS)


def test_samples_are_scored_under_both_and_greedy_answers_under_neither(evaluated: Results) -> None:
    logps, made = table(evaluated, "logps", RUNS[0]), table(evaluated, "candidates", RUNS[0])
    greedy = made.filter(pl.col("temperature") == 0)["candidate_id"]
    assert set(logps["reference"]) == {RUNS[0], "r"}
    assert not set(greedy) & set(logps["candidate_id"])
    of_reference = logps.filter(pl.col("reference") == "r")
    assert set(of_reference["candidate_id"]) <= set(made["candidate_id"]), "held-out pairs are scored under the run alone"
    assert of_reference.height


def test_samples_are_scored_in_fp32(evaluated: Results) -> None:
    """As the same model scores them in fp64, to rounding: in bfloat16 they would differ by more than the limit here."""
    job, made = Job(evaluated, "evaluate", evaluation_unit(RUNS[0])), table(evaluated, "candidates", RUNS[0])
    told = table(evaluated, "logps", RUNS[0]).filter(pl.col("reference") == "r")
    messages = {p["prompt_id"]: p for p in job.table(Part("prompts", "sources")).to_dicts()}
    rows = made.join(told.select("candidate_id", "logp"), on="candidate_id").to_dicts()
    wide = Scorer(evaluated.model_path(f"run:{RUNS[0]}"), job.settings.score.references[0], "float64", 1024)
    for row, value in zip(rows, wide.values([Item(messages[r["prompt_id"]], r) for r in rows]), strict=True):
        assert row["logp"] == pytest.approx(value["logp"], abs=2e-4)


@pytest.mark.parametrize("change", [{"max_tokens": 5}, {"end": "none"}, {"template": "plain"}])
def test_other_settings_of_the_reference_score_samples_again(evaluated: Results, change: dict[str, Any]) -> None:
    """The limit decides which samples are too long; what was found under other settings is not taken for it."""
    job = Job(evaluated, "evaluate", evaluation_unit(RUNS[0]))
    wanted = {"key": Request("p", (), 1.0, 1, 6)}
    prompts = {"prompts": pl.DataFrame({"prompt_id": ["p"], "messages": [[]]})}
    answer = {"text": "a", "finish": "stop", "num_tokens": 2, "reason": None}
    store: Any = SimpleNamespace(get=lambda keys: dict.fromkeys(keys, answer))
    (own,) = job.settings.score.references
    keys = set[str]()
    for settings in (own, own.model_copy(update=change)):
        scorer: Any = SimpleNamespace(settings=settings)
        keys |= set(evaluate.sampled(prompts, wanted, store, "m", 0, evaluate.Scored("r", "files", scorer)))
    assert len(keys) == 2


def test_chunks_hold_as_many_prompts_of_the_split_whatever_the_others(evaluated: Results) -> None:
    """18 prompts, 6 of them held out: chunks of 2 are cut at every second prompt, and hold at least two of their own."""
    parts = list(fill.chunks(Job(evaluated, "evaluate", evaluation_unit(RUNS[0])), 2, ["test"]))
    held_out = [p["splits"].filter(pl.col("split") == "test").height for p in parts]
    assert all(2 <= n < 4 for n in held_out[:-1])
    assert sum(held_out) == 6
    whole = pl.concat([p["prompts"] for p in parts])["prompt_id"].to_list()
    assert whole == sorted(whole)
    assert len(whole) == sum(held_out), "the others are not held"
