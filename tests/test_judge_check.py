"""Judges against people: figures by hand, an oracle for kappa, yardsticks, and what bad files get."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefdata.errors import ConfigError, DataError
from prefdata.judging.measures import against_people, estimates

SHARED = Path(__file__).parents[1].parent / "shared" / "data" / "judge_human" / "pandalm_pairs.jsonl"


def row(human: str, judge: str, a: str = "long answer", b: str = "short", **extra: object) -> dict[str, object]:
    return {"prompt": "?", "a": a, "b": b, "human": human, "judges": {"j": judge}, **extra}


def found(write_rows: Callable[..., str], rows: list[dict[str, object]]) -> dict[str, against_people.Agreement]:
    return {f.judge: f for f in against_people.check(against_people.read(Path(write_rows(rows))))[0]}


def test_agreement_and_kappa_by_hand(write_rows: Callable[..., str]) -> None:
    """Six pairs, four agreed, one missing: po = 4/6; people a 3/6, b 2/6, tie 1/6, judge a 3/6, b 1/6, tie 1/6."""
    rows = [row("a", "a"), row("a", "a"), row("a", "unparsed"), row("b", "b"), row("b", "a"), row("tie", "tie")]
    j = found(write_rows, rows)["j"]
    expected = 3 / 6 * 3 / 6 + 2 / 6 * 1 / 6 + 1 / 6 * 1 / 6
    assert j.agreement == pytest.approx(4 / 6)
    assert j.kappa == pytest.approx((4 / 6 - expected) / (1 - expected))
    assert j.missing == pytest.approx(1 / 6)
    assert j.chose_first == pytest.approx(3 / 4)
    assert j.agreement_interval[0] <= j.agreement <= j.agreement_interval[1]


def test_yardsticks_are_length_and_position(write_rows: Callable[..., str]) -> None:
    rows = [row("a", "b"), row("b", "b"), row("b", "b", a="x", b="xy"), row("tie", "a", a="xy", b="yx")]
    figures = found(write_rows, rows)
    assert list(figures) == ["j", against_people.FIRST, against_people.LONGER]
    assert figures[against_people.LONGER].agreement == pytest.approx(3 / 4)
    assert figures[against_people.FIRST].agreement == pytest.approx(1 / 4)
    assert figures[against_people.FIRST].kappa == pytest.approx(0)  # a constant says nothing


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=30))
def test_kappa_equals_the_confusion_matrix(verdicts: list[tuple[int, int]]) -> None:
    matrix = np.zeros((4, 4))
    for human, judge in verdicts:
        matrix[human, judge] += 1
    matrix /= len(verdicts)
    expected = float(matrix.sum(1) @ matrix.sum(0))
    exact = (np.trace(matrix) - expected) / (1 - expected) if expected < 1 else 0.0
    human, judge = (np.array(v, dtype=np.int64) for v in zip(*verdicts, strict=True))
    assert estimates.kappa(human, judge) == pytest.approx(exact)
    doubled = estimates.kappa(human, judge, np.full(len(verdicts), 2.0))
    assert doubled == pytest.approx(exact)


def test_differences_are_paired(write_rows: Callable[..., str]) -> None:
    """Two judges that say the same differ by nothing, however wide each one's own interval is."""
    rows = [row("ab"[i % 2], "a") for i in range(20)]
    for r in rows:
        r["judges"]["same"] = r["judges"]["j"]
    differences = against_people.check(against_people.read(Path(write_rows(rows))))[1]
    (same,) = [d for d in differences if {d["one"], d["other"]} == {"j", "same"}]
    assert same["difference"] == 0
    assert same["interval"] == (0, 0)


def test_people_among_themselves(write_rows: Callable[..., str]) -> None:
    rows = [row("a", "a", annotators=["a", "a", "b"]), row("b", "b", annotators=["b", "b", "b"])]
    assert against_people.among_people(against_people.read(Path(write_rows(rows)))) == pytest.approx((1 / 3 + 1) / 2)
    assert against_people.among_people(against_people.read(Path(write_rows([row("a", "a")])))) is None


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row("c", "a")], "rows.jsonl:1:human: one of a, b, tie expected, not 'c'"),
        ([{"a": "x", "b": "y"}], r"rows.jsonl:1:human: missing \(the row has .*; give each row prompt, a, b and human$"),
        ([row("a", "a", annotators=["x"])], "rows.jsonl:1:annotators: one of a, b, tie expected"),
        ([row("a", "a", judges=["a"])], "rows.jsonl:1:judges: dict expected"),
    ],
)
def test_a_bad_row_is_named(write_rows: Callable[..., str], rows: list[dict[str, object]], said: str) -> None:
    with pytest.raises(DataError, match=said):
        against_people.read(Path(write_rows(rows)))


def test_a_recipe_without_a_judge_has_none_to_ask(write_rows: Callable[..., str], tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from prefdata.workflow.cli import app

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"name: t\nsources: {{sources: [{{name: s, path: {tmp_path / 'none.jsonl'}}}]}}\n")
    done = CliRunner().invoke(app, ["judge-check", write_rows([row("a", "a")]), "--settings", str(recipe)])
    assert isinstance(done.exception, ConfigError)
    assert "recipe.yaml: the recipe has no judge to ask; add one under judge, or leave --settings out" in str(done.exception)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; correct PAIRS"):
        against_people.read(tmp_path / "none.jsonl")


def test_the_command_prints_both_forms(write_rows: Callable[..., str]) -> None:
    from typer.testing import CliRunner

    from prefdata.workflow.cli import app

    path = write_rows([row("a", "a"), row("b", "a"), row("tie", "?")])
    said = CliRunner().invoke(app, ["judge-check", path]).stdout
    assert "3 pairs judged by people" in said
    assert "33.3%" in said
    figures = json.loads(CliRunner().invoke(app, ["judge-check", path, "--json"]).stdout)
    assert figures["judges"][0]["missing"] == pytest.approx(1 / 3)


@pytest.mark.skipif(not SHARED.exists(), reason="the human-judged pairs are not part of the project")
def test_the_recorded_judges_of_pandalm() -> None:
    judges = {f.judge: f for f in against_people.check(against_people.read(SHARED))[0]}
    assert judges["gpt-3.5-turbo"].agreement == pytest.approx(0.693, abs=5e-4)
    assert judges["pandalm-7b"].agreement == pytest.approx(0.668, abs=5e-4)
    assert judges["gpt-3.5-turbo"].missing == pytest.approx(63 / 999)
