"""PROBLEMS: what makes a prompt worth a look, the worst first. Pure functions of one row of `sets` and what is beside it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefdata.sources.words import words
from prefdata.tables.drops import REASONS

Row = dict[str, Any]
LONGER = 3.0


@dataclass(frozen=True)
class Known:
    """A row of `sets`; its figures (prefdata.tables.figures), verdicts and drops; the set's references."""

    row: Row
    figures: Mapping[str, float | None]
    verdicts: Sequence[Row]
    drops: Sequence[Row]
    references: Sequence[str]

    @property
    def chosen(self) -> Row:
        return next(c for c in self.row["candidates"] if c["role"] == "chosen")

    @property
    def rejected(self) -> list[Row]:
        """Noise left out."""
        return [c for c in self.row["candidates"] if c["role"] == "rejected" and c["origin"] != "noise"]

    def figure(self, name: str, default: float = 0.0) -> float:
        """One that cannot be is no problem."""
        value = self.figures.get(name)
        return default if value is None else value


@dataclass(frozen=True)
class Problem:
    """`label` is for a line of a list; `words` finish the sentence "prompts with ..."."""

    label: str
    words: str
    found: Callable[[Known], bool]


def _same_words(known: Known) -> bool:
    own = words(known.chosen["response"])
    return any(words(c["response"]) == own for c in known.rejected)


def _unscored(known: Known) -> bool:
    names = {x["reference"] for c in known.row["candidates"] for x in c["logps"]} | set(known.references)
    return any(len(c["logps"]) < len(names) for c in known.row["candidates"])


def _orders_differ(known: Known) -> bool:
    """A pair that a judge decides otherwise where the answers are shown in the other order."""
    told: dict[tuple[str, ...], set[str]] = {}
    for v in known.verdicts:
        if v["outcome"] not in (None, "missing"):
            told.setdefault((v["judge"], v["rubric"], v["a"], v["b"]), set()).add(v["outcome"])
    return any(len(outcomes) > 1 for outcomes in told.values())


def _bad(drop: Row) -> bool:
    """Whether what was dropped is bad input; all else is what the recipe asks for."""
    known = REASONS.get(drop["reason"].partition(":")[0])
    return known is None or known.bad


PROBLEMS: dict[str, Problem] = {
    "chosen_cut": Problem(
        "chosen is cut", "a chosen answer that ends at the limit of tokens", lambda k: k.chosen["finish"] == "length"
    ),
    "same_words": Problem("same words", "a rejected answer of the chosen one's words", _same_words),
    "score_against": Problem(
        "better score rejected", "a rejected answer of a better score", lambda k: k.figure("score_gap") < 0
    ),
    "unscored": Problem("no log-prob", "an answer without a log-prob", _unscored),
    "orders_differ": Problem("orders disagree", "a pair judged otherwise in the other order", _orders_differ),
    "no_verdict": Problem(
        "reply not read",
        "a judge's reply that could not be read",
        lambda k: any(v["outcome"] == "missing" for v in k.verdicts),
    ),
    "reference_against": Problem(
        "reference against it",
        "a chosen answer that the first reference finds less likely a token than the rejected ones",
        lambda k: k.figure("reference_margin") < 0,
    ),
    "dropped": Problem("bad answers", "answers dropped as bad input", lambda k: any(map(_bad, k.drops))),
    "chosen_long": Problem(
        "chosen is long",
        f"a chosen answer over {LONGER:g} times as long as the rejected ones",
        lambda k: k.figure("length_ratio") > LONGER,
    ),
    "tied": Problem("ties", "answers that tie with the chosen one", lambda k: k.figure("tied") > 0),
    "one_rejected": Problem("one rejected", "one rejected answer", lambda k: len(k.rejected) == 1),
}


def problems(known: Known) -> list[int]:
    """The numbers of the problems that a prompt has, in PROBLEMS' order."""
    return [number for number, problem in enumerate(PROBLEMS.values()) if problem.found(known)]
