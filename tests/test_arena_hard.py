"""Arena-Hard v2's files in and out, and its scores: against counting by hand and scikit-learn's regression."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from prefdata.errors import DataError
from prefdata.judging.measures import arena_hard as arena
from prefdata.workflow.cli import app
from prefdata.workflow.recipes import results_of

LABELS = ["A>>B", "A>B", "A=B", "B>A", "B>>A"]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def question(n: int) -> dict[str, Any]:
    return {"uid": f"u{n}", "category": "hard_prompt" if n % 2 else "creative_writing", "subcategory": "x", "prompt": f"S{n}"}


def judgment(n: int, model: str, first: str | None, second: str | None) -> dict[str, Any]:
    games = [{"score": s, "judgment": {"answer": "..."}, "prompt": "..."} for s in (first, second)]
    return {
        "uid": f"u{n}",
        "category": question(n)["category"],
        "judge": "j",
        "model": model,
        "baseline": "base",
        "games": games,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six questions, a baseline and two models."""
    write(tmp_path / "question.jsonl", [question(n) for n in range(6)])
    for who, text in (("base", "b **b** b"), ("one", "# t\n1. a\n2. b\n```\n# no\n```"), ("two", "plain words here")):
        rows = [arena.answer_row(f"u{n}", who, f"S{n}", text + " x" * n * len(who)) for n in range(6)]
        write(tmp_path / "model_answer" / f"{who}.jsonl", rows)
    said = [("A>B", "A>>B"), ("B>>A", "A>B"), ("A=B", "B>A"), ("A>>B", "B>>A"), ("B>A", "A>B"), (None, "A>B")]
    write(tmp_path / "model_judgment" / "j" / "one.jsonl", [judgment(n, "one", *s) for n, s in enumerate(said)])
    other = [("B>A", "A>B")] * 4 + [("A>B", "B>A"), ("A=B", "A=B")]
    write(tmp_path / "model_judgment" / "j" / "two.jsonl", [judgment(n, "two", *s) for n, s in enumerate(other)])
    return tmp_path


def test_strong_verdicts_count_thrice_and_the_baseline_is_a_in_the_first_game(folder: Path) -> None:
    """By hand: u0 0/1 + 3/3, u1 3/3 + 1/1, u2 .5/1 + 0/1, u3 0/3 + 0/3, u4 1/1 + 1/1; u5 lacks a verdict."""
    found = {f["model"]: f for f in arena.leaderboard(folder, "j", "base", False, None)}
    won, whole = 0 + 3 + 3 + 1 + 0.5 + 0 + 0 + 0 + 1 + 1, 1 + 3 + 3 + 1 + 1 + 1 + 3 + 3 + 1 + 1
    assert found["one"]["score"] == pytest.approx(won / whole)
    assert (found["one"]["prompts"], found["one"]["missing"]) == (5, 1)
    assert found["two"]["score"] == pytest.approx((4 * 2 + 0 + 1) / 12)
    hard = {f["model"]: f for f in arena.leaderboard(folder, "j", "base", False, "hard_prompt")}
    assert hard["one"]["score"] == pytest.approx((3 + 1 + 0 + 0) / (3 + 1 + 3 + 3))


def test_every_label_reads_from_both_sides() -> None:
    turned = str.maketrans("AB", "BA")
    for label, (won, times) in arena.LABELS.items():
        assert arena.LABELS[label.translate(turned)] == (1 - won, times)


def test_battles_of_a_prompt_are_resampled_together() -> None:
    """Twice the same prompts' battles tell nothing new: the error by prompts stays, one by battles would shrink by sqrt 2."""
    rng = np.random.default_rng(0)
    won = rng.integers(0, 2, 400).astype(float).tolist()
    once = arena.Battles([f"u{i}" for i in range(400)], won, [1] * 400)
    twice = arena.Battles(once.uids * 2, won * 2, [1] * 800)
    (one,), (two,) = arena.scores({"m": once}, 0), arena.scores({"m": twice}, 0)
    assert two["se"] == pytest.approx(one["se"])
    assert one["se"] == pytest.approx((np.var(won) / 400) ** 0.5, rel=0.08)


@given(st.integers(0, 1000))
def test_style_control_is_the_regression_of_scikit_learn(seed: int) -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(seed)
    uids = [f"u{i}" for i in range(60)]
    styles = {
        w: {u: [float(rng.integers(20, 90)), *map(float, rng.integers(0, 6, 3))] for u in uids} for w in ("base", "a", "b")
    }
    by_model = {
        m: arena.Battles(uids, rng.choice([0.0, 1.0], 60, p=[0.4, 0.6]).tolist(), rng.choice([1, 3], 60).tolist())
        for m in ("a", "b")
    }
    found = {f["model"]: f["score"] for f in arena.controlled(by_model, styles, "base", 0)}
    style = []
    for m in ("a", "b"):
        for u in uids:
            x, y = np.array(styles[m][u]), np.array(styles["base"][u])
            dx, dy = x[1:] / x[0], y[1:] / y[0]
            style.append([(x[0] - y[0]) / (x[0] + y[0]), *((dx - dy) / (dx + dy + 1))])
    z = (np.array(style) - np.mean(style, 0)) / np.std(style, 0)
    design = np.hstack([np.repeat(np.eye(2), 60, 0), z])
    won = np.concatenate([by_model[m].won for m in ("a", "b")])
    times = np.concatenate([by_model[m].times for m in ("a", "b")])
    fit = LogisticRegression(C=1e9, fit_intercept=False, tol=1e-10, max_iter=1000).fit(design, won, sample_weight=times)
    wanted = 1 / (1 + np.exp(-fit.coef_[0][:2]))
    assert [found["a"], found["b"]] == pytest.approx(wanted.tolist(), abs=1e-3)


def test_of_two_equal_models_the_longer_one_is_no_better_at_equal_style() -> None:
    """A judge that looks at lengths alone: raw scores differ, controlled ones do not."""
    rng = np.random.default_rng(1)
    uids = [f"u{i}" for i in range(1500)]
    styles = {"base": {u: [200.0, 0, 0, 0] for u in uids}}
    by_model = {}
    for model, longer in (("long", 60), ("short", -60)):
        styles[model] = {u: [float(n) + longer, 0, 0, 0] for u, n in zip(uids, rng.integers(120, 400, 1500), strict=True)}
        relative = np.array([(s[0] - 200) / (s[0] + 200) for s in styles[model].values()])
        won = (rng.random(1500) < 1 / (1 + np.exp(-6 * relative))).astype(float)
        by_model[model] = arena.Battles(uids, won.tolist(), [1] * 1500)
    raw = {f["model"]: f for f in arena.scores(by_model, 0)}
    even = {f["model"]: f for f in arena.controlled(by_model, styles, "base", 0)}
    assert raw["long"]["score"] - raw["short"]["score"] > 0.2
    apart = even["long"]["score"] - even["short"]["score"]
    assert abs(apart) < 4 * (even["long"]["se"] + even["short"]["se"]) < 0.25


def test_markdown_is_counted_outside_of_code() -> None:
    found = arena.metadata("# a\n## b\n1. x\n - y\n**c** __d__\n```py\n# no\n- no\n```\n")
    assert found["header_count"] == {"h1": 1, "h2": 1, "h3": 0, "h4": 0, "h5": 0, "h6": 0}
    assert found["list_count"] == {"ordered": 1, "unordered": 1}
    assert found["bold_count"] == {"**": 1, "__": 1}


def test_our_judgments_are_read_back_as_what_they_say(folder: Path) -> None:
    """Outcomes by who was shown first: the model as a, the baseline as b."""
    asked = arena.questions(folder)
    orders = [("a", "a"), ("b", "b"), ("a", "b"), ("tie", "a"), ("missing", "a")]
    rows = [
        arena.judgment_row(asked[f"u{n}"], "mine", "one", "base", {"ab": ab, "ba": ba})  # type: ignore[dict-item]
        for n, (ab, ba) in enumerate(orders)
    ]
    assert [g["score"] for g in rows[0]["games"]] == ["B>A", "A>B"]
    write(folder / "model_judgment" / "mine" / "one.jsonl", rows)
    found = arena.battles(folder, "mine", "one", "base")
    assert found.won == [1, 1, 0, 0, 0, 1, 1, 0.5]
    assert found.missing == 1


def test_the_command_adds_answers_judges_and_prints(folder: Path, lm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a judge of a recipe, and a system that answered other instructions too."""
    system = [{"instruction": f"S{n}", "output": "ab" * (n + 1), "generator": "dpo/default"} for n in range(4)]
    system.append({"instruction": "other", "output": "x", "generator": "dpo/default"})
    (folder / "system.json").write_text(json.dumps(system))
    recipe = folder / "r.yaml"
    recipe.write_text(
        json.dumps(
            {
                "name": "arena",
                "sources": {"sources": [{"name": "s", "path": "x.jsonl"}]},
                "judge": [{"name": "own", "kind": "likelihood", "model": {"id": str(lm), "template": "plain", "end": "none"}}],
            }
        )
    )
    for who, text in (("base", "ab"), ("one", "ba"), ("two", "abc")):
        write(folder / "model_answer" / f"{who}.jsonl", [arena.answer_row(f"u{n}", who, f"S{n}", text) for n in range(6)])
    monkeypatch.chdir(folder)
    words = ["arena-hard", str(folder), "--judge", "own", "--against", "base", "--answers", str(folder / "system.json")]
    done = CliRunner().invoke(app, [*words, "--settings", str(recipe), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout[done.stdout.index("[") :])
    assert {f["model"]: f["prompts"] for f in facts} == {"dpo-default": 4, "one": 6, "two": 6}
    assert "1 answers to no question, 2 questions unanswered" in done.stderr
    assert "dpo-default: 2 questions lack an answer of either side" in done.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("model_judgment/j/one.jsonl", [judgment(0, "one", "A>C", "A>B")]), "one.jsonl:1:games: 'A>C' is no verdict"),
        (("model_judgment/j/one.jsonl", [{"uid": "u0"}]), "one.jsonl:1:games: missing .*; give each row of one.jsonl this"),
        (("model_answer/one.jsonl", [{"uid": "u0", "messages": []}]), "one.jsonl:1:messages: no answer in the last message"),
        (("question.jsonl", [{"uid": 3, "prompt": "x", "category": "c"}]), "question.jsonl:1:uid: str expected, not int"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, change: tuple[str, list[dict[str, Any]]], said: str) -> None:
    write(folder / change[0], change[1])
    with pytest.raises(DataError, match=said):
        arena.questions(folder)
        arena.leaderboard(folder, "j", "base", True, None)


def test_judgments_against_another_baseline_are_left_out_and_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "model_judgment" / "j" / "two.jsonl"
    write(path, [{**json.loads(line), "baseline": "other"} for line in path.read_text().splitlines()])
    found = {f["model"]: f["prompts"] for f in arena.leaderboard(folder, "j", "base", False, None)}
    assert found == {"one": 5, "two": 0}
    assert "6 judgments are against other baselines: {'other': 6}" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"no judgment is against nosuch.*name one of \['base', 'other'\]"):
        arena.leaderboard(folder, "j", "nosuch", False, None)
    styled = {f["model"]: f["score"] for f in arena.leaderboard(folder, "j", "base", True, None)}
    assert styled["two"] is None, "nothing is known of it"


def test_answers_that_change_are_judged_again(folder: Path, lm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for who, text in (("base", "ab"), ("one", "ba"), ("two", "abc")):
        write(folder / "model_answer" / f"{who}.jsonl", [arena.answer_row(f"u{n}", who, f"S{n}", text) for n in range(6)])
    own = {"name": "own", "kind": "likelihood", "model": {"id": str(lm), "template": "plain", "end": "none"}}
    sources = {"sources": [{"name": "s", "path": "x.jsonl"}]}
    (folder / "r.yaml").write_text(json.dumps({"name": "arena", "sources": sources, "judge": [own]}))
    monkeypatch.chdir(folder)
    arena.judge(results_of(folder / "r.yaml"), folder, "own", "base")
    before = arena.battles(folder, "own", "one", "base").won
    write(folder / "model_answer" / "one.jsonl", [arena.answer_row(f"u{n}", "one", f"S{n}", "ab") for n in range(6)])
    arena.judge(results_of(folder / "r.yaml"), folder, "own", "base")
    assert set(before) != {0.5}
    assert set(arena.battles(folder, "own", "one", "base").won) == {0.5}, "it answers as the baseline now"


def test_an_unknown_judge_or_baseline_is_named(folder: Path) -> None:
    with pytest.raises(DataError, match="no judgments by k"):
        arena.leaderboard(folder, "k", "base", False, None)
    with pytest.raises(DataError, match="no judgment is against bas .did you mean 'base'"):
        arena.leaderboard(folder, "j", "bas", True, None)
