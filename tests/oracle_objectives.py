"""Independent fp64 oracle of preference-optimisation losses. Floats in, float out; only `math`.

u = log pi(w)/ref(w), v = log pi(l)/ref(l), s = logistic sigmoid, all log-probs are sequence sums in nats.
Everything is phrased as a coin: a coin of log-odds x lands heads with probability s(x), tails with 1 - s(x) = s(-x);
the "surprise" of an outcome is -log of its probability. Nothing here may import the code under test.
"""

import math


# ---- helpers -------------------------------------------------------------------------------------------------------
def _coin(x):
    """(P heads, P tails) of a coin of log-odds x; the small one is never got by subtracting from 1."""
    t = math.exp(-abs(x))  # odds of the less likely side, in (0, 1]; underflows to 0 harmlessly
    likely, unlikely = 1.0 / (1.0 + t), t / (1.0 + t)
    return (likely, unlikely) if x >= 0 else (unlikely, likely)


def _surprise(x):
    """(-log P heads, -log P tails) of a coin of log-odds x: log(1+t) for the likely side, |x| more for the other."""
    base = math.log1p(math.exp(-abs(x)))
    return (base, base + abs(x)) if x >= 0 else (base + abs(x), base)


def _share_surprises(scores):
    """[-log softmax(scores)_i]; the top entry is left out of the sum and enters as the 1 of log1p."""
    if not scores:
        raise ValueError("no candidates")
    k = max(range(len(scores)), key=lambda i: scores[i])
    top = scores[k]
    rest = math.fsum(math.exp(x - top) for i, x in enumerate(scores) if i != k)
    excess = math.log1p(rest)
    return [(top - x) + excess for x in scores]


def _shares(scores):
    """softmax(scores), normalised by an exact sum."""
    top = max(scores)
    mass = [math.exp(x - top) for x in scores]
    whole = math.fsum(mass)
    return [m / whole for m in mass]


def _length(n):
    """Token count as a divisor: an empty answer counts as 1."""
    return n if n > 0 else 1


def _same_length(a, b):
    if len(a) != len(b) or not a:
        raise ValueError("need two non-empty lists of one length")


# ---- pair objectives -----------------------------------------------------------------------------------------------
def exo(u, v, beta, e):
    """EXO (pair): KL( [s(d), s(-d)] || [1-e, e] ), d = beta(u - v)
    = s(d)[log s(d) - log(1-e)] + s(-d)[log s(-d) - log e]; 0 < e < 1."""
    d = beta * (u - v)
    q_win, q_lose = _coin(d)
    h_win, h_lose = _surprise(d)
    cross = [q_win * -math.log1p(-e), q_lose * -math.log(e)]  # cross-entropy to the smoothed label
    own = [q_win * h_win, q_lose * h_lose]  # the model's own entropy
    return math.fsum(cross + [-h for h in own])


def simpo(w, lo, nw, nl, beta, gamma):
    """SimPO: -log s( (beta/|w|) log pi(w) - (beta/|l|) log pi(l) - gamma )."""
    margin = beta * (w / _length(nw) - lo / _length(nl)) - gamma
    return _surprise(margin)[0]


def cpo(w, lo, beta, e):
    """CPO, preference term: -(1-e) log s(beta(log pi(w) - log pi(l))) - e log s(-beta(log pi(w) - log pi(l)))."""
    right, wrong = _surprise(beta * (w - lo))
    return (1.0 - e) * right + e * wrong


def nll(ws, tokens):
    """Negative log-likelihood per token over a batch: -sum_i log pi(w_i) / sum_i |w_i|.
    The token counts are summed as given; only a batch with no token at all is divided by 1."""
    _same_length(ws, tokens)
    return -math.fsum(ws) / _length(math.fsum(tokens))


def apo_zero(u, v, beta):
    """APO-zero: (1 - s(beta u)) + s(beta v)."""
    _, chosen_missed = _coin(beta * u)
    rejected_taken, _ = _coin(beta * v)
    return chosen_missed + rejected_taken


def apo_down(u, v, beta):
    """APO-down: s(beta u) + (1 - s(beta(u - v)))."""
    chosen_raised, _ = _coin(beta * u)
    _, misordered = _coin(beta * (u - v))
    return chosen_raised + misordered


def sppo(u, v, beta):
    """SPPO, hard labels (P(w) = 1, P(l) = 0): (u - 1/(2 beta))^2 + (v + 1/(2 beta))^2."""
    half = 1.0 / (2.0 * beta)
    return math.hypot(u - half, v + half) ** 2


def sppo_soft(u, v, pw, pl, beta):
    """SPPO, soft labels: (u - (P(w) - 1/2)/beta)^2 + (v - (P(l) - 1/2)/beta)^2."""
    return math.hypot(u - (pw - 0.5) / beta, v - (pl - 0.5) / beta) ** 2


def nca(u, v, beta):
    """NCA (pair): -log s(beta u) - 1/2 log s(-beta u) - 1/2 log s(-beta v)."""
    w_data, w_noise = _surprise(beta * u)
    _, l_noise = _surprise(beta * v)
    return w_data + (w_noise + l_noise) / 2.0


def ipo(u, v, nw, nl, beta):
    """IPO, length-averaged log-ratios: ( u/|w| - v/|l| - 1/(2 beta) )^2."""
    gap = u / _length(nw) - v / _length(nl) - 1.0 / (2.0 * beta)
    return gap * gap


def bco(u, v, beta, delta):
    """BCO: -log s(beta u - delta) - log s(-(beta v - delta))."""
    return _surprise(beta * u - delta)[0] + _surprise(beta * v - delta)[1]


def running_delta(batches, beta):
    """BCO's delta after each batch: mean of (beta u + beta v)/2 over all prompts seen so far, that batch included."""
    seen, out = [], []
    for batch in batches:
        for u, v in batch:
            seen.append(beta * u)
            seen.append(beta * v)
        out.append(math.fsum(seen) / len(seen))  # two rewards a prompt, so the 1/2 is in the count
    return out


def kto(u, v, beta, z, lam_d, lam_u):
    """KTO, one desirable and one undesirable: lam_D (1 - s(beta(u - z))) + lam_U (1 - s(beta(z - v)))."""
    _, lost_gain = _coin(beta * (u - z))
    _, lost_safety = _coin(beta * (z - v))
    return lam_d * lost_gain + lam_u * lost_safety


def kto_z(policy, reference):
    """KTO's reference point: max(0, mean_i(log pi_i - log ref_i)) over mismatched prompt/completion pairs."""
    _same_length(policy, reference)
    mean = math.fsum(p - r for p, r in zip(policy, reference, strict=True)) / len(policy)
    return mean if mean > 0 else 0.0


# ---- K-way objectives ----------------------------------------------------------------------------------------------
def nca_kway(ratios, scores, beta, temperature):
    """NCA over n candidates, p = softmax(scores/temperature):
    -sum_i ( p_i log s(beta ratio_i) + (1/n) log s(-beta ratio_i) )."""
    _same_length(ratios, scores)
    p = _shares([x / temperature for x in scores])
    parts = []
    for share, r in zip(p, ratios, strict=True):
        data, noise = _surprise(beta * r)
        parts += [share * data, noise / len(ratios)]
    return math.fsum(parts)


def infonca(ratios, scores, beta, temperature):
    """InfoNCA: -sum_i p_i log softmax(beta ratios)_i, p = softmax(scores/temperature)."""
    _same_length(ratios, scores)
    p = _shares([x / temperature for x in scores])
    h = _share_surprises([beta * r for r in ratios])
    return math.fsum(share * surprise for share, surprise in zip(p, h, strict=True))
