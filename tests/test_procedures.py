"""Champion, knock-out and round-robin on hand-made outcomes: bounds, the best found, ties, missing verdicts, Bradley-Terry."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefdata.judging.procedures import PROCEDURES
from prefdata.judging.procedures.round_robin import PRIOR, strength, wins
from prefdata.judging.procedures.verdicts import Outcome, Pair, pair_of, settle, winner

P = "0" * 16
C = [f"{i:016x}" for i in (9, 3, 14, 5, 1, 12, 7, 11)]
PAIRWISE = list(PROCEDURES)


def by_power(pair: Pair, power: dict[str, int]) -> Outcome:
    return "a" if power[pair[0]] > power[pair[1]] else "b" if power[pair[0]] < power[pair[1]] else "tie"


def played(name: str, candidates: list[str], outcome: object, seed: int = 0) -> tuple[dict[Pair, Outcome], int]:
    """Everything that is asked, and the number of rounds."""
    known: dict[Pair, Outcome] = {}
    rounds = 0
    while asked := PROCEDURES[name].wanted(P, candidates, known, seed):
        rounds += 1
        assert len(set(asked)) == len(asked)
        assert not known.keys() & set(asked), "never twice"
        known |= {pair: outcome(pair) for pair in asked}
    return known, rounds


@pytest.mark.parametrize("name", PAIRWISE)
@given(strengths=st.permutations(range(7)), count=st.integers(1, 7), seed=st.integers(0, 30))
def test_the_best_is_found_within_the_bound(name: str, strengths: list[int], count: int, seed: int) -> None:
    power = dict(zip(C, strengths, strict=False))
    candidates = C[:count]
    known, rounds = played(name, candidates, lambda p: by_power(p, power), seed)
    assert all(a < b for a, b in known)
    assert len(known) == PROCEDURES[name].most(count)
    expected = {"champion": count - 1, "knockout": math.ceil(math.log2(count)), "round_robin": int(count > 1)}
    assert rounds == expected[name]
    ranks = PROCEDURES[name].ranks(P, candidates, known, seed)
    assert [r.candidate_id for r in ranks if r.rank == 1] == [max(candidates, key=power.__getitem__)]
    if name == "round_robin" and count > 1:
        assert [r.rank for r in sorted(ranks, key=lambda r: -power[r.candidate_id])] == list(range(1, count + 1))
    else:
        assert {r.rank for r in ranks} <= {1, 2}


@pytest.mark.parametrize("name", PAIRWISE)
@pytest.mark.parametrize("outcome", ["tie", "inconsistent", "missing"])
def test_without_a_winner_there_is_no_preference(name: str, outcome: Outcome) -> None:
    known, _ = played(name, C[:5], lambda p: outcome)
    assert {r.rank for r in PROCEDURES[name].ranks(P, C[:5], known, 0)} == {1}


@pytest.mark.parametrize("name", PAIRWISE)
def test_a_lone_candidate_needs_no_judge(name: str) -> None:
    assert PROCEDURES[name].wanted(P, C[:1], {}, 0) == []
    assert [r.rank for r in PROCEDURES[name].ranks(P, C[:1], {}, 0)] == [1]


@pytest.mark.parametrize("name", PAIRWISE)
def test_a_cyclic_judge_ends_within_the_bound(name: str) -> None:
    """Rock, paper, scissors: each beats the one before it."""
    place = {c: i for i, c in enumerate(C[:3])}
    known, _ = played(name, C[:3], lambda p: "a" if (place[p[0]] - place[p[1]]) % 3 == 1 else "b")
    ranks = PROCEDURES[name].ranks(P, C[:3], known, 0)
    assert len(known) == PROCEDURES[name].most(3)
    if name == "round_robin":
        assert {(r.rank, round(r.win_prob, 9)) for r in ranks} == {(1, 0.5)}


@given(st.permutations(C[:6]), st.integers(0, 9))
def test_neither_the_order_of_candidates_nor_of_outcomes_matters(order: list[str], seed: int) -> None:
    power = {c: i % 4 for i, c in enumerate(C)}
    for name in PAIRWISE:
        one, _ = played(name, C[:6], lambda p: by_power(p, power), seed)
        other, _ = played(name, order, lambda p: by_power(p, power), seed)
        assert one == other
        turned = dict(reversed(list(one.items())))
        ranks = [sorted(map(str, PROCEDURES[name].ranks(P, c, k, seed))) for c, k in ((C[:6], one), (order, turned))]
        assert ranks[0] == ranks[1]


def test_both_orders_settle_a_pair() -> None:
    assert settle({"ab": "a", "ba": "a"}) == "a"
    assert settle({"ab": "b", "ba": "b"}) == "b"
    assert settle({"ab": "tie", "ba": "tie"}) == "tie"
    assert settle({"ab": "a", "ba": "b"}) == settle({"ab": "tie", "ba": "a"}) == "inconsistent"
    assert settle({"ab": "missing", "ba": "a"}) == settle({}) == "missing"
    assert settle({"ba": "b"}) == "b", "one order alone where the other was not asked"
    known: dict[Pair, Outcome] = {("x", "y"): "a", ("x", "z"): "b", ("y", "z"): "inconsistent"}
    assert [winner(p, known) for p in (("x", "y"), ("x", "z"), ("y", "z"), ("a", "b"))] == ["x", "z", None, None]


def test_wins_count_ties_half_and_missing_not_at_all() -> None:
    ids = sorted(C[:3])
    known: dict[Pair, Outcome] = {
        (ids[0], ids[1]): "a",
        (ids[0], ids[2]): "inconsistent",
        (ids[1], ids[2]): "missing",
        pair_of(ids[0], C[5]): "a",
    }
    assert wins(ids, known).tolist() == [[0, 1, 0.5], [0, 0, 0], [0.5, 0, 0]]


@given(st.integers(2, 6), st.randoms(use_true_random=False))
def test_bradley_terry_is_the_maximum_of_its_likelihood(count: int, rng: object) -> None:
    """Against the gradient of the penalised log-likelihood, written down from its definition: it vanishes there."""
    won = np.zeros((count, count))
    for i, j in combinations(range(count), 2):
        share = rng.choice([0.0, 0.5, 1.0])
        won[i, j], won[j, i] = share, 1 - share
    found = strength(won)
    assert found.mean() == pytest.approx(0, abs=1e-12)
    raw = found - _shift(found, won)
    gradient = [
        sum(won[i, j] - (won[i, j] + won[j, i]) * _sigmoid(raw[i] - raw[j]) for j in range(count) if j != i)
        + PRIOR * (1 - 2 * _sigmoid(raw[i]))
        for i in range(count)
    ]
    assert np.abs(gradient).max() < 1e-6


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _shift(found: np.ndarray, won: np.ndarray) -> float:
    """`strength` centres its result; the prior's average opponent fixes the place: where the priors' pulls cancel."""
    low, high = -50.0, 50.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(1 - 2 * _sigmoid(v - middle) for v in found) < 0 else (low, middle)
    return low
