"""Losses and references against the independent fp64 oracle, and the properties the registries promise."""

import math
from dataclasses import replace
from types import SimpleNamespace

import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from train.objectives.compared import Compared
from train.objectives.losses import LOSSES
from train.objectives.references import REFERENCES, ctro, epsilons, weights
from train.objectives.registry import OBJECTIVES
from train.settings import LossSettings

NATS = st.floats(-1000, -0.5)
BETA = st.floats(0.01, 10)


def knobs(**keys: object) -> SimpleNamespace:
    base = {"eps_max": 0.1, "adaptive_eps": True, "alpha": None, "weight_order": "paper"}
    return SimpleNamespace(**{**LossSettings().model_dump(), **base, **keys})


def compared(chosen, rejected, refs_w, refs_l, reference: str = "primary", counts=None, **keys: object) -> Compared:
    """One prompt: chosen a number, rejected [M], refs_w [K], refs_l [K][M]."""
    tensor = lambda x: torch.tensor(x, dtype=torch.float64)  # noqa: E731
    first = tensor(refs_w)[:, None, None].expand(-1, 1, len(rejected))
    views = REFERENCES[reference].views(first, tensor(refs_l)[:, None, :], knobs(**keys))
    count = tensor([counts or [1] * len(rejected)])
    labels = tensor([0.9]), tensor([[0.4, 0.2, 0.1][: len(rejected)]])
    return Compared(tensor([chosen]), tensor([rejected]), *views, count, tensor([3.0]), torch.ones_like(count), *labels)


def value(loss: str, rows: Compared, **keys: object) -> float:
    terms = LOSSES[loss].function(rows, knobs(**{"label_smoothing": 1e-3 * (loss == "reverse_kl"), **keys}))
    return float(terms["prompt" if "prompt" in terms else "token"][0])


def close(ours: float, theirs: float) -> bool:
    return math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-9)


@given(NATS, NATS, NATS, NATS, BETA, st.floats(0, 0.4))
def test_logistic_is_dpo(w: float, lo: float, rw: float, rl: float, beta: float, smooth: float) -> None:
    rows = compared(w, [lo], [rw], [[rl]])
    assert close(value("logistic", rows, beta=beta, label_smoothing=smooth), oracle.dpo(w - rw, lo - rl, beta, smooth))


@given(NATS, st.lists(st.tuples(NATS, NATS, st.integers(0, 3)), min_size=1, max_size=5), NATS, BETA)
def test_softmax_is_rnce_with_counts(w: float, negatives: list[tuple[float, float, int]], rw: float, beta: float) -> None:
    counts = [c for _, _, c in negatives]
    if sum(counts) == 0:
        return
    rows = compared(w, [x for x, _, _ in negatives], [rw], [[r for _, r, _ in negatives]], counts=counts)
    exact = oracle.rnce(w - rw, [x - r for x, r, _ in negatives], counts, beta)
    assert close(value("softmax", rows, beta=beta), exact)


@given(NATS, NATS, st.lists(st.tuples(NATS, NATS), min_size=1, max_size=4), BETA, st.booleans())
def test_mrpo_is_the_oracles(w: float, lo: float, refs: list[tuple[float, float]], beta: float, adaptive: bool) -> None:
    refs_w, refs_l = [a for a, _ in refs], [b for _, b in refs]
    rows = compared(w, [lo], refs_w, [[r] for r in refs_l], "virtual", adaptive_eps=adaptive)
    exact = oracle.mrpo(w, lo, refs_w, refs_l, beta, 0.1, adaptive)
    assert close(value("logistic", rows, beta=beta), exact)


@given(NATS, NATS, st.lists(st.tuples(NATS, NATS), min_size=1, max_size=4), BETA)
def test_each_reference_alone_is_multi_dpo(w: float, lo: float, refs: list[tuple[float, float]], beta: float) -> None:
    refs_w, refs_l = [a for a, _ in refs], [b for _, b in refs]
    rows = compared(w, [lo], refs_w, [[r] for r in refs_l], "each")
    assert close(value("logistic", rows, beta=beta), oracle.multi_dpo(w, lo, refs_w, refs_l, beta))


def test_mrpo_with_an_active_clip_by_hand() -> None:
    """K = 3, fixed eps 0.1: L(y_w) = -10, -20, -9.5; L(y_l) = -20, -20.5, -5.

    Clip around the primary: y_w in [-11, -9] -> -10, -11, -9.5; y_l in [-22, -18] -> -20, -20.5, -18.
    a = |L_w - L_l| unclipped = 10, 0.5, 4.5; alpha = 2/3, 1/30, 3/10.
    log pi~(y_w) = -log(2/3 e^10 + 1/30 e^11 + 3/10 e^9.5) = -9.93979...
    log pi~(y_l) = -log(2/3 e^20 + 1/30 e^20.5 + 3/10 e^18) = -19.69606...
    """
    first = torch.tensor([-10.0, -20.0, -9.5], dtype=torch.float64).view(3, 1, 1)
    second = torch.tensor([-20.0, -20.5, -5.0], dtype=torch.float64).view(3, 1, 1)
    fixed = knobs(adaptive_eps=False)
    clipped_w, clipped_l = ctro(first, second, fixed)
    assert clipped_w.flatten().tolist() == pytest.approx([-10, -11, -9.5])
    assert clipped_l.flatten().tolist() == pytest.approx([-20, -20.5, -18])
    assert weights(first, second, fixed).flatten().tolist() == pytest.approx([2 / 3, 1 / 30, 3 / 10])
    tilde_w, tilde_l, one = REFERENCES["virtual"].views(first, second, fixed)
    exact_w = -math.log(2 / 3 * math.exp(10) + 1 / 30 * math.exp(11) + 3 / 10 * math.exp(9.5))
    exact_l = -math.log(2 / 3 * math.exp(20) + 1 / 30 * math.exp(20.5) + 3 / 10 * math.exp(18))
    assert float(tilde_w) == pytest.approx(exact_w, abs=1e-12)
    assert float(tilde_l) == pytest.approx(exact_l, abs=1e-12)
    assert float(one) == 1
    eps_w, eps_l = epsilons(first, second, knobs())
    assert (float(eps_w), float(eps_l)) == pytest.approx(oracle.eps_adaptive([-10, -20, -9.5], [-20, -20.5, -5], 0.1))
    assert float(eps_w) == pytest.approx(0.1 * (39.5 / 3) / (39.5 / 3 + 45.5 / 3))


def test_the_two_weight_orders_differ_and_fixed_alpha_is_used() -> None:
    arguments = (-5.0, [-6.0], [-5.0, -9.0], [[-9.0], [-9.3]], "virtual")
    paper, repo = (value("logistic", compared(*arguments, weight_order=o), beta=1) for o in ("paper", "repo"))
    assert paper == pytest.approx(oracle.mrpo(-5, -6, [-5, -9], [-9, -9.3], 1))
    assert repo == pytest.approx(oracle.mrpo(-5, -6, [-5, -9], [-9, -9.3], 1, order="repo"))
    assert abs(paper - repo) > 1e-3
    fixed = value("logistic", compared(*arguments, alpha=[3, 1]), beta=1)
    assert fixed == pytest.approx(oracle.mrpo(-5, -6, [-5, -9], [-9, -9.3], 1, alpha=[0.75, 0.25]))


def test_the_repos_order_of_weights_is_of_the_virtual_reference_alone() -> None:
    """The authors' code swaps the weights of MRPO, not those of its baseline Multi-DPO."""
    arguments = (-5.0, [-6.0], [-5.0, -9.0], [[-9.0], [-9.3]], "each")
    for order in ("paper", "repo"):
        ours = value("logistic", compared(*arguments, weight_order=order), beta=1)
        assert ours == pytest.approx(oracle.multi_dpo(-5, -6, [-5, -9], [-9, -9.3], 1))


@pytest.mark.parametrize("alpha", [[1, 0], [0, 1]])
def test_alpha_zero_and_one_are_finite(alpha: list[float]) -> None:
    rows = compared(-5.0, [-1005.0], [-5.0, -1005.0], [[-1005.0], [-5.0]], "virtual", alpha=alpha)
    assert math.isfinite(value("logistic", rows, beta=1))


@given(NATS, NATS, NATS, NATS, BETA)
def test_mrpo_of_one_reference_or_no_clip_or_twins_is_dpo(w: float, lo: float, rw: float, rl: float, beta: float) -> None:
    dpo = oracle.dpo(w - rw, lo - rl, beta)
    one = compared(w, [lo], [rw], [[rl]], "virtual")
    twins = compared(w, [lo], [rw, rw, rw], [[rl], [rl], [rl]], "virtual")
    narrow = compared(w, [lo], [rw, rw - 7], [[rl], [rl + 0.3]], "virtual", eps_max=0.0)
    for rows in (one, twins, narrow):
        assert math.isclose(value("logistic", rows, beta=beta), dpo, rel_tol=1e-9, abs_tol=1e-8)


@given(NATS, NATS, NATS, NATS, BETA)
def test_one_negative_makes_dpo_rnce_and_mcpo_coincide(w: float, lo: float, rw: float, rl: float, beta: float) -> None:
    rows = compared(w, [lo], [rw], [[rl]])
    assert close(value("softmax", rows, beta=beta), value("logistic", rows, beta=beta))


PREFERENCE = [name for name, row in OBJECTIVES.items() if row.negatives != "none"]
RISING = ("logistic", "softmax", "logistic_nll", "length_averaged", "apo_zero", "bco", "kto")
"""Losses that never punish a likelier chosen answer; the others aim at a value."""
EVERY = ("infonca", "nca_kway")
"""Losses over all candidates, each once."""


@pytest.mark.parametrize("name", [n for n in PREFERENCE if OBJECTIVES[n].loss in RISING])
@pytest.mark.parametrize("beta", [1e-9, 0.1, 1e5])
def test_raising_the_chosen_lowers_the_loss_and_all_is_finite(name: str, beta: float) -> None:
    row = OBJECTIVES[name]
    arguments = ([-30.0, -1030.0], [-10.0, -990.0], [[-12.0, -1000.0], [-700.0, -11.0]])

    def at(chosen: float) -> torch.Tensor:
        rows = compared(chosen, *arguments, reference=row.references)
        rows.chosen_B.requires_grad_(True)
        loss = LOSSES[row.loss].function(rows, knobs(beta=beta))["prompt"].sum()
        (gradient,) = torch.autograd.grad(loss, rows.chosen_B)
        assert math.isfinite(float(loss.detach()))
        assert math.isfinite(float(gradient))
        assert float(gradient) <= 0
        return loss.detach()

    low, high = at(-900.0), at(-5.0)
    assert (
        float(high) < float(low) or beta == 1e-9 or (float(high) == float(low) and OBJECTIVES[name].loss in ("apo_zero", "kto"))
    )


@pytest.mark.parametrize("name", PREFERENCE)
def test_padding_is_inert(name: str) -> None:
    row = OBJECTIVES[name]
    two = compared(-5.0, [-6.0, -7.0], [-5.5, -5.0], [[-6.1, -7.1], [-6.3, -7.0]], row.references)
    padded = compared(
        -5.0, [-6.0, -7.0, 0.0], [-5.5, -5.0], [[-6.1, -7.1, 0.0], [-6.3, -7.0, 0.0]], row.references, counts=[1, 1, 0]
    )
    assert value(row.loss, two, beta=1) == pytest.approx(value(row.loss, padded, beta=1), abs=1e-12)


@pytest.mark.parametrize("name", [n for n in PREFERENCE if OBJECTIVES[n].loss not in EVERY])
def test_counts_equal_repeats(name: str) -> None:
    row = OBJECTIVES[name]
    counted = compared(-5.0, [-6.0, -7.0], [-5.5], [[-6.1, -7.1]], "primary", counts=[2, 1])
    repeated = compared(-5.0, [-6.0, -6.0, -7.0], [-5.5], [[-6.1, -6.1, -7.1]], "primary")
    labels = repeated.chosen_tokens_B.new_tensor([[0.4, 0.4, 0.2]])
    repeated = replace(repeated, rejected_labels_BM=labels)
    assert value(row.loss, counted, beta=1) == pytest.approx(value(row.loss, repeated, beta=1), abs=1e-12)


def test_chosen_equal_to_rejected_costs_log_2() -> None:
    assert value("logistic", compared(-5.0, [-5.0], [-6.0], [[-6.0]]), beta=1) == pytest.approx(math.log(2), abs=1e-15)


def test_sft_is_nll_per_token_once_the_loop_divides() -> None:
    rows = compared(-6.0, [-6.0], [0.0], [[0.0]], "none")
    assert value("nll", rows) / 3 == pytest.approx(oracle.sft([-6.0], [3]))
    assert list(LOSSES["nll"].function(rows, knobs())) == ["token"]


def test_zero_gaps_share_the_weight_and_zero_means_share_the_clip() -> None:
    zeros = torch.zeros(2, 1, 1, dtype=torch.float64)
    assert weights(zeros, zeros, knobs()).flatten().tolist() == [0.5, 0.5]
    assert [float(e) for e in epsilons(zeros, zeros, knobs())] == [0.05, 0.05]
