"""A knock-out bracket: n - 1 comparisons like champion, in ceil(log2 n) rounds.

Candidates enter in a keyed order; of an odd number the last one goes on unasked. A comparison without a winner sends the one
that entered first to the next round.
"""

from collections.abc import Sequence

from prefdata.judging.procedures.verdicts import Pair, Procedure, Rank, Settled, entry_order, one_best, pair_of, winner


def wanted(prompt_id: str, candidates: Sequence[str], known: Settled, seed: int) -> list[Pair]:
    """The comparisons of the round at hand that are not known; none when one is left."""
    standing = entry_order(prompt_id, candidates, seed)
    while len(standing) > 1:
        open_pairs = [pair for pair in _pairs(standing) if pair not in known]
        if open_pairs:
            return open_pairs
        standing = _next(standing, known)
    return []


def ranks(prompt_id: str, candidates: Sequence[str], known: Settled, seed: int) -> list[Rank]:
    """The one left is 1, all others 2."""
    standing, decided = entry_order(prompt_id, candidates, seed), len(candidates) == 1
    while len(standing) > 1:
        decided = decided or any(winner(pair, known) for pair in _pairs(standing))
        standing = _next(standing, known)
    return one_best(standing[0] if decided else None, candidates)


def _pairs(standing: Sequence[str]) -> list[Pair]:
    return [pair_of(one, other) for one, other in zip(standing[::2], standing[1::2], strict=False)]


def _next(standing: Sequence[str], known: Settled) -> list[str]:
    through = [winner(pair, known) or first for pair, first in zip(_pairs(standing), standing[::2], strict=False)]
    return through + ([standing[-1]] if len(standing) % 2 else [])


PROCEDURE = Procedure(wanted, ranks, lambda n: max(n - 1, 0))
