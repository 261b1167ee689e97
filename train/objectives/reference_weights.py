"""Weights of references from held-out pairs (arXiv 2512.10040): fixed before training, so that no example's label is in its own
weight, as it is in ARWC's. The paper's exact normalisation could not be verified; here a weight is its share of the sum.

Shapes: K references, V pairs of the validation split; log-probs are fp64 sequence sums.
"""

from collections.abc import Callable, Sequence
from typing import Any

import polars as pl
import torch
from torch import Tensor

from prefdata.errors import DataError
from prefdata.tables.views import fixed_pair


def discrimination(chosen_KV: Tensor, rejected_KV: Tensor) -> Tensor:
    """alpha_k proportional to the mean of |L_k(y_w) - L_k(y_l)|: ARWC's confidence, averaged over the held-out pairs: [K]."""
    return _shares((chosen_KV - rejected_KV).abs().mean(1))


def accuracy(chosen_KV: Tensor, rejected_KV: Tensor) -> Tensor:
    """alpha_k proportional to the share of held-out pairs with L_k(y_w) > L_k(y_l): [K]."""
    return _shares((chosen_KV > rejected_KV).double().mean(1))


def _shares(values_K: Tensor) -> Tensor:
    """Each one's share of the sum; all 0: equal."""
    total = values_K.sum()
    return values_K / total if total > 0 else torch.full_like(values_K, 1 / len(values_K))


VALIDATION_WEIGHTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "validation_discrimination": discrimination,
    "validation_accuracy": accuracy,
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
