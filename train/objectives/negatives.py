"""NEGATIVES: how the rejected candidates of a prompt are drawn. Pure functions, without gradient.

select(scores, ids, draw) -> (places in the pool, counts). `scores` [L] fp64 are the kernel's log-weights (None where
the sampler needs none), `ids` the candidate_ids of the pool; the chosen one is in it by `include_chosen` only.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prefdata.draws import FIRST, NEGATIVE, gumbels
from train.objectives.keys import Key, keys

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Draw:
    """What keys a draw: the run's seed and the visit (epoch), None and 0 for a draw that belongs to the set, the same in every
    run; M, replacement; the kernel's steps T and its proposals a step (None: the whole pool). Scores within `tolerance` of
    each other are ties."""

    seed: int | None
    visit: int
    count: int = 1
    replacement: bool = False
    steps: int = 1
    proposals: int | None = None
    tolerance: float = 0.0


Picked = tuple[list[int], list[int]]
Select = Callable[[Vector | None, Sequence[str], Draw], Picked]


@dataclass(frozen=True)
class Sampler:
    """`reads`: the keys of the settings' section negatives that count; `needs_policy`: weights come from the policy's
    log-probs; `redraw`: when draws change unless settings say; `draws`: how many of M distinct negatives it can give at most
    (None: the whole pool)."""

    select: Select
    reads: tuple[Key, ...]
    needs_policy: bool
    redraw: str
    origins: tuple[str, ...] | None = None
    draws: Callable[[int], int | None] = lambda count: count

    def pool(self, origins: Sequence[str]) -> tuple[str, ...]:
        """The origins of the candidates that it draws from, of those that the settings name."""
        if self.origins is not None:
            return self.origins
        return tuple(origins) if self.reads else ()

    def starts_at(self, include_chosen: bool) -> int:
        """The place of the first candidate of an example that it may draw: 0 is the chosen."""
        return 0 if include_chosen and any(key.name == "include_chosen" for key in self.reads) else 1


def none(scores: Vector | None, ids: Sequence[str], draw: Draw) -> Picked:
    """No negatives (plain SFT)."""
    return [], []


def fixed(scores: Vector | None, ids: Sequence[str], draw: Draw) -> Picked:
    """The pair that the config `preference` publishes, whatever the run. One uniform draw that belongs to the set, as
    prefdata.tables.views.fixed_pair makes it."""
    return random(None, ids, Draw(None, 0))


def every(scores: Vector | None, ids: Sequence[str], draw: Draw) -> Picked:
    """The whole pool: RNCE over all candidates, the zero-variance reference of the samplers."""
    return list(range(len(ids))), [1] * len(ids)


def random(scores: Vector | None, ids: Sequence[str], draw: Draw) -> Picked:
    """M uniform draws: RNCE's negatives."""
    return categorical(np.zeros(len(ids)), ids, draw)


def kernel(scores: Vector | None, ids: Sequence[str], draw: Draw) -> Picked:
    """The Monte Carlo kernel (arXiv 2502.04567, Algorithm 1): y' from Categorical(softmax(scores)), T times.

    Each step proposes a keyed random subset of the pool, and from the second one on the draw of the step before, which
    leaves softmax(scores) over the pool invariant (iterated sampling importance resampling). With the whole pool as the
    proposals one step is exact and more change nothing but the draw. Several negatives are several chains.
    """
    scores = _weights(scores)
    if draw.steps == 1 and draw.proposals is None:
        return categorical(scores, ids, draw)
    pool = [int(i) for i in np.flatnonzero(scores > -np.inf)]
    return _counted([_chain(scores, ids, pool, draw, number) for number in range(draw.count)])


def _chain(scores: Vector, ids: Sequence[str], pool: Sequence[int], draw: Draw, number: int) -> int:
    """Where one chain is after its last step."""
    current: list[int] = []
    for step in range(draw.steps):
        others = [i for i in pool if i not in current]
        keys = gumbels(draw.seed, "proposal", [ids[i] for i in others], draw.visit, (step, number))
        among = current + [others[i] for i in np.argsort(-keys, kind="stable")[: draw.proposals]]
        noise = gumbels(draw.seed, NEGATIVE, [ids[i] for i in among], draw.visit, (step, number))
        current = [among[int(np.argmax(scores[among] + noise))]]
    return current[0]


def largest(scores: Vector | None, ids: Sequence[str], draw: Draw) -> Picked:
    """The M largest weights; ties are broken by a keyed draw."""
    return _extremes(scores, 1, ids, draw)


def smallest(scores: Vector | None, ids: Sequence[str], draw: Draw) -> Picked:
    """The M smallest weights; ties are broken by a keyed draw."""
    return _extremes(scores, -1, ids, draw)


def _extremes(scores: Vector | None, sign: int, ids: Sequence[str], draw: Draw) -> Picked:
    """One after another, by the keyed noise among those within the tolerance of the best that is left: where all are, as at
    a run's start, this is the uniform draw."""
    weights, noise = sign * _weights(scores), gumbels(draw.seed, NEGATIVE, ids, draw.visit, FIRST)
    left, order = [int(i) for i in np.flatnonzero(np.isfinite(weights))], list[int]()
    while left and len(order) < draw.count:
        best = max(weights[i] for i in left)
        order.append(max((i for i in left if weights[i] >= best - draw.tolerance), key=lambda i: float(noise[i])))
        left.remove(order[-1])
    return _top(np.array(order), draw)


def categorical(scores: Vector, ids: Sequence[str], draw: Draw) -> Picked:
    """M draws with log-weights `scores`: Gumbel-top-M, or with replacement M single draws whose repeats are counted.

    Candidates with weight -inf are never drawn; fewer than M others give fewer negatives.
    """
    scores = _weights(scores)
    if not draw.replacement:
        order = np.argsort(-(scores + gumbels(draw.seed, NEGATIVE, ids, draw.visit, FIRST)), kind="stable")
        return _top(np.array([i for i in order if scores[i] > -np.inf]), draw)
    noises = (gumbels(draw.seed, NEGATIVE, ids, draw.visit, (0, number)) for number in range(draw.count))
    return _counted([int(np.argmax(scores + noise)) for noise in noises])


def _weights(scores: Vector | None) -> Vector:
    """Log-weights that can be drawn by: -inf is never drawn. Raises ValueError for NaN and inf, and where none is finite."""
    if scores is None:
        raise ValueError("this sampler needs scores")
    if (np.isnan(scores) | (scores == np.inf)).any():
        raise ValueError("a candidate of the pool has no finite weight but nan or infinity")
    if not np.isfinite(scores).any():
        raise ValueError("no candidate of the pool has a finite weight")
    return scores


def _counted(drawn: Sequence[int]) -> Picked:
    """The distinct places in ascending order, and how often each was drawn."""
    counts = Counter(drawn)
    return sorted(counts), [counts[place] for place in sorted(counts)]


def _top(order: npt.NDArray[np.int64], draw: Draw) -> Picked:
    places = sorted(int(i) for i in order[: draw.count])
    return places, [1] * len(places)


REPEATS = Key("replacement", "where count is above 1", lambda negatives: negatives.count > 1)
WEIGHED = keys("origins", "count", "weight", "redraw")
NEGATIVES: dict[str, Sampler] = {
    "none": Sampler(none, (), needs_policy=False, redraw="never", draws=lambda count: 0),
    "fixed": Sampler(fixed, keys("origins"), needs_policy=False, redraw="never", draws=lambda count: 1),
    "random": Sampler(random, (*keys("origins", "count", "redraw"), REPEATS), needs_policy=False, redraw="epoch"),
    "all": Sampler(every, keys("origins"), needs_policy=False, redraw="never", draws=lambda count: None),
    "noise": Sampler(fixed, (), needs_policy=False, redraw="never", origins=("noise",), draws=lambda count: 1),
    "kernel": Sampler(
        kernel,
        (*WEIGHED, *keys("beta", "steps", "proposals", "include_chosen"), REPEATS),
        needs_policy=True,
        redraw="epoch",
    ),
    "max": Sampler(largest, WEIGHED, needs_policy=True, redraw="epoch"),
    "min": Sampler(smallest, WEIGHED, needs_policy=True, redraw="epoch"),
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
