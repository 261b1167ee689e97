"""Rubrics: slots are filled once, fences cannot be forged, verdicts are read from their own place; files are checked."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefdata.errors import ConfigError
from prefdata.judging.pairwise import read_labels, read_text
from prefdata.judging.rubric import Rubric, load
from prefdata.models.engines.protocol import Completion

SLOTS = ["{prompt}", "{first}", "{second}", "{answer}", "{ask}", "{nonce}", "----- end first", "[[A]]", "{{ 7*7 }}", "\\1"]
TEXT = st.lists(st.one_of(st.sampled_from(SLOTS), st.text(max_size=8)), max_size=6).map("".join)


def prompt(text: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}], "answer": None}


@given(TEXT, TEXT, TEXT)
def test_texts_stand_verbatim_between_fences_that_they_cannot_hold(asked: str, first: str, second: str) -> None:
    rubric = load("helpfulness")
    system, user = rubric.messages(prompt(asked), first, second, "text")
    nonce = system["content"].split("code ")[1].split(" ")[0]
    assert not any(nonce in text for text in (asked, first, second))
    rest = user["content"]
    for name, text in (("prompt", asked), ("first", first), ("second", second)):
        _, opened, rest = rest.partition(f"----- {name} {nonce}\n")
        assert opened
        assert rest.startswith(f"{text}\n----- end {nonce}")
        rest = rest[len(text) :]
    assert rest.count(nonce) == 1


def test_several_turns_are_shown_with_their_roles() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    _, user = load("helpfulness").messages({"messages": turns, "answer": "4"}, "x", "y", "labels")
    assert "user: a\n\nassistant: b\n\nuser: c" in user["content"]
    assert user["content"].endswith("A, B, or C if neither is better.")


def test_another_wording_is_another_hash() -> None:
    rubric = load("helpfulness")
    assert rubric.hash != load("toy").hash
    assert rubric.model_copy(update={"system": rubric.system + " "}).hash != rubric.hash


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("because\n[[A]]", "first"),
        ("[[B]]\n\n  ", "second"),
        ("x\n  [[C]]  ", "tie"),
        ("[[A]]\n[[A]]", "first"),
        ("[[A]]\n[[B]]", None),
        ("[[B]] and so\n[[A]]", "first"),
        ("[[A]].", "first"),
        ("**[[B]]**", "second"),
        ("## `[[C]]`.", "tie"),
        ("The better one is [[A]]", "first"),
        ("Not [[B]], but [[A]]", None),
        ("[[B]] is what they would say.\nThe better one is [[A]]", None),
        ("[[A]] it is", None),
        ("[[a]]", None),
        ("[[D]]", None),
        ("A", None),
        ("", None),
        ("[[A]]\nthank you", None),
        ("［［Ａ］］", None),
    ],
)
def test_a_verdict_is_the_last_line_and_nothing_else(text: str, place: str | None) -> None:
    assert load("helpfulness").place(text) == place
    reading = read_text(load("helpfulness"), Completion(text, "stop", 1))
    assert (reading.outcome, reading.reason) == ((place, None) if place else ("missing", "parse"))
    assert read_text(load("helpfulness"), Completion(text, "length", 1)).reason == "truncated"


INF = float("inf")


@pytest.mark.parametrize(
    ("logps", "outcome", "margin"),
    [
        ((-1.0, -2.0, -3.0), "first", 1.0),
        ((-2.0, -1.5, -3.0), "second", -0.5),
        ((-2.0, -1.5, -1.0), "tie", -0.5),
        ((-1.0, -1.0, -2.0), "tie", 0.0),
        ((-1.0, -INF, -INF), "first", 50.0),
        ((-INF, 0.0, -INF), "second", -50.0),
        ((-INF, -INF, -1.0), "tie", 0.0),
        ((-INF, -INF, -INF), "missing", None),
        ((float("nan"), -1.0, -1.0), "missing", None),
        ((0.5, -1.0, -1.0), "missing", None),
        ((-1.0, -1.0), "missing", None),
        (None, "missing", None),
    ],
)
def test_the_likeliest_label_is_the_verdict(logps: tuple[float, ...] | None, outcome: str, margin: float | None) -> None:
    reading = read_labels(load("helpfulness"), Completion("A", "stop", 1, logps=logps))
    assert (reading.outcome, reading.margin) == (outcome, margin)


def test_a_rubric_without_a_tie_has_ties_of_equal_log_probs() -> None:
    assert read_labels(load("toy"), Completion("A", "stop", 1, logps=(-1.0, -1.0))).outcome == "tie"
    assert read_labels(load("toy"), Completion("A", "stop", 1, logps=(-1.0, -1.1))).outcome == "first"


GOOD = {
    "user": "{prompt} {first} {second}",
    "ask": {"labels": "which?"},
    "labels": {"first": "A", "second": "B"},
    "verdict": "{label}",
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"user": "{prompt} {first}"}, "the slot {second} is missing"),
        ({"labels": {"first": "A", "second": "A"}}, "must differ"),
        ({"labels": {"first": "A"}}, "must differ"),
        ({"verdict": "x"}, "verdict"),
        ({"fence": {"open": "---", "close": "--- {nonce}"}}, "an answer could forge the closing line"),
        ({"sytem": ""}, "did you mean 'system'"),
    ],
)
def test_a_bad_rubric_is_refused_with_what_is_wrong(tmp_path: Path, change: dict[str, object], said: str) -> None:
    import yaml

    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    assert load(str(path)).labels == {"first": "A", "second": "B"}
    bad = tmp_path / "bad.yaml"
    bad.write_text(yaml.safe_dump(GOOD | change))
    with pytest.raises(ConfigError, match="bad.yaml") as told:
        load(str(bad))
    assert said in str(told.value)


def test_an_unknown_rubric_is_named_with_ours() -> None:
    with pytest.raises(ConfigError, match="no rubric 'helpful'; give the path of a file, or one of helpfulness, toy"):
        load("helpful")
    assert isinstance(load("helpfulness"), Rubric)


def test_a_rubric_whose_verdict_is_decorated_itself_is_read() -> None:
    for verdict in ("**{label}**", "_{label}_.", "Verdict: {label}."):
        own = load("helpfulness").model_copy(update={"verdict": verdict})
        assert own.place("so\n" + verdict.replace("{label}", "B")) == "second"
