"""Iterative pairwise ranking (arXiv 2411.05875): the champion against the next candidate, n - 1 comparisons in as many rounds.

A comparison without a winner keeps the champion.
"""

from collections.abc import Sequence

from prefdata.judging.procedures.verdicts import Pair, Procedure, Rank, Settled, entry_order, one_best, pair_of, winner


def wanted(prompt_id: str, candidates: Sequence[str], known: Settled, seed: int) -> list[Pair]:
    """The one comparison to ask next; none when the champion is decided."""
    champion, *challengers = entry_order(prompt_id, candidates, seed)
    for challenger in challengers:
        pair = pair_of(champion, challenger)
        if pair not in known:
            return [pair]
        champion = winner(pair, known) or champion
    return []


def ranks(prompt_id: str, candidates: Sequence[str], known: Settled, seed: int) -> list[Rank]:
    """The last champion is 1, all others 2."""
    champion, *challengers = entry_order(prompt_id, candidates, seed)
    decided = not challengers
    for challenger in challengers:
        won = winner(pair_of(champion, challenger), known)
        decided, champion = decided or won is not None, won or champion
    return one_best(champion if decided else None, candidates)


PROCEDURE = Procedure(wanted, ranks, lambda n: max(n - 1, 0))
