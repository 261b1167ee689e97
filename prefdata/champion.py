"""Iterative pairwise ranking (arXiv 2411.05875): the champion against the next candidate, n - 1 comparisons.

Both orders of a pair are asked. Order `ab` shows candidate a first; outcomes are about the candidates, not the places.
A pair whose orders disagree is inconsistent and counts as a tie; a tie, like a missing verdict, keeps the champion.
"""

from collections.abc import Sequence

import polars as pl

from prefdata.draws import gumbel

Outcomes = dict[tuple[str, str], tuple[str | None, str | None]]
"""(a, b) with a < b: the outcomes (a, b, tie, missing; None = not asked) of the orders ab and ba."""


def entry_order(prompt_id: str, candidates: Sequence[str], seed: int) -> list[str]:
    """The order in which candidates enter: keyed, so that neither position nor name favours one."""
    return sorted(candidates, key=lambda c: (gumbel(seed, f"champion:{prompt_id}", c), c))


def outcomes(verdicts: pl.DataFrame) -> Outcomes:
    """The verdicts of one prompt by pair."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for a, b, order, outcome in verdicts.select("a", "b", "order", "outcome").iter_rows():
        found.setdefault((a, b), {})[order] = outcome
    return {pair: (o.get("ab"), o.get("ba")) for pair, o in found.items()}


def winner_of(a: str, b: str, asked: tuple[str | None, str | None]) -> str | None:
    """The winner of a pair by both orders; None for a tie, an inconsistency or a missing verdict."""
    if asked[0] != asked[1]:
        return None
    return {"a": a, "b": b}.get(asked[0] or "")


def next_pair(prompt_id: str, candidates: Sequence[str], known: Outcomes, seed: int) -> tuple[str, str] | None:
    """The comparison to ask next, as (a, b) with a < b; None when the champion is decided."""
    champion, *challengers = entry_order(prompt_id, candidates, seed)
    for challenger in challengers:
        pair = (min(champion, challenger), max(champion, challenger))
        if pair not in known:
            return pair
        champion = winner_of(*pair, known[pair]) or champion
    return None


def replay(prompt_id: str, candidates: Sequence[str], known: Outcomes, seed: int) -> list[str]:
    """The champion once every comparison is known; all candidates where no comparison had a winner (no preference)."""
    champion, *challengers = entry_order(prompt_id, candidates, seed)
    decided = False
    for challenger in challengers:
        pair = (min(champion, challenger), max(champion, challenger))
        winner = winner_of(*pair, known.get(pair, (None, None)))
        decided, champion = decided or winner is not None, winner or champion
    return [champion] if decided else list(candidates)
