"""PROCEDURES: which comparisons of a prompt's candidates are asked next, and the ranks that come out.

Pure functions of (prompt_id, candidates, what is settled, seed). A pair is (a, b) with a < b; a comparison without a winner
(tie, inconsistent, missing) decides nothing by itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prefdata.judging.procedures import champion, knockout, round_robin
from prefdata.judging.procedures.verdicts import Pair, Rank, Settled


@dataclass(frozen=True)
class Procedure:
    """`wanted`: the comparisons of the next round, none when decided; `ranks`: the order once decided; `most`: comparisons of
    n candidates at most."""

    wanted: Callable[[str, Sequence[str], Settled, int], list[Pair]]
    ranks: Callable[[str, Sequence[str], Settled, int], list[Rank]]
    most: Callable[[int], int]


PROCEDURES: dict[str, Procedure] = {
    "champion": Procedure(champion.wanted, champion.ranks, lambda n: max(n - 1, 0)),
    "knockout": Procedure(knockout.wanted, knockout.ranks, lambda n: max(n - 1, 0)),
    "round_robin": Procedure(round_robin.wanted, round_robin.ranks, lambda n: n * (n - 1) // 2),
}
