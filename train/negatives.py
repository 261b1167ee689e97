"""NEGATIVES: how the rejected candidates of a prompt are drawn. Pure functions, without gradient.

select(scores, ids, draw) -> (places in the pool, counts). `scores` [L] fp64 are the kernel's log-weights (None where
the sampler needs none), `ids` the candidate_ids of the pool; the chosen one is never in the pool.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prefdata.draws import choose, gumbels

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Draw:
    """What keys a draw: the run's seed, the visit (epoch; 0 where negatives are never redrawn), M, replacement."""

    seed: int
    visit: int
    count: int = 1
    replacement: bool = False


Picked = tuple[list[int], list[int]]
Select = Callable[[Vector | None, Sequence[str], Draw], Picked]


@dataclass(frozen=True)
class Sampler:
    """`needs_policy`: weights come from the policy's log-probs; `redraw`: when draws change unless settings say."""

    select: Select
    needs_policy: bool
    redraw: str
    origins: tuple[str, ...] | None = None


def none(scores: Vector | None, ids: Sequence[str], draw: Draw) -> Picked:
    """No negatives (plain SFT)."""
    return [], []


def fixed(scores: Vector | None, ids: Sequence[str], draw: Draw) -> Picked:
    """The one pair of the published `preference` config (prefdata.sets.fixed_pair): a keyed draw at visit 0."""
    ordered = sorted(ids)
    return [ids.index(choose(draw.seed, "fixed", ordered))], [1]


def every(scores: Vector | None, ids: Sequence[str], draw: Draw) -> Picked:
    """The whole pool: RNCE over all candidates, the zero-variance reference of the samplers."""
    return list(range(len(ids))), [1] * len(ids)


def random(scores: Vector | None, ids: Sequence[str], draw: Draw) -> Picked:
    """M uniform draws: RNCE's negatives."""
    return categorical(np.zeros(len(ids)), ids, draw)


def kernel(scores: Vector | None, ids: Sequence[str], draw: Draw) -> Picked:
    """The Monte Carlo kernel (arXiv 2502.04567, Algorithm 1, T = 1): y' from Categorical(softmax(scores))."""
    if scores is None:
        raise ValueError("the kernel needs scores")
    return categorical(scores, ids, draw)


def largest(scores: Vector | None, ids: Sequence[str], draw: Draw) -> Picked:
    """The M largest weights; ties are broken by a keyed draw."""
    if scores is None:
        raise ValueError("max needs scores")
    noise = gumbels(draw.seed, "negative", ids, draw.visit, (0, 0))
    return _top(np.lexsort((-noise, -scores)), draw)


def smallest(scores: Vector | None, ids: Sequence[str], draw: Draw) -> Picked:
    """The M smallest weights; ties are broken by a keyed draw."""
    return largest(None if scores is None else -scores, ids, draw)


def categorical(scores: Vector, ids: Sequence[str], draw: Draw) -> Picked:
    """M draws with log-weights `scores`: Gumbel-top-M, or with replacement M single draws whose repeats are counted.

    Candidates with weight -inf are never drawn; fewer than M others give fewer negatives.
    """
    if not np.isfinite(scores).any():
        raise ValueError("no candidate of the pool has a finite weight")
    if not draw.replacement:
        order = np.argsort(-(scores + gumbels(draw.seed, "negative", ids, draw.visit, (0, 0))), kind="stable")
        return _top(np.array([i for i in order if scores[i] > -np.inf]), draw)
    counts = np.zeros(len(ids), dtype=np.int64)
    for number in range(draw.count):
        counts[np.argmax(scores + gumbels(draw.seed, "negative", ids, draw.visit, (0, number)))] += 1
    places = [int(i) for i in np.flatnonzero(counts)]
    return places, [int(counts[i]) for i in places]


def _top(order: npt.NDArray[np.int64], draw: Draw) -> Picked:
    places = sorted(int(i) for i in order[: draw.count])
    return places, [1] * len(places)


NEGATIVES: dict[str, Sampler] = {
    "none": Sampler(none, needs_policy=False, redraw="never"),
    "fixed": Sampler(fixed, needs_policy=False, redraw="never"),
    "random": Sampler(random, needs_policy=False, redraw="epoch"),
    "all": Sampler(every, needs_policy=False, redraw="never"),
    "noise": Sampler(fixed, needs_policy=False, redraw="never", origins=("noise",)),
    "kernel": Sampler(kernel, needs_policy=True, redraw="epoch"),
    "max": Sampler(largest, needs_policy=True, redraw="epoch"),
    "min": Sampler(smallest, needs_policy=True, redraw="epoch"),
}


def ratio(policy: Vector, reference: Vector, tokens: Vector, beta: float) -> Vector:
    """beta (log pi_theta - log pi_ref): what the derivation says; uniform while the policy equals the reference."""
    return beta * (policy - reference)


def policy_only(policy: Vector, reference: Vector, tokens: Vector, beta: float) -> Vector:
    """beta log pi_theta: what the paper's implementation prose says; favours short completions."""
    return beta * policy


def policy_per_token(policy: Vector, reference: Vector, tokens: Vector, beta: float) -> Vector:
    """beta log pi_theta / |y|: the prose's weight without its preference for short completions; SimPO's own reward."""
    return np.asarray(beta * policy / np.maximum(tokens, 1.0), dtype=np.float64)


WEIGHTS: dict[str, Callable[[Vector, Vector, Vector, float], Vector]] = {
    "ratio": ratio,
    "policy": policy_only,
    "policy_per_token": policy_per_token,
}


def effective_size(scores: Vector) -> float:
    """1 / sum w^2 of w = softmax(scores): between 1 and the size of the pool."""
    weights = np.exp(scores - scores.max())
    return float(weights.sum() ** 2 / (weights**2).sum())
