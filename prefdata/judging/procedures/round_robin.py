"""All pairs, in one round, and Bradley-Terry strengths of their outcomes."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from prefdata.judging.procedures.verdicts import Pair, Procedure, Rank, Settled, pair_of

Floats = npt.NDArray[np.float64]
PRIOR = 0.5
"""Wins that everybody has against an average opponent, and losses too: an unbeaten candidate then has a finite strength."""
TOLERANCE, ROUNDS = 1e-12, 10_000


def wanted(prompt_id: str, candidates: Sequence[str], known: Settled, seed: int) -> list[Pair]:
    """Every pair that is not known."""
    return [pair for one, other in combinations(candidates, 2) if (pair := pair_of(one, other)) not in known]


def ranks(prompt_id: str, candidates: Sequence[str], known: Settled, seed: int) -> list[Rank]:
    """Ranks by strength (log scale, mean 0); win_prob: the mean chance to beat another one of these candidates."""
    ids = sorted(candidates)
    if len(ids) == 1:
        return [Rank(ids[0], 1)]
    strengths = strength(wins(ids, known))
    ahead = 1 / (1 + np.exp(strengths[None, :] - strengths[:, None]))
    chances = (ahead.sum(1) - 0.5) / (len(ids) - 1)
    shown = np.round(strengths, 9)  # strengths that should be equal differ by the last bits of the iteration
    order = sorted(set(shown.tolist()), reverse=True)
    return [
        Rank(c, order.index(s) + 1, float(v), float(p))
        for c, s, v, p in zip(ids, shown.tolist(), strengths, chances, strict=True)
    ]


def wins(ids: Sequence[str], known: Settled) -> Floats:
    """W[i, j]: how often i beat j; a tie or an inconsistent pair is half a win each, a missing one is nothing."""
    place, made = {c: i for i, c in enumerate(ids)}, np.zeros((len(ids), len(ids)))
    for (a, b), outcome in known.items():
        if a in place and b in place and outcome != "missing":
            share = {"a": 1.0, "b": 0.0}.get(outcome, 0.5)
            made[place[a], place[b]] += share
            made[place[b], place[a]] += 1 - share
    return made


def strength(won: Floats) -> Floats:
    """Log strengths that maximise the Bradley-Terry likelihood with the prior, by Hunter's MM iteration (2004, section 3):
    p_i = (wins_i + PRIOR) / (sum_j n_ij / (p_i + p_j) + 2 PRIOR / (p_i + 1)). [n] -> [n], mean 0."""
    games, total = won + won.T, won.sum(1) + PRIOR
    p = np.ones(len(won))
    for _ in range(ROUNDS):
        new = total / ((games / (p[:, None] + p[None, :])).sum(1) + 2 * PRIOR / (p + 1))
        done = np.abs(np.log(new / p)).max() < TOLERANCE
        p = new
        if done:
            break
    logs: Floats = np.log(p)
    centred: Floats = logs - logs.mean()
    return centred


PROCEDURE = Procedure(wanted, ranks, lambda n: n * (n - 1) // 2)
