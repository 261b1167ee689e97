"""An independent oracle for the training objectives: scalar fp64 Python, written from METHODS.md sections 1 to 3 alone.

Log-probs are natural-log sums over a completion's tokens; `u`, `v` are the log-ratios policy - reference of the chosen and
the rejected completion, without beta. `*_K` lists hold one value per reference; index 0 is the primary reference.
Nothing here may import the code under test.
"""

import math


def log_sigmoid(x: float) -> float:
    """log s(x) = -log(1 + e^-x), for any finite x."""
    return min(x, 0.0) - math.log1p(math.exp(-abs(x)))


def logsumexp(xs: list[float]) -> float:
    """log sum_i e^{x_i}; -inf terms add nothing, and no terms at all give -inf."""
    ordered = sorted(xs, reverse=True)
    if not ordered or ordered[0] == -math.inf:
        return -math.inf
    top = ordered[0]
    return top + math.log1p(math.fsum(math.exp(x - top) for x in ordered[1:]))


def dpo(u: float, v: float, beta: float, smoothing: float = 0.0) -> float:
    """-(1-e) log s(beta(u-v)) - e log s(-beta(u-v))   (section 3, dpo)."""
    d = beta * (u - v)
    return -(1 - smoothing) * log_sigmoid(d) - smoothing * log_sigmoid(-d)


def rnce(u: float, vs: list[float], counts: list[int], beta: float) -> float:
    """-log( e^{r_0} / (e^{r_0} + sum_m c_m e^{r_m}) ), r = beta * log-ratio, c_m = how often negative m was drawn (section 1).

    Numerator and denominator are divided by e^{r_0}: the loss is log(1 + sum_m c_m e^{r_m - r_0}).
    """
    return logsumexp([0.0] + [math.log(c) + beta * (v - u) for v, c in zip(vs, counts, strict=True) if c > 0])


def kernel_weights(policy: list[float], reference: list[float] | None, beta: float, kind: str) -> list[float]:
    """w = softmax(beta(policy - reference)) for 'ratio', softmax(beta * policy) for 'policy', over the pool (section 1)."""
    if kind == "ratio":
        if reference is None:
            raise ValueError("kind 'ratio' needs the reference's log-probs")
        scores = [beta * (p - r) for p, r in zip(policy, reference, strict=True)]
    elif kind == "policy":
        scores = [beta * p for p in policy]
    else:
        raise ValueError(f"unknown kind {kind!r}")
    total = logsumexp(scores)
    return [math.exp(s - total) for s in scores]


def gumbel_top_inclusion(weights: list[float], m: int) -> list[float]:
    """P(i in sample) for m successive draws without replacement, each in proportion to the weights of what is left.

    P(i_1, ..., i_m) = prod_t w_{i_t} / (sum w - w_{i_1} - ... - w_{i_{t-1}}), summed over every ordered sample with i in it.
    """
    if not 0 <= m <= sum(w > 0 for w in weights):
        raise ValueError("m must be between 0 and the number of items of positive weight")
    inclusion = [0.0] * len(weights)

    def extend(sample: list[int], probability: float) -> None:
        if len(sample) == m:
            for i in sample:
                inclusion[i] += probability
            return
        left = [i for i in range(len(weights)) if i not in sample and weights[i] > 0]
        total = math.fsum(weights[i] for i in left)
        for i in left:
            extend([*sample, i], probability * weights[i] / total)

    extend([], 1.0)
    return inclusion


def multinomial_mean(weights: list[float], m: int) -> list[float]:
    """E[count_i] = m w_i for m draws with replacement; the weights are probabilities."""
    return [m * w for w in weights]


def effective_size(weights: list[float]) -> float:
    """1 / sum w^2; the weights are probabilities (section 1)."""
    return 1 / math.fsum(w * w for w in weights)


def eps_adaptive(chosen_K: list[float], rejected_K: list[float], eps_max: float) -> tuple[float, float]:
    """eps_w = eps_max |b_w| / (|b_w| + |b_l|), eps_l = eps_max - eps_w, b = mean over references (section 2, CTRO).

    0/0 gives equal halves.
    """
    b_w = abs(math.fsum(chosen_K) / len(chosen_K))
    b_l = abs(math.fsum(rejected_K) / len(rejected_K))
    eps_w = eps_max * b_w / (b_w + b_l) if b_w + b_l > 0 else eps_max / 2
    return eps_w, eps_max - eps_w


def ctro(logps_K: list[float], eps: float) -> list[float]:
    """clip(L_k, (1+eps) L_1, (1-eps) L_1) for every reference but the primary one, L_1 (section 2, CTRO)."""
    primary = logps_K[0]
    return [primary] + [max((1 + eps) * primary, min((1 - eps) * primary, other)) for other in logps_K[1:]]


def arwc(chosen_K: list[float], rejected_K: list[float]) -> list[float]:
    """alpha_k = a_k / sum_j a_j, a_k = |L_k(y_w) - L_k(y_l)|, of UNCLIPPED sums (section 2, ARWC).

    All a_k = 0 gives equal weights.
    """
    gaps = [abs(w - x) for w, x in zip(chosen_K, rejected_K, strict=True)]
    total = math.fsum(gaps)
    return [a / total for a in gaps] if total > 0 else [1 / len(gaps)] * len(gaps)


def virtual(logps_K: list[float], alpha_K: list[float]) -> float:
    """log pi~ = -logsumexp_k( log alpha_k - log pi_k ), the weighted harmonic mean (section 2).

    alpha_k = 0 drops reference k.
    """
    return -logsumexp([math.log(a) - x for x, a in zip(logps_K, alpha_K, strict=True) if a > 0])


def clipped_and_weighted(
    refs_w_K: list[float], refs_l_K: list[float], eps_max: float, adaptive: bool, alpha: list[float] | None
) -> tuple[list[float], list[float], list[float]]:
    """What MRPO and Multi-DPO share: the clipped chosen, the clipped rejected and the weights alpha (given, else ARWC's).

    Adaptive: eps_w + eps_l = eps_max. Fixed: eps_w = eps_l = eps_max.
    """
    eps_w, eps_l = eps_adaptive(refs_w_K, refs_l_K, eps_max) if adaptive else (eps_max, eps_max)
    return ctro(refs_w_K, eps_w), ctro(refs_l_K, eps_l), arwc(refs_w_K, refs_l_K) if alpha is None else alpha


def mrpo(
    pi_w: float,
    pi_l: float,
    refs_w_K: list[float],
    refs_l_K: list[float],
    beta: float,
    eps_max: float = 0.1,
    adaptive: bool = True,
    alpha: list[float] | None = None,
    order: str = "paper",
) -> float:
    """DPO with pi_ref := pi~ of the clipped references (section 2).

    order 'repo' swaps the two ARWC weights when K = 2, and only then; a given alpha is used as it stands.
    """
    if order not in ("paper", "repo"):
        raise ValueError(f"unknown order {order!r}")
    clipped_w, clipped_l, weights = clipped_and_weighted(refs_w_K, refs_l_K, eps_max, adaptive, alpha)
    if order == "repo" and alpha is None and len(weights) == 2:
        weights = weights[::-1]
    return dpo(pi_w - virtual(clipped_w, weights), pi_l - virtual(clipped_l, weights), beta)


def multi_dpo(
    pi_w: float,
    pi_l: float,
    refs_w_K: list[float],
    refs_l_K: list[float],
    beta: float,
    eps_max: float = 0.1,
    adaptive: bool = True,
    alpha: list[float] | None = None,
) -> float:
    """sum_k alpha_k DPO(pi_ref = pi_k), on the clipped references (section 2)."""
    clipped = clipped_and_weighted(refs_w_K, refs_l_K, eps_max, adaptive, alpha)
    return math.fsum(a * dpo(pi_w - w, pi_l - x, beta) for w, x, a in zip(*clipped, strict=True))


def sft(chosen_logps: list[float], chosen_tokens: list[int]) -> float:
    """NLL per token over the batch's chosen tokens: -sum_i logp_i / sum_i tokens_i (section 3, sft and the NLL of rpo, cpo)."""
    return -math.fsum(chosen_logps) / sum(chosen_tokens)
