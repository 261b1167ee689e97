"""Estimates with their uncertainty, for what judges say: shares, Cohen's kappa, bootstraps, a logistic regression."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from prefdata.draws import hash64

RESAMPLES = 2000
Codes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def share(count: int, of: int) -> dict[str, Any]:
    """A share with its standard error; null where there is nothing to count."""
    if of == 0:
        return {"share": None, "se": None, "of": 0}
    value = count / of
    return {"share": value, "se": math.sqrt(value * (1 - value) / of), "of": of}


def kappa(one: Codes, other: Codes, weights: Floats | None = None) -> float:
    """Cohen's kappa (1960) of two raters' categories [n]: (observed - expected agreement) / (1 - expected), of which each item
    counts `weights` times; 0 where the expected agreement is 1."""
    weights = np.ones(len(one)) if weights is None else weights
    categories, total = int(max(one.max(), other.max())) + 1, weights.sum()
    shares = [np.bincount(codes, weights, minlength=categories) / total for codes in (one, other)]
    observed, expected = float(weights[one == other].sum() / total), float(shares[0] @ shares[1])
    return (observed - expected) / (1 - expected) if expected < 1 else 0.0


def resampled(count: int, *key: str | int) -> Floats:
    """How often each of `count` items is in each bootstrap sample: [RESAMPLES, count], a function of the key."""
    draw = np.random.default_rng(hash64(*key))
    return draw.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float64)


def interval(values: Floats) -> tuple[float, float]:
    """The middle 95 % of bootstrapped values."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def logistic(design: Floats, target: Floats, ridge: Floats, times: Floats | None = None) -> tuple[Floats, Floats]:
    """Weights [k] and their standard errors [k] of P(target) = sigmoid(design @ weights), by Newton's method. design: [n, k];
    target: [n] in [0, 1]; ridge: [k], half the penalty of each squared weight, which keeps one-sided data finite; times: [n],
    how often each row counts."""
    weights, penalty = np.zeros(design.shape[1]), np.diag(ridge)
    times = np.ones(len(target)) if times is None else times
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        hessian = design.T @ (design * (times * p * (1 - p))[:, None]) + penalty
        step = np.linalg.solve(hessian, design.T @ (times * (target - p)) - penalty @ weights)
        weights = np.clip(weights + step, -30, 30)
        if np.abs(step).max() < 1e-10:
            break
    return weights, np.sqrt(np.diag(np.linalg.inv(hessian)))
