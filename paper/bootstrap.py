"""Intervals of a mean over world seeds, training seeds and test prompts: a hierarchical bootstrap, widened for few seeds.

Shapes: one array [training seeds, prompts] a world seed; all training seeds of a world seed answer the same prompts.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, t

from prefdata.draws import hash64

RESAMPLES = 10_000
LEVEL = 0.95
Floats = npt.NDArray[np.float64]
Draws = list[tuple[npt.NDArray[np.int64], Floats, npt.NDArray[np.float32]]]


def mean(values: Sequence[Floats]) -> float:
    """Mean over world seeds of each one's mean."""
    return float(np.mean([v.mean() for v in values]))


def interval(values: Sequence[Floats], factor: float | None = None) -> tuple[float, float]:
    """The middle 95 % of the resampled means, RESAMPLES of them, a function of the values alone.

    World seeds are resampled, training seeds within each, and prompts within each (the same ones for all its training seeds).
    The units are what noise beyond the prompts is known from: the world seeds where there are two or more, else the training
    seeds of the only one. A resampled mean's deviation that comes from the units is multiplied by `widening(units)` (or
    `factor`), the deviation that comes from what is inside them is left.
    """
    units = len(values) if len(values) > 1 else len(values[0])
    factor = widening(units) if factor is None else factor
    means = np.zeros((2, RESAMPLES, len(values)))
    for value, (slots, seeds, prompts) in zip(values, draws(tuple(v.shape for v in values)), strict=True):
        of_seeds = value.mean(1)
        unit = np.full(len(slots), of_seeds.mean()) if len(values) > 1 else seeds @ of_seeds
        means[0].ravel()[slots], means[1].ravel()[slots] = unit, (seeds * (prompts @ value.T)).sum(1) / value.shape[1]
    of_units, of_all = means.mean(2)
    centre = mean(values)
    low, high = np.quantile(centre + factor * (of_units - centre) + (of_all - of_units), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def widening(units: int) -> float:
    """What makes the resampled spread of n units an honest one: sqrt(n / (n - 1)) t / z.

    Resampling n numbers with standard deviation s (divisor n - 1) gives their mean the variance (n - 1) / n s^2 / n, as the
    bootstrap's own variance has the divisor n: hence the root. And s is itself known from n numbers only: of the mean's error
    in units of s / sqrt(n) the 97.5 % point is Student's t with n - 1 degrees of freedom, not the normal's z that a resampled
    mean has. 1 for one unit, whose noise cannot be known. 2.7 for three units, 1.2 for ten.
    """
    if units < 2:
        return 1.0
    upper = (1 + LEVEL) / 2
    return math.sqrt(units / (units - 1)) * float(t.ppf(upper, units - 1) / norm.ppf(upper))


@lru_cache(maxsize=2)
def draws(shapes: tuple[tuple[int, ...], ...]) -> Draws:
    """Of each world seed: the places [slots] in [RESAMPLES, world seeds] that drew it, there the shares of its training seeds
    [slots, seeds] and how often each prompt was drawn [slots, prompts]. Claims of equal shapes share their draws."""
    rng = np.random.default_rng(hash64("paper", "bootstrap", *(n for shape in shapes for n in shape)))
    drawn = rng.integers(len(shapes), size=RESAMPLES * len(shapes))
    made: Draws = []
    for place, (seeds, prompts) in enumerate(shapes):
        slots = np.flatnonzero(drawn == place)
        shares = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=len(slots)) / seeds
        counts = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=len(slots))
        made.append((slots, shares, counts.astype(np.float32)))
    return made
