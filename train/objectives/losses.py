"""LOSSES: pure functions of log-probs. B prompts, M negatives, K' reference views; fp64 sequence sums.

u = log-ratio of the chosen, v = log-ratio of a negative (log pi_theta - log pi_ref, without beta), s = logistic sigmoid.
Each gives its terms [B] by what the loop divides their sum by.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor
else:
    from train.lazy import Tensor, torch
    from train.lazy import functional as F

from train.objectives.compared import Compared
from train.objectives.keys import Key, keys

Terms = dict[str, Tensor]
Need = Literal["score", "win_prob", "same_tokenizer", "mean_reward", "mismatched", "smoothing"]


class Knobs(Protocol):
    """What the losses read of train.settings.LossSettings."""

    @property
    def beta(self) -> float: ...
    @property
    def label_smoothing(self) -> float: ...
    @property
    def margin(self) -> float: ...
    @property
    def nll_weight(self) -> float: ...
    @property
    def temperature(self) -> float: ...
    @property
    def desirable_weight(self) -> float: ...
    @property
    def undesirable_weight(self) -> float: ...


@dataclass(frozen=True)
class Loss:
    """`function` gives its terms [B] by what the loop divides their sum by, counted over the whole optimizer batch:
    prompt (the batch's examples) or token (the batch's chosen tokens). `formula` is for people; `reads`: the keys of the
    settings' section loss that it takes, of `Knobs`.

    `needs`: score, win_prob (labels of every candidate), same_tokenizer (the primary reference counts tokens as the policy
    does), smoothing (label_smoothing above 0), mean_reward, mismatched (a number of the optimizer batch: batchwise.py).
    """

    function: Callable[[Compared, Knobs], Terms]
    formula: str
    reads: tuple[Key, ...]
    needs: Need | None = None


def nll(compared: Compared, knobs: Knobs) -> Terms:
    """-log pi_theta(chosen), nats per prompt: [B], per token."""
    return {"token": -compared.chosen_B}


def logistic(compared: Compared, knobs: Knobs) -> Terms:
    """DPO (arXiv 2305.18290, eq. 7; label smoothing e): [B].

    -(1 - e) log s(beta (u - v)) - e log s(-beta (u - v)).
    """
    margin = knobs.beta * (compared.u_KBM - compared.v_KBM)
    smooth = knobs.label_smoothing
    return {"prompt": compared.over_pairs(-(1 - smooth) * F.logsigmoid(margin) - smooth * F.logsigmoid(-margin))}


def logistic_nll(compared: Compared, knobs: Knobs) -> Terms:
    """RPO (arXiv 2404.19733) with a reference, CPO (arXiv 2401.08417) without: the logistic loss and lambda times the
    negative log-likelihood of the chosen, per token of the batch (the papers: per token of each answer, and per answer)."""
    return logistic(compared, knobs) | {"token": -knobs.nll_weight * compared.chosen_B}


def softmax(compared: Compared, knobs: Knobs) -> Terms:
    """RNCE and MC-PO (arXiv 2502.04567): -log(e^{r_0} / (e^{r_0} + sum_m count_m e^{r_m})), r = beta log-ratio: [B].

    Written in differences r_m - r_0, so that a reference whose view of the chosen depends on the pair (MRPO) fits too.
    """
    logits = _gaps(compared, knobs) + compared.counts_BM.log()
    return {"prompt": torch.logsumexp(torch.cat([torch.zeros_like(logits[:, :1]), logits], 1), 1)}


def _gaps(compared: Compared, knobs: Knobs) -> Tensor:
    """r_m - r_0, weighted over views: [B, M]."""
    return (compared.view_weights_KBM * knobs.beta * (compared.v_KBM - compared.u_KBM)).sum(0)


def reverse_kl(compared: Compared, knobs: Knobs) -> Terms:
    """EXO (arXiv 2402.00856, pairs): KL of the model's distribution over the pair from [1 - e, e]: [B].

    s(d) (log s(d) - log(1 - e)) + s(-d) (log s(-d) - log e), d = beta (u - v).
    """
    d, e = knobs.beta * (compared.u_KBM - compared.v_KBM), torch.tensor(knobs.label_smoothing, dtype=torch.float64)
    right = d.sigmoid() * (F.logsigmoid(d) - torch.log1p(-e))
    return {"prompt": compared.over_pairs(right + (-d).sigmoid() * (F.logsigmoid(-d) - e.log()))}


def length_averaged(compared: Compared, knobs: Knobs) -> Terms:
    """SimPO (arXiv 2405.14734): -log s(beta (log pi(w)/|w| - log pi(l)/|l|) - gamma): [B]. An empty answer counts as 1."""
    chosen, rejected = (_per_token(*x) for x in _sums(compared))
    return {"prompt": compared.over_pairs(-F.logsigmoid(knobs.beta * (chosen - rejected) - knobs.margin)[None])}


def _sums(compared: Compared) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(log-probs, tokens) of the chosen [B, 1] and of the negatives [B, M]."""
    chosen = compared.chosen_B[:, None], compared.chosen_tokens_B[:, None]
    return chosen, (compared.rejected_BM, compared.rejected_tokens_BM)


def _per_token(sums: Tensor, tokens: Tensor) -> Tensor:
    return sums / tokens.clamp(min=1)


def squared(compared: Compared, knobs: Knobs) -> Terms:
    """IPO (arXiv 2310.12036, eq. 17, but over log-ratios averaged over tokens, as TRL computes it; the paper has sums):
    (u/|w| - v/|l| - 1/(2 beta))^2: [B]."""
    u = _per_token(compared.u_KBM, compared.chosen_tokens_B[None, :, None])
    v = _per_token(compared.v_KBM, compared.rejected_tokens_BM[None])
    return {"prompt": compared.over_pairs((u - v - 1 / (2 * knobs.beta)) ** 2)}


def apo_zero(compared: Compared, knobs: Knobs) -> Terms:
    """APO-zero (arXiv 2408.06266): (1 - s(beta u)) + s(beta v): [B]."""
    u, v = knobs.beta * compared.u_KBM, knobs.beta * compared.v_KBM
    return {"prompt": compared.over_pairs((-u).sigmoid() + v.sigmoid())}


def apo_down(compared: Compared, knobs: Knobs) -> Terms:
    """APO-down (arXiv 2408.06266): s(beta u) + (1 - s(beta (u - v))): [B]."""
    u, v = knobs.beta * compared.u_KBM, knobs.beta * compared.v_KBM
    return {"prompt": compared.over_pairs(u.sigmoid() + (v - u).sigmoid())}


def sppo(compared: Compared, knobs: Knobs) -> Terms:
    """SPPO (arXiv 2405.00675, hard labels): (u - 1/(2 beta))^2 + (v + 1/(2 beta))^2: [B]."""
    half = 1 / (2 * knobs.beta)
    return {"prompt": compared.over_pairs((compared.u_KBM - half) ** 2 + (compared.v_KBM + half) ** 2)}


def sppo_soft(compared: Compared, knobs: Knobs) -> Terms:
    """SPPO (arXiv 2405.00675, eq. 4.7) by the set's win probabilities P:
    (u - (P_w - 1/2)/beta)^2 + (v - (P_l - 1/2)/beta)^2: [B]."""
    chosen, rejected = compared.labels
    u_target, v_target = ((chosen - 0.5) / knobs.beta)[None, :, None], ((rejected - 0.5) / knobs.beta)[None]
    return {"prompt": compared.over_pairs((compared.u_KBM - u_target) ** 2 + (compared.v_KBM - v_target) ** 2)}


def nca(compared: Compared, knobs: Knobs) -> Terms:
    """NCA for a pair (arXiv 2402.05369, eq. 9): -log s(beta u) - 1/2 log s(-beta u) - 1/2 log s(-beta v): [B]."""
    u, v = knobs.beta * compared.u_KBM, knobs.beta * compared.v_KBM
    return {"prompt": compared.over_pairs(-F.logsigmoid(u) - 0.5 * F.logsigmoid(-u) - 0.5 * F.logsigmoid(-v))}


def nca_kway(compared: Compared, knobs: Knobs) -> Terms:
    """NCA over n scored candidates (arXiv 2402.05369, eq. 8): -sum_i (p_i log s(r_i) + log s(-r_i) / n), r under the primary
    reference, p = softmax(score / temperature): [B]."""
    real = _with_chosen(torch.ones_like(compared.counts_BM[:, 0]), (compared.counts_BM > 0).double())
    r = knobs.beta * _with_chosen(compared.u_KBM[0, :, 0], compared.v_KBM[0])
    values = _shares(compared, knobs) * F.logsigmoid(r) + F.logsigmoid(-r) / real.sum(1, keepdim=True)
    return {"prompt": -(real * values).sum(1)}


def infonca(compared: Compared, knobs: Knobs) -> Terms:
    """InfoNCA (arXiv 2402.05369, eq. 6): -sum_i p_i log softmax(r)_i, p = softmax(score / temperature): [B]. With all of p
    on the chosen it is RNCE. In differences r_i - r_0, for pairwise references."""
    gaps = _with_chosen(torch.zeros_like(compared.chosen_B), _gaps(compared, knobs))
    hidden = _with_chosen(torch.zeros_like(compared.chosen_B), compared.counts_BM.log())
    return {"prompt": torch.logsumexp(gaps + hidden, 1) - (_shares(compared, knobs) * gaps).sum(1)}


def _with_chosen(chosen_B: Tensor, rejected_BM: Tensor) -> Tensor:
    return torch.cat([chosen_B[:, None], rejected_BM], 1)


def _shares(compared: Compared, knobs: Knobs) -> Tensor:
    """softmax(score / temperature) over the chosen and the real negatives: [B, 1 + M], 0 at padding."""
    chosen, rejected = compared.labels
    hidden = torch.where(compared.counts_BM > 0, rejected / knobs.temperature, -torch.inf)
    return _with_chosen(chosen / knobs.temperature, hidden).softmax(1)


def bco(compared: Compared, knobs: Knobs) -> Terms:
    """BCO (arXiv 2404.04656): -log s(beta u - delta) - log s(-(beta v - delta)), delta the running mean of rewards: [B]."""
    u, v = knobs.beta * compared.u_KBM, knobs.beta * compared.v_KBM
    return {"prompt": compared.over_pairs(-F.logsigmoid(u - compared.shift) - F.logsigmoid(compared.shift - v))}


def kto(compared: Compared, knobs: Knobs) -> Terms:
    """KTO (arXiv 2402.01306, eq. 8) on pairs: lam_D (1 - s(beta (u - z))) + lam_U (1 - s(beta (z - v))), z the mean log-ratio
    of mismatched answers: [B]."""
    u, v = knobs.beta * (compared.u_KBM - compared.shift), knobs.beta * (compared.shift - compared.v_KBM)
    values = knobs.desirable_weight * (-u).sigmoid() + knobs.undesirable_weight * (-v).sigmoid()
    return {"prompt": compared.over_pairs(values)}


def kto_labelled(compared: Compared, knobs: Knobs) -> Terms:
    """KTO (arXiv 2402.01306, eq. 8) on labelled answers: lam_D (1 - s(beta (u - z))) of a desirable one, u its log-ratio, and
    lam_U (1 - s(beta (z - v))) of an undesirable one, v its log-ratio: [B]."""
    ratio_B, desirable_B = compared.labelled
    gap = knobs.beta * (ratio_B - compared.shift)
    values = torch.where(desirable_B, knobs.desirable_weight * (-gap).sigmoid(), knobs.undesirable_weight * gap.sigmoid())
    return {"prompt": values}


BETA = keys("beta")
SMOOTHED = keys("beta", "label_smoothing")
SCORED = keys("beta", "temperature")
WEIGHTED = keys("beta", "desirable_weight", "undesirable_weight")
LOSSES: dict[str, Loss] = {
    "nll": Loss(nll, "-log pi(w) per token", ()),
    "logistic": Loss(logistic, "-(1-e) log s(beta(u-v)) - e log s(-beta(u-v))", SMOOTHED),
    "logistic_nll": Loss(logistic_nll, "logistic + lambda * NLL(w) per token", keys("beta", "label_smoothing", "nll_weight")),
    "softmax": Loss(softmax, "-log( e^r0 / (e^r0 + sum_m e^rm) )", BETA),
    "reverse_kl": Loss(
        reverse_kl,
        "s(d)[log s(d) - log(1-e)] + s(-d)[log s(-d) - log e], d = beta(u-v)",
        SMOOTHED,
        "smoothing",
    ),
    "length_averaged": Loss(length_averaged, "-log s(beta(logp(w)/|w| - logp(l)/|l|) - gamma)", keys("beta", "margin")),
    "squared": Loss(squared, "(u/|w| - v/|l| - 1/(2 beta))^2", BETA, "same_tokenizer"),
    "apo_zero": Loss(apo_zero, "(1 - s(beta u)) + s(beta v)", BETA),
    "apo_down": Loss(apo_down, "s(beta u) + (1 - s(beta(u-v)))", BETA),
    "sppo": Loss(sppo, "(u - 1/(2 beta))^2 + (v + 1/(2 beta))^2", BETA),
    "sppo_soft": Loss(sppo_soft, "(u - (Pw-1/2)/beta)^2 + (v - (Pl-1/2)/beta)^2", BETA, "win_prob"),
    "nca": Loss(nca, "-log s(beta u) - 1/2 log s(-beta u) - 1/2 log s(-beta v)", BETA),
    "nca_kway": Loss(nca_kway, "-sum_i ( p_i log s(r_i) + 1/n log s(-r_i) ), p = softmax(score/T)", SCORED, "score"),
    "infonca": Loss(infonca, "-sum_i p_i log softmax(r)_i, p = softmax(score/T)", SCORED, "score"),
    "bco": Loss(bco, "-log s(beta u - delta) - log s(-(beta v - delta))", BETA, "mean_reward"),
    "kto": Loss(kto, "lam_D (1 - s(beta(u-z))) + lam_U (1 - s(beta(z-v)))", WEIGHTED, "mismatched"),
    "kto_labelled": Loss(
        kto_labelled, "lam_D (1 - s(beta(u-z))) if desirable, else lam_U (1 - s(beta(z-v)))", WEIGHTED, "mismatched"
    ),
}
