"""The verdict on a set: figures of quality.json and of the judges' reports, each against limits that are said beside it.

The limits are rules of thumb: a figure outside them is to be looked at, one inside proves nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Facts = Mapping[str, Any]
State = Literal["suspicious", "good", "too few"]
STATES: tuple[State, ...] = ("suspicious", "good", "too few")
ENOUGH = 30
"""Of fewer pairs, prompts or verdicts than this nothing is said."""


@dataclass(frozen=True)
class Check:
    """One figure: what it is, the limits between which it is held for good (both inside), and what it means beyond them."""

    what: str
    low: float
    high: float
    means: str


CHECKS = {
    "length": Check(
        "pairs of answers of which the ranking prefers the longer one",
        0.4,
        0.6,
        "the ranking goes with the length: a model may learn to write long (or short) answers",
    ),
    "length_ratio": Check(
        "median length of the chosen answer over the mean of the rejected ones",
        0.67,
        1.5,
        "chosen and rejected answers can be told apart by their length",
    ),
    "reference": Check(
        "pairs of answers that the primary reference, by nats per token, orders as the ranking does",
        0.35,
        0.95,
        "low: the ranking contradicts the model it is for; high: that model has nothing left to learn from it",
    ),
    "same_words": Check(
        "prompts with a rejected answer of the same words as the chosen one",
        0.0,
        0.01,
        "such pairs prefer spaces, case or punctuation",
    ),
    "ties": Check(
        "prompts of which several answers share the first place",
        0.0,
        0.3,
        "the chosen answer is then drawn among equals; the others have the role other",
    ),
    "one_rejected": Check(
        "prompts with one rejected answer only",
        0.0,
        0.5,
        "an objective that draws its negatives has nothing to draw from there",
    ),
    "cut": Check(
        "prompts whose chosen answer was cut by the length limit",
        0.0,
        0.05,
        "a model learns to stop in the middle, or not to stop",
    ),
    "one_producer": Check(
        "chosen answers that come from one producer, where there are several",
        0.0,
        0.8,
        "a model may learn whose style it is instead of what is good",
    ),
    "noise": Check(
        "noise answers that the reference finds at least as likely as the chosen one",
        0.0,
        0.1,
        "noise is no sure negative for this reference",
    ),
    "consistency": Check(
        "pairs that the judge orders alike whichever answer it reads first", 0.8, 1.0, "the order shown decides some verdicts"
    ),
    "first_place": Check("verdicts won by the answer that the judge reads first", 0.4, 0.6, "the judge has a position bias"),
    "judge_ties": Check("pairs that the judge holds for equal", 0.0, 0.3, "the judge often has no preference"),
    "missing": Check("verdicts that are missing (no clear reply)", 0.0, 0.02, "the judge is often not understood"),
    "cycles": Check(
        "triples of answers that the judge orders in a circle",
        0.0,
        0.05,
        "its preferences follow no one scale: ranks are rough",
    ),
}


@dataclass(frozen=True)
class Measured:
    """A check's figure. `about`: whose it is; `n`: of how many."""

    check: str
    about: str
    value: float | None
    n: int


def findings(quality: Facts, judges: Sequence[Facts], method: str, references: Sequence[str]) -> list[dict[str, Any]]:
    """Every check with its state, suspicious ones first. `judges`: facts of the judges' reports; `references`: names, the
    primary one first."""
    found = []
    for measured in [*_of_set(quality, method, references), *(m for judge in judges for m in _of_judge(judge))]:
        check = CHECKS[measured.check]
        found.append({**asdict(measured), **asdict(check), "state": _state(measured, check)})
    return sorted(found, key=lambda f: STATES.index(f["state"]))


def _state(measured: Measured, check: Check) -> State:
    if measured.value is None or measured.n < ENOUGH:
        return "too few"
    return "good" if check.low <= measured.value <= check.high else "suspicious"


def _of_set(quality: Facts, method: str, references: Sequence[str]) -> Iterator[Measured]:
    agreement = {(a["one"], a["other"]): (a["agree"], a["pairs"]) for a in quality["agreement"]}
    yield Measured("length", method, *agreement.get((method, "length"), (None, 0)))
    ratio = next(f for f in quality["figures"] if f["figure"] == "length_ratio")
    yield Measured("length_ratio", "the set", ratio.get("p50"), ratio["n"])
    for name in references[:1]:
        yield Measured("reference", name, *agreement.get((method, f"reference {name}"), (None, 0)))
    prompts = quality["prompts"]
    for check, counted in COUNTED.items():
        yield Measured(check, "the set", quality["degenerate"].get(counted, 0) / prompts if prompts else None, prompts)
    chosen = {p["producer"]: p["chosen"] for p in quality["producers"] if p["in the set"]}
    if len(chosen) > 1 and prompts:
        most = max(chosen, key=lambda name: chosen[name])
        yield Measured("one_producer", most, chosen[most] / prompts, prompts)
    for noise in quality["noise"]:
        yield Measured("noise", noise["reference"], noise["noise_likelier"], noise["n"])


COUNTED = {
    "same_words": "same words as the chosen",
    "ties": "ties with the chosen",
    "one_rejected": "one rejected answer",
    "cut": "chosen answer cut by the length limit",
}
"""Checks of prompts that quality.json counts: under which name."""
OF_JUDGE = {"consistency": "consistency", "first_place": "first_place", "judge_ties": "ties", "cycles": "cycles"}


def _of_judge(judge: Facts) -> Iterator[Measured]:
    named = f"judge {judge['judge']}"
    for check, figure in OF_JUDGE.items():
        if figure in judge:  # a judge that scores each answer by itself has no pairs
            yield Measured(check, named, judge[figure]["share"], judge[figure]["of"])
    missing = judge["missing"]["verdicts"]
    yield Measured("missing", named, missing["share"], missing["of"])
