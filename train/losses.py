"""LOSSES: pure functions of log-probs. B prompts, M negatives, K' reference views; fp64 sequence sums.

u = log-ratio of the chosen, v = log-ratio of a negative (log pi_theta - log pi_ref, without beta).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Compared:
    """What a loss sees. counts_BM: how often each negative was drawn (0 = padding)."""

    chosen_B: Tensor
    rejected_BM: Tensor
    reference_chosen_KBM: Tensor
    reference_rejected_KBM: Tensor
    view_weights_KBM: Tensor
    counts_BM: Tensor
    chosen_tokens_B: Tensor
    rejected_tokens_BM: Tensor

    @property
    def u_KBM(self) -> Tensor:
        return self.chosen_B[None, :, None] - self.reference_chosen_KBM

    @property
    def v_KBM(self) -> Tensor:
        return self.rejected_BM[None] - self.reference_rejected_KBM


class Knobs(Protocol):
    """What the losses read of train.settings.LossSettings."""

    @property
    def beta(self) -> float: ...
    @property
    def label_smoothing(self) -> float: ...


@dataclass(frozen=True)
class Loss:
    """`function` gives its terms [B] by what the loop divides their sum by, counted over the whole optimizer batch:
    prompt (the batch's prompts) or token (the batch's chosen tokens)."""

    function: Callable[[Compared, Knobs], Terms]


def nll(compared: Compared, knobs: Knobs) -> Terms:
    """-log pi_theta(chosen), nats per prompt: [B], per token."""
    return {"token": -compared.chosen_B}


def logistic(compared: Compared, knobs: Knobs) -> Terms:
    """DPO (arXiv 2305.18290, eq. 7; label smoothing e): [B].

    -(1 - e) log s(beta (u - v)) - e log s(-beta (u - v)), averaged over drawn negatives and weighted over views.
    """
    margin = knobs.beta * (compared.u_KBM - compared.v_KBM)
    smooth = knobs.label_smoothing
    values = -(1 - smooth) * F.logsigmoid(margin) - smooth * F.logsigmoid(-margin)
    per_pair = (compared.view_weights_KBM * values).sum(0)
    return {"prompt": (compared.counts_BM * per_pair).sum(1) / compared.counts_BM.sum(1)}


def softmax(compared: Compared, knobs: Knobs) -> Terms:
    """RNCE and MC-PO (arXiv 2502.04567): -log(e^{r_0} / (e^{r_0} + sum_m count_m e^{r_m})), r = beta log-ratio: [B].

    Written in differences r_m - r_0, so that a reference whose view of the chosen depends on the pair (MRPO) fits too.
    """
    gap = compared.view_weights_KBM * knobs.beta * (compared.v_KBM - compared.u_KBM)
    logits = gap.sum(0) + compared.counts_BM.log()
    return {"prompt": torch.logsumexp(torch.cat([torch.zeros_like(logits[:, :1]), logits], 1), 1)}


LOSSES: dict[str, Loss] = {
    "nll": Loss(nll),
    "logistic": Loss(logistic),
    "softmax": Loss(softmax),
}
