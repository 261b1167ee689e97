"""Win rates: by hand-made verdicts, through files and a server, and of evaluated runs; judge-check with a judge that is run."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from conftest import run_stages
from hypothesis import given
from hypothesis import strategies as st
from servers.scripted import Scripted, Server
from typer.testing import CliRunner

from prefdata.draws import hex_id
from prefdata.errors import ConfigError, DataError
from prefdata.judging.measures import win_rate
from prefdata.judging.text_pairs import judged, text_pair, verdict
from prefdata.recipe import places
from prefdata.recipe.job import Job
from prefdata.recipe.read import validate_recipe
from prefdata.recipe.results import Results
from prefdata.recipe.units import Part, evaluation_unit
from prefdata.sources.toy import tasks
from prefdata.stages import win_rate as stage
from prefdata.stages.registry import STAGES
from prefdata.tables import files, schema, table_writer
from prefdata.tables.finished import ChunkStore
from prefdata.workflow.cli import app
from prefdata.workflow.recipes import checked

PAIRS = [text_pair("q1", "aaaa", "b"), text_pair("q2", "a", "bbb"), text_pair("q3", "aa", "bb"), text_pair("q4", "aaa", "b")]
WIN, LOSS, TIE = {"ab": "a", "ba": "a"}, {"ab": "b", "ba": "b"}, {"ab": "tie", "ba": "tie"}
BY_PLACE, HALF = {"ab": "a", "ba": "b"}, {"ab": "missing", "ba": "a"}


def test_the_figures_of_four_prompts() -> None:
    facts = win_rate.facts_of("s", PAIRS, [WIN, LOSS, BY_PLACE, TIE])
    assert facts["win_rate"] == 0.5
    assert facts["se"] == pytest.approx(np.std([1, 0, 0.5, 0.5], ddof=1) / 2)
    assert (facts["inconsistent"], facts["missing"]) == (0.25, 0)
    assert (facts["mean_length"], facts["mean_length_baseline"]) == (2.5, 1.75)
    missing = win_rate.facts_of("s", PAIRS, [WIN, WIN, HALF, LOSS])
    assert (missing["win_rate"], missing["missing"]) == (pytest.approx(2 / 3), 1), "one order alone would count the place"
    nothing = win_rate.facts_of("s", PAIRS[:1], [HALF])
    assert nothing["win_rate"] is nothing["se"] is nothing["length_controlled"] is None


@given(st.integers(0, 2**32 - 1), st.floats(-1, 1), st.floats(-2, 2))
def test_the_length_controlled_rate_is_the_rate_at_equal_lengths(seed: int, theta: float, phi: float) -> None:
    """Wins drawn as probabilities from the model itself: the regression gives its parameters back."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 400, (300, 2)).astype(float)
    difference = lengths[:, 0] - lengths[:, 1]
    won = 1 / (1 + np.exp(-(theta + phi * np.tanh(difference / difference.std()))))
    assert win_rate.length_controlled(won, lengths) == pytest.approx(1 / (1 + math.exp(-theta)), abs=2e-3)


def test_equal_lengths_and_one_sided_wins_are_finite() -> None:
    same = np.full((5, 2), 7.0)
    assert win_rate.length_controlled(np.array([1, 1, 0, 0.5, 1.0]), same) == pytest.approx(0.7, abs=1e-4)
    assert win_rate.length_controlled(np.ones(5), same) == pytest.approx(1, abs=1e-3)


def test_systems_are_compared_on_the_same_resampled_prompts() -> None:
    rng = np.random.default_rng(0)
    base = rng.choice([0, 0.5, 1], 200)
    (apart,) = win_rate.differences({"one": base, "other": base}, 0)
    assert (apart["difference"], apart["interval"]) == (0, [0, 0]), "the same answers do not differ, however they are drawn"
    better = np.minimum(base + rng.choice([0, 0.5], 200), 1)
    (apart,) = win_rate.differences({"one": better, "other": base}, 0)
    low, high = apart["interval"]
    expected = (better - base).std(ddof=1) / math.sqrt(200)
    assert 0 < low < apart["difference"] < high
    assert (high - low) / (2 * 1.96) == pytest.approx(expected, rel=0.1)
    holes = better.copy()
    holes[:50] = math.nan
    assert win_rate.differences({"one": holes, "other": base}, 0)[0]["difference"] == pytest.approx((better - base)[50:].mean())


# ---- through files, the command line and a server ----


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Three systems' AlpacaEval files: the second one's answers are always longer, the third lacks an instruction."""
    answers = {
        "base": {f"q{i}": "word " * 4 for i in range(6)},
        "long": {f"q{i}": "word " * (5 + i) for i in range(6)},
        "short": {f"q{i}": "word" for i in range(5)},
    }
    for name, own in answers.items():
        (tmp_path / f"{name}.json").write_text(win_rate.outputs(name, own))
    return tmp_path


@pytest.fixture
def run(place: Path) -> Any:
    def make(url: str) -> Results:
        made = validate_recipe({"name": "w", "sources": {"sources": [{"name": "s", "path": "x"}]}, "judge": [judge(url)]}, "t")
        return Results(made, STAGES, place / "results")

    return make


def judge(url: str) -> dict[str, Any]:
    return {"name": "j", "kind": "pairwise", "model": {"id": "judge", "server": {"url": url, "backoff_s": 0.02}}}


def test_files_in_rates_and_annotations_out(place: Path, run: Any) -> None:
    scripted = Scripted()
    files = [place / "long.json", place / "short.json"]
    with Server(scripted) as url:
        found, apart, notes, baseline = win_rate.of_files(run(url), "j", files, place / "base.json")
        calls = scripted.calls.total()
        again = win_rate.of_files(run(url), "j", files, place / "base.json")
    assert [(f["system"], f["prompts"], f["win_rate"]) for f in found] == [("long", 5, 1.0), ("short", 5, 0.0)]
    assert baseline == "base"
    assert apart[0]["difference"] == 1
    assert calls == scripted.calls.total() == 20, "both orders of five prompts for two systems; asked once"
    assert again[0] == found
    assert [n["preference"] for n in notes] == [2.0] * 5 + [1.0] * 5
    assert notes[0]["generator_1"] == "base"
    assert notes[0]["output_1"] == "word " * 4
    assert "\nlong   1.000 ± 0.000" in win_rate.render(found, apart, baseline)


def test_equal_answers_are_a_tie_that_nobody_is_asked(run: Any) -> None:
    scripted = Scripted()
    with Server(scripted) as url:
        run_ = run(url)
        pairs = [text_pair("q", "same", "same"), text_pair("q", "longer", "x")]
        with ChunkStore(run_.chunks("p", "j")) as store:
            said = judged(run_, run_.settings.judge[0], pairs, store)
    assert [verdict(s) for s in said] == ["tie", "a"]
    assert scripted.calls.total() == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"instruction": "q", "output": "a"}, {"instruction": "q", "output": "b"}]', "occurs twice in the file"),
        ('[{"instruction": "other", "output": "a"}]', "no instruction is answered by every system"),
        ('[{"instruction": "q"}]', "bad.json:0:output: missing .*; give each row instruction and output, as AlpacaEval does$"),
    ],
)
def test_what_is_no_such_file_is_named(place: Path, run: Any, text: str, said: str) -> None:
    (place / "bad.json").write_text(text)
    with pytest.raises(DataError, match=said):
        win_rate.of_files(run("http://127.0.0.1:9/v1"), "j", [place / "bad.json"], place / "base.json")


def test_an_unknown_judge_is_named(place: Path, run: Any) -> None:
    with pytest.raises(ConfigError, match="^--judge: the recipe has no judge named 'k' .known: 'j'"):
        win_rate.of_files(run("http://127.0.0.1:9/v1"), "k", [place / "long.json"], place / "base.json")


def test_a_judge_of_trained_models_needs_two_of_them() -> None:
    made = {"name": "w", "sources": {"sources": [{"name": "s", "path": "x"}]}, "judge": [{"name": "exact"}]}
    with pytest.raises(ConfigError, match="name two runs under evaluate.runs"):
        validate_recipe({**made, "evaluate": {"judge": "exact"}}, "t")
    with pytest.raises(ConfigError, match="no judge is named 'exakt' .did you mean 'exact'"):
        validate_recipe({**made, "evaluate": {"judge": "exakt"}}, "t")
    text = {"name": "t", "kind": "pairwise", "model": {"id": "m"}, "verdicts": "text", "swap_margin": 1.0}
    with pytest.raises(ConfigError, match="swap_margin needs a margin"):
        checked(validate_recipe({**made, "judge": [text]}, "t"), "t")
    with pytest.raises(ConfigError, match="kind 'exakt' is unknown .did you mean 'exact'"):
        checked(validate_recipe({**made, "judge": [{"name": "t", "kind": "exakt"}]}, "t"), "t")


def test_the_commands_print_what_was_found(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    pairs = [
        {"prompt": "q", "a": "long one", "b": "x", "human": h, "judges": {"old": "b", "j": "b"}} for h in ("a", "a", "b", "tie")
    ]
    (place / "pairs.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pairs))
    with Server(Scripted()) as url:
        made = {"name": "w", "sources": {"sources": [{"name": "s", "path": "x"}]}, "judge": [judge(url)]}
        (place / "r.yaml").write_text(yaml.safe_dump(made))
        asked = ["long.json", "--against", "base.json", "--judge", "j", "--settings", "r.yaml", "--annotations", "notes.json"]
        rate = CliRunner().invoke(app, ["win-rate", *asked])
        check = CliRunner().invoke(app, ["judge-check", "pairs.jsonl", "--settings", "r.yaml", "--json"])
    assert rate.exit_code == 0, rate.output
    assert "against base, 6 prompts, both orders" in rate.output
    assert len(json.loads((place / "notes.json").read_text())) == 6
    assert check.exit_code == 0, check.output
    found = {f["judge"]: f for f in json.loads(check.stdout)["judges"]}
    assert found["j"]["agreement"] == 0.5
    assert found["old"]["agreement"] == 0.25
    assert found["j"]["missing"] == 0


def test_trained_models_are_compared_with_fixed_answers(
    make_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stage on tables of its own: a run that always answers right, one that never does, and a file that answers half."""
    runs = {name: {"model": "x", "steps": 1} for name in ("dpo/right", "dpo/wrong")}
    file = tmp_path / "fixed.json"
    run = make_run(
        toy={"demonstrations": 8, "train": 4, "test": 12},
        sources={"sources": [{"name": "toy", "path": "toy:", "license": "mit"}]},
        score={"references": [{"name": "r", "model": "x"}]},
        train={"runs": runs},
        judge=[{"name": "exact", "splits": ["test"]}],
        evaluate={"runs": list(runs), "judge": "exact", "baseline": str(file)},
    )
    run_stages(run, "toy", "sources", "split")
    prompts = files.read_table(run.table(Part("prompts", "sources"), 0), "prompts")
    splits = files.read_table(run.table(Part("splits", "split"), 0), "splits").filter(pl.col("split") == "test")
    tests = prompts.join(splits, on="prompt_id", how="semi").sort("prompt_id").to_dicts()
    assert len(tests) == 12
    for name, texts in (("dpo/right", [tasks.solve(p["messages"][-1]["content"]) for p in tests]), ("dpo/wrong", ["x"] * 12)):
        made = [
            {
                "prompt_id": p["prompt_id"],
                "candidate_id": hex_id(name, p["prompt_id"]),
                "response": text,
                "origin": "generated",
                "producer": name,
                "temperature": 0.0,
                "sample": 0,
                "finish": "stop",
            }
            for p, text in zip(tests, texts, strict=True)
        ]
        part = Part("candidates", "evaluate", evaluation_unit(name))
        table_writer.write_table(run.table(part, 0), "candidates", schema.frame("candidates", made))
    given = [
        {"instruction": p["messages"][-1]["content"], "output": tasks.solve(p["messages"][-1]["content"]), "generator": "gpt"}
        for p in tests[:6]
    ]
    file.write_text(json.dumps(given))
    stage.run(Job(run, "win_rate"))
    facts = json.loads(run.path(places.WIN_RATES).read_text())
    assert facts["baseline"] == "gpt (fixed.json)"
    assert {f["system"]: (f["win_rate"], f["prompts"]) for f in facts["systems"]} == {
        "dpo/right": (0.5, 6),
        "dpo/wrong": (0.0, 6),
    }
    assert "win_rate: 6 of 12 prompts have no answer in" in capsys.readouterr().err
    file.write_text(json.dumps([{"instruction": "other", "output": "x", "generator": "gpt"}]))
    with pytest.raises(DataError, match="it answers none of the held-out prompts"):
        stage.run(Job(run, "win_rate"))
