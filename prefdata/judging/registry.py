"""KINDS: the kinds of judges, by the name that `judge[].kind` gives. A new kind is a function in this folder, and a row.

A kind either compares two answers (`make` gives a Judge) or scores each by itself (a Pointwise).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prefdata.errors import did_you_mean
from prefdata.judging import exact, pairwise, pointwise
from prefdata.judging.judge import Judge
from prefdata.judging.pointwise import Pointwise
from prefdata.judging.procedures import PROCEDURES
from prefdata.recipe.results import Models
from prefdata.recipe.settings.judging import JudgeSettings
from prefdata.recipe.settings.whole import Settings


@dataclass(frozen=True)
class JudgeKind:
    """`what` is said on the card and by the command line. `problem`: what is wrong with a judge's settings, if anything;
    `slice`: what can change its verdicts beside the keys of its own section and its model."""

    make: Callable[[Models, JudgeSettings], Judge | Pointwise]
    what: str
    compares: bool = True
    problem: Callable[[JudgeSettings], str | None] = lambda judge: None
    slice: Callable[[Settings, JudgeSettings], dict[str, Any]] = lambda settings, judge: {}


KINDS: dict[str, JudgeKind] = {
    "exact": JudgeKind(exact.exact, "the embedded world's own judge, which knows the answers"),
    "noisy": JudgeKind(exact.noisy, "the embedded world's own judge with planted errors"),
    "pairwise": JudgeKind(
        pairwise.pairwise,
        "a language model that compares two answers by a rubric",
        problem=pairwise.problem,
        slice=pairwise.slice_of,
    ),
    "likelihood": JudgeKind(
        pointwise.likelihood,
        "a language model's nats per character",
        compares=False,
        problem=pointwise.problem,
        slice=lambda settings, judge: {"dtype": settings.score.dtype},
    ),
    "reward": JudgeKind(
        pointwise.reward, "a reward model's score (a sequence classifier)", compares=False, problem=pointwise.problem
    ),
    "verifier": JudgeKind(pointwise.verifier, "a check against the prompt's final answer", compares=False),
}


def check(settings: Settings) -> list[str]:
    """What is wrong with the judges of a recipe, one line each."""
    problems = []
    for judge in settings.judge:
        at = f"judge ({judge.name})"
        if judge.kind not in KINDS:
            problems.append(f"{at}: kind {judge.kind!r} is unknown{did_you_mean(judge.kind, KINDS)}")
        elif (found := KINDS[judge.kind].problem(judge)) is not None:
            problems.append(f"{at}: {found}")
        if judge.procedure not in PROCEDURES:
            problems.append(f"{at}: procedure {judge.procedure!r} is unknown{did_you_mean(judge.procedure, PROCEDURES)}")
    return problems


def described(judge: JudgeSettings) -> str:
    """What a judge is, for the card."""
    kind = KINDS[judge.kind]
    if not kind.compares:
        return f"{kind.what}; each answer by itself"
    orders = "both orders" if judge.swap_margin is None else f"the second order where the margin is below {judge.swap_margin:g}"
    return f"{kind.what}; {judge.procedure}, {orders}"
