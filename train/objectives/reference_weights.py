"""Weights of references from pairs other than the example's own (arXiv 2512.10040), so that no label is in its own weight, as
it is in ARWC's: fixed before training by held-out pairs, or at each step by the pairs of earlier ones (train.online_weights).
The paper's exact normalisation could not be verified; here a weight is its share of the sum, and Thompson sampling gives all of
it to the reference that is drawn.

Shapes: K references, V pairs; log-probs are fp64 sequence sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    from train.lazy import Tensor, torch

from prefdata.draws import uniform
from prefdata.errors import DataError
from prefdata.tables.views import fixed_pair


def discrimination(chosen_KV: Tensor, rejected_KV: Tensor) -> Tensor:
    """alpha_k proportional to the mean of |L_k(y_w) - L_k(y_l)|: ARWC's confidence, averaged over the held-out pairs: [K]."""
    return _shares((chosen_KV - rejected_KV).abs().mean(1))


def accuracy(chosen_KV: Tensor, rejected_KV: Tensor) -> Tensor:
    """alpha_k proportional to the share of held-out pairs with L_k(y_w) > L_k(y_l): [K]."""
    return _shares((chosen_KV > rejected_KV).double().mean(1))


def sliding_window(chosen_KV: Tensor, rejected_KV: Tensor, key: tuple[int, int]) -> Tensor:
    """`discrimination` of the V pairs that training saw last: [K]. None seen: equal."""
    if not chosen_KV.shape[1]:
        return torch.full_like(chosen_KV.sum(1), 1 / len(chosen_KV))
    return discrimination(chosen_KV, rejected_KV)


def thompson(chosen_KV: Tensor, rejected_KV: Tensor, key: tuple[int, int]) -> Tensor:
    """1 for the reference whose keyed draw from its posterior Beta(1 + right, 1 + wrong) is largest, 0 for others: [K].

    right counts the pairs seen with L_k(y_w) > L_k(y_l). `key`: the run's seed and the step.
    """
    from scipy.special import betaincinv

    right_K = (chosen_KV > rejected_KV).sum(1).tolist()
    wrong_K = [chosen_KV.shape[1] - right for right in right_K]
    seed, step = key
    uniforms = [uniform(seed, "thompson", str(k), step) for k in range(len(right_K))]
    drawn = [betaincinv(1 + r, 1 + w, u) for r, w, u in zip(right_K, wrong_K, uniforms, strict=True)]
    return torch.nn.functional.one_hot(torch.tensor(drawn, dtype=torch.float64).argmax(), len(drawn)).double()


def _shares(values_K: Tensor) -> Tensor:
    """Each one's share of the sum; all 0: equal."""
    total = values_K.sum()
    return values_K / total if total > 0 else torch.full_like(values_K, 1 / len(values_K))


VALIDATION_WEIGHTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "validation_discrimination": discrimination,
    "validation_accuracy": accuracy,
}


@dataclass(frozen=True)
class Online:
    """`weigh` gives the weights of a step from the pairs of earlier ones and its key (seed, step); `windowed`: of the last
    `references.window` alone. `settled` gives those that evaluations take, from all pairs."""

    weigh: Callable[[Tensor, Tensor, tuple[int, int]], Tensor]
    settled: Callable[[Tensor, Tensor], Tensor]
    windowed: bool


ONLINE_WEIGHTS = {
    "sliding_window": Online(sliding_window, discrimination, windowed=True),
    "thompson": Online(thompson, accuracy, windowed=False),
}


def alpha(frame: pl.DataFrame, names: Sequence[str], origins: Sequence[str], weights: str) -> list[float]:
    """The references' weights by the rows of split validation in a preference set; each row's pair is its fixed one.

    Raises DataError where the split holds no pair.
    """
    pairs = []
    for candidates in frame.filter(pl.col("split") == "validation")["candidates"].to_list():
        chosen = [c for c in candidates if c["role"] == "chosen"] + [c for c in candidates if c["role"] != "chosen"]
        pair = fixed_pair(chosen, origins)
        if pair is not None:
            pairs.append([_logps(chosen[place], names) for place in pair])
    if not pairs:
        raise DataError(
            f"no pair of split validation for references.weights {weights}",
            "sets/preference",
            "give split.validation a share and name it in sets.splits",
        )
    logps_V2K = torch.tensor(pairs, dtype=torch.float64)
    found: list[float] = VALIDATION_WEIGHTS[weights](logps_V2K[:, 0].T, logps_V2K[:, 1].T).tolist()
    return found


def _logps(candidate: dict[str, Any], names: Sequence[str]) -> list[float]:
    known = {x["reference"]: float(x["logp"]) for x in candidate["logps"]}
    return [known[name] for name in names]
