"""What both orders of a pair say together, and the keyed order in which candidates enter a procedure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from prefdata.draws import gumbel

Pair = tuple[str, str]
Outcome = Literal["a", "b", "tie", "inconsistent", "missing"]
Settled = Mapping[Pair, Outcome]


@dataclass(frozen=True)
class Rank:
    """One candidate's place: 1 is best, dense; score (higher is better) and win_prob where the procedure estimates them."""

    candidate_id: str
    rank: int
    score: float | None = None
    win_prob: float | None = None


@dataclass(frozen=True)
class Procedure:
    """`wanted`: the comparisons of the next round, none when decided; `ranks`: the order once decided; `most`: comparisons of
    n candidates at most."""

    wanted: Callable[[str, Sequence[str], Settled, int], list[Pair]]
    ranks: Callable[[str, Sequence[str], Settled, int], list[Rank]]
    most: Callable[[int], int]


def contenders(candidates: pl.DataFrame, truncated: str) -> pl.DataFrame:
    """The candidates that are compared: not those that the length limit cut, unless they are to be judged like others."""
    return candidates if truncated == "judged" else candidates.filter(pl.col("finish") != "length")


def pair_of(one: str, other: str) -> Pair:
    return (one, other) if one < other else (other, one)


def settle(orders: Mapping[str, str]) -> Outcome:
    """The outcome of the orders that were asked (ab, ba, or one of them): one without a verdict makes the pair missing, two
    that differ make it inconsistent."""
    said = set(orders.values())
    if "missing" in said or not said:
        return "missing"
    if len(said) > 1:
        return "inconsistent"
    return "a" if said == {"a"} else "b" if said == {"b"} else "tie"


def settled(verdicts: pl.DataFrame) -> dict[Pair, Outcome]:
    """The pairs of one prompt's verdicts."""
    found: dict[Pair, dict[str, str]] = {}
    for a, b, order, outcome in verdicts.select("a", "b", "order", "outcome").iter_rows():
        found.setdefault((a, b), {})[order] = outcome
    return {pair: settle(orders) for pair, orders in found.items()}


def winner(pair: Pair, known: Settled) -> str | None:
    """Who won a pair; None where nobody did, or where it was not asked."""
    return {"a": pair[0], "b": pair[1]}.get(known.get(pair, "missing"))


def entry_order(prompt_id: str, candidates: Sequence[str], seed: int) -> list[str]:
    """The order in which candidates enter: keyed, so that neither position nor name favours one."""
    return sorted(candidates, key=lambda c: (gumbel(seed, f"champion:{prompt_id}", c), c))


def one_best(best: str | None, candidates: Sequence[str]) -> list[Rank]:
    """The best is 1 and all others 2; without one (no comparison had a winner) all are 1: no preference."""
    return [Rank(c, 1 if best in (None, c) else 2) for c in candidates]
