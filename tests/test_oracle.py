"""The oracle against numbers worked out by hand (METHODS.md sections 1 to 3)."""

import math

import oracle
import pytest

approx = pytest.approx
EXACT = {"rel": 1e-13, "abs": 1e-13}


def test_log_sigmoid_and_logsumexp_at_literal_points():
    assert oracle.log_sigmoid(0) == approx(-0.6931471805599453, **EXACT)
    assert oracle.log_sigmoid(math.log(3)) == approx(math.log(0.75), **EXACT)
    assert oracle.log_sigmoid(-math.log(3)) == approx(math.log(0.25), **EXACT)
    assert oracle.log_sigmoid(-1000) == -1000
    assert oracle.log_sigmoid(1000) == 0
    assert oracle.log_sigmoid(40) == approx(-4.248354255291589e-18, rel=1e-12)
    assert oracle.logsumexp([math.log(2), math.log(5), math.log(3)]) == approx(math.log(10), **EXACT)
    assert oracle.logsumexp([-2000, -1000, -1000]) == approx(-1000 + math.log(2), **EXACT)
    assert oracle.logsumexp([-math.inf, -math.inf]) == -math.inf
    assert oracle.logsumexp([]) == -math.inf


def test_dpo_at_literal_points():
    """d = 0: log 2 at any smoothing. d = log 3: s = 3/4, so -log s(d) = log(4/3), -log s(-d) = log 4."""
    assert oracle.dpo(-7, -7, 0.1) == approx(math.log(2), **EXACT)
    assert oracle.dpo(-7, -7, 0.1, 0.3) == approx(math.log(2), **EXACT)
    assert oracle.dpo(2 * math.log(3), 0, 0.5) == approx(math.log(4 / 3), **EXACT)
    assert oracle.dpo(2 * math.log(3), 0, 0.5, 0.25) == approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4), **EXACT)


def test_rnce_at_literal_points():
    """beta 1, e^u = 4, negatives e^v = 2, 3 counted 1, 2 times: 4 / (4 + 2 + 6) = 1/3."""
    assert oracle.rnce(math.log(4), [math.log(2), math.log(3)], [1, 2], 1) == approx(math.log(3), **EXACT)
    assert oracle.rnce(5, [5, 5, 5], [1, 1, 1], 0.1) == approx(math.log(4), **EXACT)
    assert oracle.rnce(1, [2, 300], [3, 0], 0.1) == approx(oracle.rnce(1, [2, 2, 2], [1, 1, 1], 0.1), **EXACT)


@pytest.mark.parametrize(("u", "v"), [(3, -2), (-2, 3), (0, 0), (500, -500), (-500, 500)])
def test_rnce_with_one_negative_is_dpo(u, v):
    assert oracle.rnce(u, [v], [1], 0.1) == approx(oracle.dpo(u, v, 0.1), rel=1e-13)


def test_kernel_weights_and_their_summaries():
    """beta 2: ratios log 1, log 2, log 3 over 2 -> 1/6, 2/6, 3/6; policy halves of log 1, log 4, log 5 -> 0.1, 0.4, 0.5."""
    reference = [-30, -50, -10]
    policy = [ref + math.log(k) / 2 for ref, k in zip(reference, (1, 2, 3), strict=True)]
    ratio = oracle.kernel_weights(policy, reference, 2, "ratio")
    assert ratio == approx([1 / 6, 2 / 6, 3 / 6], **EXACT)
    alone = oracle.kernel_weights([-9 + math.log(k) / 2 for k in (1, 4, 5)], None, 2, "policy")
    assert alone == approx([0.1, 0.4, 0.5], **EXACT)
    assert oracle.kernel_weights(reference, reference, 2, "ratio") == approx([1 / 3] * 3, **EXACT)
    assert oracle.kernel_weights([0, -1000], [-1000, 0], 1, "ratio") == [1, 0]
    assert oracle.effective_size(ratio) == approx(36 / 14, **EXACT)
    assert oracle.multinomial_mean(ratio, 3) == approx([0.5, 1, 1.5], **EXACT)
    with pytest.raises(ValueError, match="unknown kind"):
        oracle.kernel_weights(policy, reference, 2, "other")
    with pytest.raises(ValueError, match="needs the reference"):
        oracle.kernel_weights(policy, None, 2, "ratio")


def test_gumbel_top_inclusion_of_three_items():
    """w = 1/2, 1/4, 1/4, m = 2. Ordered samples: P(01) = P(02) = 1/2 * 1/2 = 1/4; P(10) = P(20) = 1/4 * 2/3 = 1/6;
    P(12) = P(21) = 1/4 * 1/3 = 1/12. Item 0 is in four of them: 1/4 + 1/4 + 1/6 + 1/6 = 5/6; item 1: 1/4 + 1/6 + 2/12 = 7/12.
    """
    weights = [0.5, 0.25, 0.25]
    assert oracle.gumbel_top_inclusion(weights, 2) == approx([5 / 6, 7 / 12, 7 / 12], **EXACT)
    assert oracle.gumbel_top_inclusion(weights, 0) == [0, 0, 0]
    assert oracle.gumbel_top_inclusion(weights, 1) == approx(weights, **EXACT)
    assert oracle.gumbel_top_inclusion(weights, 3) == approx([1, 1, 1], **EXACT)
    assert oracle.gumbel_top_inclusion([0.5, 0.5, 0], 2) == approx([1, 1, 0], **EXACT)
    with pytest.raises(ValueError, match="m must be"):
        oracle.gumbel_top_inclusion([0.5, 0.5, 0], 3)


# Three references, shared by the step-by-step cases below.
REFS_W = [-20, -24.5, -19.5]
REFS_L = [-30, -27, -39]
ALPHA = [0.3125, 0.078125, 0.609375]


def test_three_references_with_an_active_clip_step_by_step():
    """eps_max 0.1, primary -20 / -30.

    Sums over the references: -64 and -96, so |b_w| : |b_l| = 2 : 3 and eps_w = 0.04, eps_l = 0.06.
    Chosen, kept within [-20.8, -19.2]: -24.5 -> -20.8 (lower bound); -19.5 stays.
    Rejected, kept within [-31.8, -28.2]: -27 -> -28.2 (upper bound); -39 -> -31.8 (lower bound).
    Unclipped gaps: 10, 2.5, 19.5, total 32: alpha = 0.3125, 0.078125, 0.609375.
    """
    assert oracle.eps_adaptive(REFS_W, REFS_L, 0.1) == approx((0.04, 0.06), **EXACT)
    assert oracle.ctro(REFS_W, 0.04) == approx([-20, -20.8, -19.5], **EXACT)
    assert oracle.ctro(REFS_L, 0.06) == approx([-30, -28.2, -31.8], **EXACT)
    assert oracle.arwc(REFS_W, REFS_L) == approx(ALPHA, **EXACT)


def test_mrpo_of_three_references_step_by_step():
    """On the clipped values of the case above; policy -19 / -33, beta 0.1.

    pi~ chosen:   -20 - log(0.3125 + 0.078125 e^0.8 + 0.609375 e^-0.5) = -20 - log 0.855975005800860 = -19.844485897902540
    pi~ rejected: -30 - log(0.3125 + 0.078125 e^-1.8 + 0.609375 e^1.8) = -30 - log 4.011917899268950 = -31.389269406098915
    u = 0.844485897902540, v = -1.610730593901085, d = 0.1 (u - v) = 0.245521649180363, log(1 + e^-d) = 0.577902615747728.
    """
    assert oracle.virtual([-20, -20.8, -19.5], ALPHA) == approx(-19.844485897902540, **EXACT)
    assert oracle.virtual([-30, -28.2, -31.8], ALPHA) == approx(-31.389269406098915, **EXACT)
    assert oracle.mrpo(-19, -33, REFS_W, REFS_L, 0.1) == approx(0.577902615747728, **EXACT)
    assert oracle.mrpo(-19, -33, REFS_W, REFS_L, 0.1, alpha=ALPHA) == approx(0.577902615747728, **EXACT)


def test_multi_dpo_of_three_references_step_by_step():
    """Same clipped values and policy. Policy gap 14; reference gaps 10, 7.4, 12.3; d_k = 0.4, 0.66, 0.17;
    log(1 + e^-d_k) = 0.513015252399953, 0.416636695888239, 0.611755338870623; weighted by alpha: 0.565655417865540.
    """
    assert oracle.multi_dpo(-19, -33, REFS_W, REFS_L, 0.1) == approx(0.565655417865540, **EXACT)
    assert oracle.multi_dpo(-19, -33, REFS_W, REFS_L, 0.1, alpha=[0, 1, 0]) == approx(0.416636695888239, **EXACT)


def test_fixed_eps_is_eps_max_on_both_sides():
    """eps 0.04 fixed, beta 0.1, alpha all on reference 1: chosen -24.5 -> -20.8, rejected -27 -> -28.8; d = 0.1 (14 - 8)."""
    want = approx(math.log1p(math.exp(-0.6)), **EXACT)
    assert oracle.mrpo(-19, -33, REFS_W, REFS_L, 0.1, 0.04, adaptive=False, alpha=[0, 1, 0]) == want
    assert oracle.multi_dpo(-19, -33, REFS_W, REFS_L, 0.1, 0.04, adaptive=False, alpha=[0, 1, 0]) == want


def test_weight_order_of_two_references():
    """Chosen -20 + log 8, -20 + log 2; rejected -20, -20; eps_max 1 clips nothing. Gaps 3 log 2, log 2: alpha = 3/4, 1/4.

    pi~ rejected = -20 whatever alpha is. pi~ chosen, paper: -20 - log(3/4/8 + 1/4/2) = -20 - log(7/32);
    repo, 1/4, 3/4: -20 - log(1/4/8 + 3/4/2) = -20 - log(13/32). Policy -20 / -20, beta 1: d = log(7/32), log(13/32).
    Multi-DPO: d = -log 8, -log 2, so 3/4 log 9 + 1/4 log 3 = 7/4 log 3.
    """
    refs_w, refs_l = [-20 + math.log(8), -20 + math.log(2)], [-20, -20]
    assert oracle.mrpo(-20, -20, refs_w, refs_l, 1, 1) == approx(math.log(39 / 7), **EXACT)
    assert oracle.mrpo(-20, -20, refs_w, refs_l, 1, 1, order="repo") == approx(math.log(45 / 13), **EXACT)
    assert oracle.mrpo(-20, -20, refs_w, refs_l, 1, 1, alpha=[0.75, 0.25], order="repo") == approx(math.log(39 / 7), **EXACT)
    assert oracle.multi_dpo(-20, -20, refs_w, refs_l, 1, 1) == approx(1.75 * math.log(3), **EXACT)
    three = oracle.mrpo(-19, -33, REFS_W, REFS_L, 0.1, order="repo")
    assert three == approx(0.577902615747728, **EXACT)
    with pytest.raises(ValueError, match="unknown order"):
        oracle.mrpo(-20, -20, refs_w, refs_l, 1, order="other")


def test_zero_over_zero_gives_equal_shares():
    assert oracle.eps_adaptive([0, 0], [0, 0], 0.1) == (0.05, 0.05)
    assert oracle.arwc([-5, -7], [-5, -7]) == [0.5, 0.5]
    assert oracle.ctro([0, -3], 0.1) == [0, 0]


@pytest.mark.parametrize("loss", [oracle.mrpo, oracle.multi_dpo])
@pytest.mark.parametrize(
    ("refs_w", "refs_l", "eps_max"),
    [([-20], [-30], 0.1), (REFS_W, REFS_L, 0), ([-20] * 3, [-30] * 3, 0.1), ([-20, -1020], [-30, -1030], 0)],
    ids=["one reference", "eps 0", "identical references", "eps 0, 1000 nats apart"],
)
@pytest.mark.parametrize("adaptive", [True, False])
def test_degenerate_references_reduce_to_dpo(loss, refs_w, refs_l, eps_max, adaptive):
    """u = -19 + 20 = 1, v = -33 + 30 = -3, d = 0.1 * 4."""
    want = oracle.dpo(1, -3, 0.1)
    assert want == approx(math.log1p(math.exp(-0.4)), **EXACT)
    assert loss(-19, -33, refs_w, refs_l, 0.1, eps_max, adaptive) == approx(want, **EXACT)


def test_gaps_of_a_thousand_nats_are_finite():
    """A harmonic mean sits log(1/alpha) above its smallest member."""
    assert oracle.dpo(-1000, 0, 1) == 1000
    assert oracle.dpo(0, -1000, 1) == 0
    assert oracle.rnce(-1000, [0, 0], [1, 2], 1) == approx(1000 + math.log(3), **EXACT)
    assert oracle.virtual([-10, -1010], [0.75, 0.25]) == approx(-1010 + math.log(4), **EXACT)
    assert oracle.virtual([-10, -1010], [1, 0]) == -10
    # eps_max 1e9 switches the clip off; alpha 1/2 each, so both means are -1010 + log 2 and they cancel in u - v.
    assert oracle.mrpo(-5, -5, [-10, -1010], [-1010, -10], 1, 1e9) == approx(math.log(2), **EXACT)
    assert oracle.multi_dpo(-5, -5, [-10, -1010], [-1010, -10], 1, 1e9) == approx(500, **EXACT)


def test_sft_is_per_token_over_the_batch():
    """(6 + 2) nats over 3 + 1 tokens is 2; (1 + 4) over 9 + 1 is 0.5, not the mean of 1/9 and 4."""
    assert oracle.sft([-6, -2], [3, 1]) == 2
    assert oracle.sft([-1, -4], [9, 1]) == 0.5
