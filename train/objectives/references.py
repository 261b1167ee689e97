"""REFERENCES: how the log-probs of K references become what the loss compares the policy with. Pure functions.

Shapes: K references (0 is the primary), B prompts, M negatives; fp64 sequence sums. For every pair (chosen, negative)
a function gives the reference log-prob of the chosen and of the negative and the weight of that comparison:
three tensors [K', B, M], the weights summing to 1 over K'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from train.objectives.keys import Key, keys

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    from train.lazy import Tensor, torch


class Knobs(Protocol):
    """What the functions read of train.settings.ReferencesSettings."""

    @property
    def eps_max(self) -> float: ...
    @property
    def adaptive_eps(self) -> bool: ...
    @property
    def alpha(self) -> list[float] | None: ...
    @property
    def weight_order(self) -> str: ...


Views = tuple[Tensor, Tensor, Tensor]


def none(chosen_KBM: Tensor, rejected_KBM: Tensor, knobs: Knobs) -> Views:
    """No reference: zeros."""
    zeros = torch.zeros_like(rejected_KBM[:1])
    return zeros, zeros, torch.ones_like(zeros)


def primary(chosen_KBM: Tensor, rejected_KBM: Tensor, knobs: Knobs) -> Views:
    """The primary reference alone."""
    return chosen_KBM[:1], rejected_KBM[:1], torch.ones_like(rejected_KBM[:1])


def virtual(chosen_KBM: Tensor, rejected_KBM: Tensor, knobs: Knobs) -> Views:
    """MRPO's virtual reference (arXiv 2405.16388): log pi~(y) = -logsumexp_k(log alpha_k - log pi_k(y)), CTRO-clipped.

    `weight_order: repo` gives each of two references the other's weight, as the authors' code does here alone.
    """
    clipped_w, clipped_l = ctro(chosen_KBM, rejected_KBM, knobs)
    alpha = weights(chosen_KBM, rejected_KBM, knobs)
    if knobs.weight_order == "repo" and knobs.alpha is None:
        alpha = alpha.flip(0)
    tilde_w = -torch.logsumexp(alpha.log() - clipped_w, 0, keepdim=True)
    tilde_l = -torch.logsumexp(alpha.log() - clipped_l, 0, keepdim=True)
    return tilde_w, tilde_l, torch.ones_like(tilde_w)


def each(chosen_KBM: Tensor, rejected_KBM: Tensor, knobs: Knobs) -> Views:
    """Multi-DPO: one comparison with every (clipped) reference, weighted by alpha."""
    clipped_w, clipped_l = ctro(chosen_KBM, rejected_KBM, knobs)
    return clipped_w, clipped_l, weights(chosen_KBM, rejected_KBM, knobs)


def ctro(chosen_KBM: Tensor, rejected_KBM: Tensor, knobs: Knobs) -> tuple[Tensor, Tensor]:
    """Clip every non-primary log-prob into [(1 + eps) L_1, (1 - eps) L_1], L_1 <= 0 the primary's."""
    eps_w, eps_l = epsilons(chosen_KBM, rejected_KBM, knobs)
    return _clip(chosen_KBM, eps_w), _clip(rejected_KBM, eps_l)


def _clip(logps_KBM: Tensor, eps_BM: Tensor) -> Tensor:
    first = logps_KBM[:1]
    clipped = torch.minimum(torch.maximum(logps_KBM, (1 + eps_BM) * first), (1 - eps_BM) * first)
    return torch.cat([first, clipped[1:]])


def epsilons(chosen_KBM: Tensor, rejected_KBM: Tensor, knobs: Knobs) -> tuple[Tensor, Tensor]:
    """Adaptive: eps_w = eps_max |b_w| / (|b_w| + |b_l|), eps_l = eps_max - eps_w, b the mean over references (0/0: half).

    Fixed: eps_max for both.
    """
    if not knobs.adaptive_eps:
        whole = torch.full_like(rejected_KBM[0], knobs.eps_max)
        return whole, whole
    b_w, b_l = chosen_KBM.mean(0).abs(), rejected_KBM.mean(0).abs()
    total = b_w + b_l
    share = torch.where(total > 0, b_w / total.clamp(min=torch.finfo(total.dtype).tiny), torch.full_like(total, 0.5))
    return knobs.eps_max * share, knobs.eps_max * (1 - share)


def weights(chosen_KBM: Tensor, rejected_KBM: Tensor, knobs: Knobs) -> Tensor:
    """ARWC: alpha_k = a_k / sum_j a_j, a_k = |L_k(y_w) - L_k(y_l)| of the unclipped sums, no gradient; all 0: equal."""
    if knobs.alpha is not None:
        fixed = torch.tensor(knobs.alpha, dtype=rejected_KBM.dtype, device=rejected_KBM.device)
        return (fixed / fixed.sum()).view(-1, 1, 1).expand_as(rejected_KBM)
    gaps = (chosen_KBM - rejected_KBM).abs().detach()
    total = gaps.sum(0, keepdim=True)
    return torch.where(total > 0, gaps / total.clamp(min=torch.finfo(gaps.dtype).tiny), torch.full_like(gaps, 1 / len(gaps)))


@dataclass(frozen=True)
class Combination:
    """`views` gives what the loss compares with; `reads`: the keys of the settings' section references that count."""

    views: Callable[[Tensor, Tensor, Knobs], Views]
    reads: tuple[Key, ...]


def _by_example(references: Any) -> bool:
    return references.alpha is None and references.weights == "per_example"


WEIGHTED = (
    *keys("eps_max", "alpha"),
    Key("adaptive_eps", "where eps_max is above 0", lambda references: references.eps_max > 0),
    Key("weights", "where alpha is not given", lambda references: references.alpha is None),
)
WINDOW = Key("window", "where weights are sliding_window", lambda references: references.weights == "sliding_window")
SWAPPED = Key("weight_order", "where weights are per example", _by_example)
REFERENCES: dict[str, Combination] = {
    "none": Combination(none, ()),
    "primary": Combination(primary, ()),
    "virtual": Combination(virtual, (*WEIGHTED, WINDOW, SWAPPED)),
    "each": Combination(each, (*WEIGHTED, WINDOW)),
}
