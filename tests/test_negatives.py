"""The samplers: exact probabilities by chi-square, ties, edge cases, independence of order."""

import math
from collections import Counter
from itertools import combinations, product

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefdata.draws import hex_id
from prefdata.tables.views import fixed_pair
from train.objectives import negatives
from train.objectives.negatives import NEGATIVES, WEIGHTS, Draw, effective_size

IDS = [f"{i:016x}" for i in range(4)]
SCORES = np.log(np.array([0.1, 0.2, 0.3, 0.4]))
N = 3000


def counts(sampler: str, m: int, replacement: bool = False, scores: np.ndarray | None = SCORES) -> Counter[int]:
    seen: Counter[int] = Counter()
    for visit in range(N):
        places, repeats = NEGATIVES[sampler].select(scores, IDS, Draw(5, visit, m, replacement))
        seen.update(dict(zip(places, repeats, strict=True)))
    return seen


def chi2(seen: Counter[int], expected: list[float]) -> float:
    return sum((seen[i] - N * e) ** 2 / (N * e) for i, e in enumerate(expected))


@pytest.mark.parametrize("m", [1, 2, 3])
def test_kernel_without_replacement_follows_the_exact_inclusion(m: int) -> None:
    """Inclusion counts of M draws vary less than multinomial ones: 16.27 (0.999 quantile, 3 df) is conservative."""
    exact = oracle.gumbel_top_inclusion([0.1, 0.2, 0.3, 0.4], m)
    assert chi2(counts("kernel", m), exact) < 16.27


@pytest.mark.parametrize("m", [1, 3])
def test_kernel_with_replacement_follows_the_multinomial(m: int) -> None:
    seen = counts("kernel", m, replacement=True)
    assert sum(seen.values()) == N * m
    assert chi2(seen, oracle.multinomial_mean([0.1, 0.2, 0.3, 0.4], m)) / m < 16.27


def chain(weights: list[float], steps: int, proposals: int) -> list[float]:
    """Exact probabilities of the kernel's T-th draw, by going through every subset of proposals."""
    pool = range(len(weights))

    def drawn(among: tuple[int, ...]) -> dict[int, float]:
        return {i: weights[i] / sum(weights[j] for j in among) for i in among}

    def mixed(subsets: list[tuple[int, ...]]) -> list[float]:
        return [sum(drawn(s).get(i, 0.0) for s in subsets) / len(subsets) for i in pool]

    now = mixed(list(combinations(pool, proposals)))
    for _ in range(steps - 1):
        moves = [mixed([(x, *s) for s in combinations([i for i in pool if i != x], proposals)]) for x in pool]
        now = [sum(now[x] * moves[x][i] for x in pool) for i in pool]
    return now


@pytest.mark.parametrize(("steps", "proposals"), [(1, 2), (2, 1), (2, 2), (4, 2)])
def test_the_kernels_steps_follow_their_exact_distribution(steps: int, proposals: int) -> None:
    exact = chain([0.1, 0.2, 0.3, 0.4], steps, proposals)
    seen: Counter[int] = Counter()
    for visit in range(N):
        (place,), _ = NEGATIVES["kernel"].select(SCORES, IDS, Draw(5, visit, 1, False, steps, proposals))
        seen[place] += 1
    assert chi2(seen, exact) < 16.27


def test_steps_approach_the_weights_and_leave_them_invariant() -> None:
    """From one proposal of two candidates the first draw is far from the weights, later ones are not."""
    weights = [0.1, 0.2, 0.3, 0.4]
    apart = [max(abs(a - b) for a, b in zip(chain(weights, t, 2), weights, strict=True)) for t in (1, 2, 4, 8)]
    assert apart == sorted(apart, reverse=True)
    assert apart[0] > 0.05
    assert apart[-1] < 1e-3
    assert chain(weights, 2, 3) == pytest.approx(weights)  # three proposals and the last draw are the whole pool


def test_every_step_of_every_chain_has_noise_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []
    whole = negatives.gumbels

    def recorded(seed, purpose, ids, visit, index):
        keys.append((purpose, visit, *index))
        return whole(seed, purpose, ids, visit, index)

    monkeypatch.setattr(negatives, "gumbels", recorded)
    NEGATIVES["kernel"].select(SCORES, IDS, Draw(5, 7, 2, True, 3, 2))
    expected = {(p, 7, step, number) for p in ("proposal", "negative") for step in range(3) for number in range(2)}
    assert set(keys) == expected
    assert len(keys) == len(expected)


def test_chains_are_counted_and_never_draw_what_has_no_weight() -> None:
    places, repeats = NEGATIVES["kernel"].select(SCORES, IDS, Draw(5, 0, 50, True, 3, 2))
    assert sum(repeats) == 50
    assert places == sorted(set(places))
    one = np.array([-np.inf, 0.0, -np.inf, -1000.0])
    for visit in range(30):
        assert NEGATIVES["kernel"].select(one, IDS, Draw(5, visit, 1, False, 3, 1))[0] in ([1], [3])
    with pytest.raises(ValueError, match="finite"):
        NEGATIVES["kernel"].select(np.full(4, -np.inf), IDS, Draw(5, 0, 1, False, 2, 2))


def test_random_is_uniform_and_equals_the_kernel_of_equal_weights() -> None:
    assert chi2(counts("random", 1), [0.25] * 4) < 16.27
    for visit in range(50):
        draw = Draw(1, visit, 2)
        assert NEGATIVES["random"].select(None, IDS, draw) == NEGATIVES["kernel"].select(np.full(4, -3.0), IDS, draw)


def test_max_and_min_take_the_extremes_and_break_ties_by_a_draw() -> None:
    assert counts("max", 1) == {3: N}
    assert counts("min", 1) == {0: N}
    assert counts("max", 2) == {2: N, 3: N}
    tied = counts("max", 1, scores=np.array([0.0, 1.0, 1.0, 0.0]))
    assert set(tied) == {1, 2}
    assert abs(tied[1] - N / 2) < 4 * math.sqrt(N / 4)


@given(
    st.permutations(range(4)),
    st.integers(0, 20),
    st.sampled_from(["random", "kernel", "max", "min", "fixed"]),
    st.sampled_from([(1, None), (3, 2)]),
)
def test_draws_do_not_depend_on_the_order_of_the_pool(
    order: list[int], visit: int, sampler: str, chain: tuple[int, int | None]
) -> None:
    draw = Draw(3, visit, 2, True, *chain)
    plain = {IDS[p] for p in NEGATIVES[sampler].select(SCORES, IDS, draw)[0]}
    shuffled = [IDS[i] for i in order]
    assert {shuffled[p] for p in NEGATIVES[sampler].select(SCORES[order], shuffled, draw)[0]} == plain


@pytest.mark.parametrize("sampler", ["random", "kernel", "max", "min", "all", "fixed"])
def test_one_candidate_makes_all_samplers_equal(sampler: str) -> None:
    assert NEGATIVES[sampler].select(np.zeros(1), IDS[:1], Draw(0, 0, 3)) == ([0], [1])


def test_more_draws_than_candidates_take_them_all() -> None:
    assert NEGATIVES["kernel"].select(SCORES, IDS, Draw(0, 0, 9)) == ([0, 1, 2, 3], [1] * 4)


def test_minus_infinity_is_never_drawn_and_nothing_finite_is_an_error() -> None:
    scores = np.array([-np.inf, 0.0, -np.inf, -1000.0])
    for visit in range(100):
        assert set(NEGATIVES["kernel"].select(scores, IDS, Draw(0, visit, 3))[0]) <= {1, 3}
        assert NEGATIVES["kernel"].select(scores, IDS, Draw(0, visit, 1, True))[0] == [1]
    for sampler in ("max", "min"):
        assert set(NEGATIVES[sampler].select(scores, IDS, Draw(0, 0, 3))[0]) == {1, 3}


@pytest.mark.parametrize("sampler", ["kernel", "max", "min"])
@pytest.mark.parametrize("chain", [(1, None, False), (1, None, True), (2, 2, True)])
@pytest.mark.parametrize("bad", [[-np.inf] * 4, [np.nan] * 4, [0.0, np.nan, 1.0, 2.0], [0.0, np.inf, 1.0, 2.0]])
def test_weights_that_are_no_numbers_are_an_error(sampler: str, chain: tuple[int, int | None, bool], bad: list[float]) -> None:
    steps, proposals, replacement = chain
    with pytest.raises(ValueError, match="finite weight"):
        NEGATIVES[sampler].select(np.array(bad), IDS, Draw(0, 0, 1, replacement, steps, proposals))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.integers(0, 9), st.integers(1, 4), st.randoms())
def test_noise_below_the_tolerance_moves_no_extreme(levels: list[int], visit: int, m: int, random) -> None:
    """Scores on a few levels, each off by less than half the tolerance: two equal ones are apart by less than all of it."""
    ids = [hex_id(i) for i in range(len(levels))]
    exact, draw = np.array(levels, dtype=np.float64), Draw(3, visit, m, tolerance=1e-3)
    noisy = exact + np.array([random.uniform(-4.9e-4, 4.9e-4) for _ in levels])
    for sampler in ("max", "min"):
        assert NEGATIVES[sampler].select(noisy, ids, draw) == NEGATIVES[sampler].select(exact, ids, draw)


def test_extremes_within_the_tolerance_are_the_uniform_draw() -> None:
    for visit, m in product(range(50), (1, 2, 3)):
        draw = Draw(3, visit, m, tolerance=1e-3)
        noise = np.random.default_rng(visit).uniform(-4.9e-4, 4.9e-4, 4)
        of = {
            NEGATIVES[s].select(noise, IDS, draw)[0] == NEGATIVES["random"].select(None, IDS, draw)[0] for s in ("max", "min")
        }
        assert of == {True}


def test_fixed_is_the_published_pair_and_never_changes() -> None:
    rows = [{"candidate_id": "c", "role": "chosen", "origin": "source"}]
    rows += [{"candidate_id": i, "role": "rejected", "origin": "source"} for i in IDS]
    pair = fixed_pair(rows, ["source"])
    for seed, visit in product((None, 0, 7), range(5)):
        for sampler in ("fixed", "noise"):
            assert NEGATIVES[sampler].select(None, IDS, Draw(seed, visit, 3)) == ([pair[1] - 1], [1])


@pytest.mark.parametrize("replacement", [False, True])
def test_the_published_pair_is_the_first_of_the_sets_own_draws(replacement: bool) -> None:
    """Over many pools: M = 1 is the pair, and each further negative joins those before."""
    for n in range(30):
        ids = [hex_id(n, i) for i in range(5)]
        before = NEGATIVES["fixed"].select(None, ids, Draw(1, 2))
        assert NEGATIVES["random"].select(None, ids, Draw(None, 0, 1, replacement)) == before
        for m in range(2, 6):
            drawn = NEGATIVES["random"].select(None, ids, Draw(None, 0, m, replacement))
            assert set(before[0]) <= set(drawn[0])
            before = drawn


@given(st.lists(st.tuples(st.floats(-900, 0), st.floats(-900, 0)), min_size=1, max_size=6), st.floats(0.01, 3))
def test_weights_are_the_oracles(rows: list[tuple[float, float]], beta: float) -> None:
    policy, reference = [p for p, _ in rows], [r for _, r in rows]
    for kind in ("ratio", "policy"):
        scores = WEIGHTS[kind](np.array(policy), np.array(reference), np.ones(len(policy)), beta)
        exact = oracle.kernel_weights(policy, reference, beta, kind)
        ours = np.exp(scores - scores.max())
        assert ours / ours.sum() == pytest.approx(exact, abs=1e-12)
        assert effective_size(scores) == pytest.approx(oracle.effective_size(exact), rel=1e-9)


def test_ratio_is_uniform_at_step_0_and_policy_prefers_what_is_likely() -> None:
    logps = np.array([-5.0, -50.0])
    assert effective_size(WEIGHTS["ratio"](logps, logps, np.ones(2), 1.0)) == pytest.approx(2)
    assert effective_size(WEIGHTS["policy"](logps, logps, np.ones(2), 1.0)) == pytest.approx(1)


def test_draws_with_replacement_are_independent() -> None:
    """Three independent draws agree with probability sum w^3 = 0.1."""
    same = sum(len(NEGATIVES["kernel"].select(SCORES, IDS, Draw(5, v, 3, True))[0]) == 1 for v in range(N))
    assert abs(same / N - 0.1) < 4 * math.sqrt(0.1 * 0.9 / N)
