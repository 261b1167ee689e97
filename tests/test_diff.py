"""`prefdata diff`: every field that changes is found and named, nothing else is, and the other way round is its mirror."""

import copy
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from literal_sets import Row, candidate, frame, put, row
from test_from_file import published
from test_show import ROWS, run

from prefdata.errors import DataError
from prefdata.output.looking import difference as compared
from prefdata.output.looking.difference import KINDS, Change, Difference, difference
from prefdata.output.looking.opened import Opened
from prefdata.workflow.cli import run_command

__all__ = ["published"]
MIRRORED = {"prompt_added": "prompt_removed", "candidate_added": "candidate_removed"}
MIRRORED |= {b: a for a, b in MIRRORED.items()}


class Rows(Opened):
    """A set in memory, in parts of some rows."""

    def __init__(self, rows: list[Row], size: int = 100) -> None:
        super().__init__("rows", [])
        object.__setattr__(self, "cut", list(frame(rows).iter_slices(size)))

    def parts(self) -> Any:
        return iter(self.cut)  # type: ignore[attr-defined]


def found(a: list[Row], b: list[Row], size: int = 100, **keys: Any) -> Difference:
    return difference(Rows(a, size), Rows(b, 100), **{"limit": 1000, **keys})


def changes(made: Difference) -> list[Change]:
    return [c for kind in KINDS for c in made.examples.get(kind, [])]


def mirror(made: Difference) -> Difference:
    def turned(c: Change) -> Change:
        return replace(c, kind=MIRRORED.get(c.kind, c.kind), a=c.b, b=c.a)

    counts, prompts = (Counter({MIRRORED.get(k, k): n for k, n in known.items()}) for known in (made.counts, made.prompts))
    examples = {MIRRORED.get(k, k): [turned(c) for c in known] for k, known in made.examples.items()}
    return replace(made, in_a=made.in_b, in_b=made.in_a, counts=counts, prompts=prompts, examples=examples)


LOGP = st.one_of(st.none(), st.floats(-50, 0))
FLOAT = st.one_of(st.none(), st.floats(-5, 5), st.just(float("nan")))


@st.composite
def sets(draw: st.DrawFn) -> list[Row]:
    made = []
    for prompt in draw(st.sets(st.sampled_from("0123456789abcdef"), min_size=1, max_size=6)):
        some = []
        for k in range(draw(st.integers(2, 4))):
            logp = draw(LOGP)
            own = candidate(k, "rejected" if k else "chosen", draw(st.text(max_size=3)), draw(st.integers(1, 3)))
            own |= {"score": draw(FLOAT), "win_prob": draw(FLOAT)}
            own["logps"] = [] if logp is None else [{"reference": "p", "logp": logp, "num_tokens": 2}]
            some.append(own)
        made.append(row(prompt, some, source=draw(st.sampled_from([None, "s"]))))
    return sorted(made, key=lambda r: r["prompt_id"])


def of_prompt(name: str, value: Any) -> Any:
    return lambda r: r.update({name: value})


def of_candidate(name: str, value: Any) -> Any:
    return lambda r: r["candidates"][1].update({name: value})


def scored(logp: float, tokens: int = 2, name: str = "p") -> Any:
    return lambda r: r["candidates"][1].update(logps=[{"reference": name, "logp": logp, "num_tokens": tokens}])


def other_chosen(r: Row) -> None:
    r["candidates"][0]["role"], r["candidates"][1]["role"] = "rejected", "chosen"
    r["candidates"][:2] = r["candidates"][1::-1]


EDITS: list[tuple[Any, set[tuple[str, str]]]] = [
    (of_prompt("split", "test"), {("prompt_changed", "split")}),
    (of_prompt("source", "z"), {("prompt_changed", "source")}),
    (of_prompt("tools", "[]"), {("prompt_changed", "tools")}),
    (of_prompt("template_kwargs", "{}"), {("prompt_changed", "template_kwargs")}),
    (of_prompt("prompt_extras", "[{}]"), {("prompt_changed", "prompt_extras")}),
    (of_prompt("segment", 3), {("prompt_changed", "segment")}),
    (of_prompt("prompt", [{"role": "user", "content": "y"}]), {("prompt_changed", "prompt")}),
    (of_candidate("response", "another"), {("candidate_changed", "response")}),
    (of_candidate("origin", "generated"), {("candidate_changed", "origin")}),
    (of_candidate("producer", "n"), {("candidate_changed", "producer")}),
    (of_candidate("finish", "length"), {("candidate_changed", "finish")}),
    (of_candidate("copies", 7), {("candidate_changed", "copies")}),
    (of_candidate("extras", "{}"), {("candidate_changed", "extras")}),
    (of_candidate("role", "other"), {("role_changed", "role")}),
    (of_candidate("rank", 9), {("re_ranked", "rank")}),
    (of_candidate("score", 9.0), {("rejudged", "score")}),
    (of_candidate("win_prob", 9.0), {("rejudged", "win_prob")}),
    (other_chosen, {("chosen_changed", "candidate_id"), ("role_changed", "role")}),
]


@given(sets(), st.integers(1, 3))
@settings(max_examples=50)
def test_a_set_does_not_differ_from_itself(rows: list[Row], size: int) -> None:
    assert found(rows, rows).equal
    again = found(rows, copy.deepcopy(rows), size)
    assert (again.equal, again.common, again.changed) == (True, len(rows), 0)


@pytest.mark.parametrize(("change", "wanted"), EDITS, ids=[min(w)[1] for _, w in EDITS])
@given(rows=sets(), data=st.data(), size=st.integers(1, 3))
@settings(max_examples=10)
def test_a_change_of_one_field_is_found_and_named(
    change: Any, wanted: set[tuple[str, str]], rows: list[Row], data: st.DataObject, size: int
) -> None:
    other = copy.deepcopy(rows)
    place = data.draw(st.integers(0, len(rows) - 1))
    change(other[place])
    made = found(rows, other, size)
    assert {(c.kind, c.field) for c in changes(made)} == wanted
    assert {c.prompt_id for c in changes(made)} == {rows[place]["prompt_id"]}
    assert (made.common, made.changed) == (len(rows), 1)


@given(sets(), sets(), st.integers(1, 3))
@settings(max_examples=100)
def test_the_other_way_round_is_the_mirror(a: list[Row], b: list[Row], size: int) -> None:
    one, other = found(a, b, size), found(b, a, size)
    assert repr(mirror(other).facts()) == repr(one.facts())
    ours, theirs = ({r["prompt_id"] for r in rows} for rows in (a, b))
    assert [c.prompt_id for c in one.examples.get("prompt_added", [])] == sorted(theirs - ours)
    assert [c.prompt_id for c in one.examples.get("prompt_removed", [])] == sorted(ours - theirs)
    assert one.common == len(ours & theirs)


def test_log_probs_differ_beyond_the_tolerance_alone() -> None:
    def with_(logp: float, tokens: int = 2, name: str = "p") -> list[Row]:
        rows = [row("a", [candidate(1, "chosen", "a", 1), candidate(2, "rejected", "b", 2)])]
        scored(logp, tokens, name)(rows[0])
        return rows

    assert found(with_(-1.0), with_(-1.00009)).equal
    assert not found(with_(-1.0), with_(-1.00009), tolerance=1e-5).equal
    assert [(c.kind, c.field, c.a, c.b) for c in changes(found(with_(-1.0), with_(-1.0002)))] == [
        ("logps_changed", "logp under p", -1.0, -1.0002)
    ]
    assert [c.field for c in changes(found(with_(-1.0), with_(-1.0, tokens=3)))] == ["num_tokens under p"]
    assert {c.field: c.b for c in changes(found(with_(-1.0), with_(-1.0, name="q")))} == {
        "logp under p": None,
        "num_tokens under p": None,
        "logp under q": -1.0,
        "num_tokens under q": 2,
    }
    assert found(with_(-1.0), with_(-1.0, name="q")).counts["logps_changed"] == 1, "a candidate counts once"


def test_candidates_that_came_and_went() -> None:
    a = [row("a", [candidate(1, "chosen", "a", 1), candidate(2, "rejected", "b", 2)])]
    b = [row("a", [candidate(1, "chosen", "a", 1), candidate(3, "rejected", "c", 2), candidate(4, "rejected", "d", 3)])]
    made = found(a, b)
    assert (made.counts["candidate_added"], made.prompts["candidate_added"], made.counts["candidate_removed"]) == (2, 1, 1)
    assert [(c.candidate_id[-1], c.a, c.b) for c in made.examples["candidate_added"]] == [("3", None, "c"), ("4", None, "d")]
    assert len(found(a, b, limit=1).examples["candidate_added"]) == 1
    assert found(a, b, limit=0).counts == made.counts


def test_two_candidates_with_one_id_are_refused() -> None:
    a = [row("a", [candidate(1, "chosen", "a", 1), candidate(1, "rejected", "b", 2)])]
    with pytest.raises(DataError, match="two candidates with one id"):
        found(a, [row("a", [candidate(1, "chosen", "a", 1)])])


def test_long_texts_are_shown_where_they_part() -> None:
    text = "x" * 300
    a, b = compared._apart(text + "left" + text, text + "right" + text)
    assert ("left" in a, "right" in b, len(a) < 60) == (True, True, True)
    assert compared._apart(None, "a\x1b") == ("-", "a\\u001b")


# ---- the command ----


def test_exit_codes_are_those_of_diff(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = put(tmp_path / "one", ROWS), put(tmp_path / "other", ROWS[1:], shards=2)
    same = put(tmp_path / "same", ROWS, shards=3)
    for words, code in (
        ([one, same], 0),
        ([one, other], 1),
        ([one, tmp_path / "none"], 2),
        ([one, same, "--revision", "x"], 2),
    ):
        monkeypatch.setattr("sys.argv", ["prefdata", "diff", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            run_command()
        assert (ended.value.code or 0) == code, words
    assert "no difference" in capsys.readouterr().out
    said = run("diff", one, other)
    assert said.exit_code == 1
    assert "prompts removed" in said.stdout
    facts = json.loads(run("diff", one, other, "--json").stdout)
    assert facts["prompts"] == {"in_a": 3, "in_b": 2, "common": 2, "changed": 0}
    assert facts["changes"]["prompt_removed"]["count"] == 1
    assert facts["changes"]["prompt_removed"]["examples"][0]["prompt_id"] == ROWS[0]["prompt_id"]
    assert not facts["equal"]


def test_a_published_set_against_its_recipe_and_against_a_later_state(published: Path, tmp_path: Path) -> None:
    assert run("diff", published, published.parents[1]).exit_code == 0
    shutil.copytree(published, tmp_path / "later")
    path = next((tmp_path / "later").glob("data/sets/*"))
    rows = pl.read_parquet(path).to_dicts()
    rows[3]["candidates"][1]["logps"][0]["logp"] -= 0.5
    pl.DataFrame(rows, schema=pl.read_parquet_schema(path)).write_parquet(path)
    found_ = json.loads(run("diff", published, tmp_path / "later", "--json").stdout)["changes"]
    assert {k: v["count"] for k, v in found_.items() if v["count"]} == {"logps_changed": 1}
    assert found_["logps_changed"]["examples"][0]["field"] == "logp under primary"
