"""Keyed random numbers: pinned values, ranges, independence of order, exact probabilities."""

import hashlib
import json
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefdata import draws
from prefdata.tables.ids import candidate_id


def test_values_are_pinned() -> None:
    """A change here changes every published set: it needs a new major version."""
    assert draws.hash64(0, "x", "id", 0) == 15412207144995465902
    assert draws.uniform(0, "x", "id") == pytest.approx(0.8354974234700349, abs=0)


def test_keys_are_unambiguous() -> None:
    assert draws.hash64("a", "bc") != draws.hash64("ab", "c")
    assert draws.hash64(1) != draws.hash64("1")
    assert draws.uniform(0, "p", "i", 1, (2,)) != draws.uniform(0, "p", "i", 2, (1,))


KEYS = st.lists(st.text() | st.integers() | st.floats() | st.booleans() | st.none(), max_size=14)


@given(KEYS)
def test_a_key_is_written_as_json(key: list) -> None:
    text = json.dumps(key, ensure_ascii=True, separators=(",", ":")).encode("ascii")
    assert draws.hex_id(*key) == hashlib.blake2b(text, digest_size=8).hexdigest()
    assert draws.hash64(*key) == int(draws.hex_id(*key), 16)
    assert draws.item_key(*key) == hashlib.blake2b(text, digest_size=16).hexdigest()


@given(st.text(), st.text(), st.none() | st.floats(), st.integers(0, 9))
def test_the_id_of_an_answer_is_that_of_its_key(response: str, producer: str, heat: float | None, sample: int) -> None:
    key = ("0" * 16, response, "generated", producer, -1.0 if heat is None else heat, sample)
    assert candidate_id(key[0], response, "generated", producer, heat, sample) == draws.hex_id(*key)


@given(st.integers(), st.lists(st.text(), max_size=5))
def test_uniforms_are_those_of_each_id(seed: int, ids: list[str]) -> None:
    assert draws.uniforms(seed, "p", ids, 1, (2, "x")).tolist() == [draws.uniform(seed, "p", i, 1, (2, "x")) for i in ids]


@given(st.integers(), st.text(), st.text(), st.integers(0, 10))
def test_uniform_is_inside_the_open_interval(seed: int, purpose: str, id: str, visit: int) -> None:
    assert 0 < draws.uniform(seed, purpose, id, visit) < 1


def test_gumbel_at_the_extremes_is_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (0, 2**64 - 1):
        monkeypatch.setattr(draws, "hash64", lambda *key, value=value: value)
        assert 0 < draws.uniform(0, "p", "i") < 1
        assert math.isfinite(draws.gumbel(0, "p", "i"))


@given(st.permutations(["a", "b", "c", "d"]))
def test_choice_does_not_depend_on_order(ids: list[str]) -> None:
    assert draws.choose(1, "p", ids) == draws.choose(1, "p", ["a", "b", "c", "d"])


def test_choice_follows_its_weights() -> None:
    """Chi-square over 4,000 draws: 3 degrees of freedom, 16.27 is the 0.999 quantile."""
    weights = [0.1, 0.2, 0.3, 0.4]
    n = 4000
    seen = Counter(draws.choose(0, "p", "abcd", [math.log(w) for w in weights], visit) for visit in range(n))
    chi2 = sum((seen[c] - n * w) ** 2 / (n * w) for c, w in zip("abcd", weights, strict=True))
    assert chi2 < 16.27


def test_choice_of_nothing_is_an_error() -> None:
    for ids, weights in (([], None), (["a"], [-math.inf]), (["a"], [math.nan]), (["a", "b"], [math.nan, 0.0])):
        with pytest.raises(ValueError, match="nothing to draw"):
            draws.choose(0, "p", ids, weights)


def test_minus_infinity_is_never_chosen() -> None:
    assert {draws.choose(0, "p", ["a", "b"], [-math.inf, -1e300], v) for v in range(50)} == {"b"}


@given(
    st.lists(st.text(max_size=20), max_size=5), st.integers(-5, 5), st.integers(0, 3), st.lists(st.integers(0, 9), max_size=2)
)
def test_many_gumbels_are_the_same_numbers_as_one_by_one(ids: list[str], seed: int, visit: int, index: list[int]) -> None:
    one_by_one = [draws.gumbel(seed, 'a "purpose"', i, visit, index) for i in ids]
    assert draws.gumbels(seed, 'a "purpose"', ids, visit, index).tolist() == one_by_one
