"""The tables' invariants: what `require` refuses, and the order that joins rely on."""

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prefdata.draws import hex_id
from prefdata.errors import DataError
from prefdata.tables import schema
from prefdata.tables.schema import TABLES

A, B = "0" * 15 + "a", "0" * 15 + "b"
RANK = {"prompt_id": A, "candidate_id": A, "method": "m", "rank": 1}


def test_frame_fills_nullable_columns_and_sorts() -> None:
    made = schema.frame("ranks", [{**RANK, "prompt_id": B}, RANK])
    assert made["prompt_id"].to_list() == [A, B]
    assert made["score"].null_count() == 2
    assert schema.require(made, TABLES["ranks"]).equals(made)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop("rank"), "missing"),
        (lambda f: f.with_columns(x=1), "unknown"),
        (lambda f: f.with_columns(rank=pl.col("rank").cast(pl.Int64)), ":rank"),
        (lambda f: f.with_columns(rank=pl.lit(None, dtype=pl.Int32)), "null"),
        (lambda f: pl.concat([f, f]), "two rows"),
        (lambda f: f.with_columns(prompt_id=pl.lit("../../etc/passwd")), "16 hex"),
        (lambda f: pl.concat([f.with_columns(prompt_id=pl.lit(B)), f]), "not sorted"),
    ],
)
def test_require_names_what_is_wrong(change, message: str) -> None:
    with pytest.raises(DataError, match=message):
        schema.require(change(schema.frame("ranks", [RANK])), TABLES["ranks"], "file")


def test_require_refuses_a_word_outside_an_enum() -> None:
    splits = pl.DataFrame({"prompt_id": [A], "cluster_id": [A], "split": ["Train"]})
    with pytest.raises(DataError, match="Train.*none of"):
        schema.require(splits, TABLES["splits"], "file")


def test_alive_drops_prompts_and_candidates_but_not_rows() -> None:
    rows = schema.frame("ranks", [RANK, {**RANK, "candidate_id": B}, {**RANK, "prompt_id": B}])
    drop = {"stage": "s", "reason": "r", "prompt_id": A}
    assert schema.alive(rows, schema.frame("drops", [{**drop, "scope": "row"}])).height == 3
    assert schema.alive(rows, schema.frame("drops", [{**drop, "scope": "prompt"}]))["prompt_id"].to_list() == [B]
    one = schema.frame("drops", [{**drop, "scope": "candidate", "candidate_id": B}])
    assert schema.alive(rows, one)["candidate_id"].to_list() == [A, A]


@given(st.lists(st.text(max_size=5), min_size=1, max_size=40), st.integers(1, 300))
def test_shards_read_in_order_are_the_global_order(keys: list[str], num_shards: int) -> None:
    ids = sorted(hex_id(k) for k in keys)
    shards = [schema.shard_of(i, num_shards) for i in ids]
    assert shards == sorted(shards)
    assert all(0 <= s < num_shards for s in shards)


def test_shard_of_covers_both_ends() -> None:
    assert schema.shard_of("0" * 16, 7) == 0
    assert schema.shard_of("f" * 16, 7) == 6


def test_a_nullable_column_added_later_does_not_make_old_files_unreadable() -> None:
    old = schema.frame("ranks", [RANK]).drop("win_prob")
    assert schema.require(old, TABLES["ranks"])["win_prob"].to_list() == [None]


def test_sets_from_before_candidates_had_extras_are_read() -> None:
    """A nullable field inside a list is added as a nullable column is."""
    now = TABLES["sets"]
    candidate = {f.name: None for f in schema.SET_CANDIDATE.fields} | {
        "candidate_id": "0" * 16,
        "role": "chosen",
        "response": "a",
    }
    rows = pl.DataFrame(
        [{"prompt_id": "0" * 16, "split": "train", "prompt": [], "candidates": [candidate, {**candidate, "role": "other"}]}],
        schema={k: v for k, v in now.schema.items() if k in ("prompt_id", "split", "prompt", "candidates")},
    )
    before = rows.with_columns(
        pl.col("candidates").list.eval(pl.struct(pl.element().struct.field(f.name) for f in schema.SET_CANDIDATE.fields[:-1]))
    )
    assert schema.SET_CANDIDATE.fields[-1].name == "extras"
    assert before.schema["candidates"] != now.schema["candidates"]
    read = schema.require(schema.stored(before), now)
    assert read.schema == now.schema
    assert read.equals(schema.require(rows, now))


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("abc"), st.none() | st.just("x")), max_size=8))
@example([("b", "a", "x"), ("a", "b", "x")])
def test_order_is_looked_at_in_one_pass(rows: list[tuple[str, str, str | None]]) -> None:
    frame = pl.DataFrame(rows, schema=dict.fromkeys(("one", "two", "three"), pl.String), orient="row")
    keys = frame.select("one", "two")
    assert schema._ascends(keys) == (sorted(set(keys.rows())) == keys.rows())
    assert not schema._ascends(frame) or not frame["three"].null_count()


@given(st.integers(1, 300), st.text("0123456789abcdef", min_size=16, max_size=16))
@example(3, "5" * 16)
def test_a_shard_begins_at_its_first_id(num_shards: int, own: str) -> None:
    shard = schema.shard_of(own, num_shards)
    assert schema.first_of(shard, num_shards) <= own < schema.first_of(shard + 1, num_shards)
