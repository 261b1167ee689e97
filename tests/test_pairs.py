"""Several pairs of one prompt as one candidate set, against an oracle that tries every chain of answers."""

import itertools
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import run_stages
from hypothesis import given, settings
from hypothesis import strategies as st

from prefdata.errors import DataError
from prefdata.recipe.results import Results
from prefdata.recipe.units import Part
from prefdata.sources import rows
from prefdata.sources.settings import SourceSettings, SourcesSettings
from prefdata.sources.shapes import SHAPES
from prefdata.stages import reading
from prefdata.tables import files

TABLES = ("prompts", "candidates", "drops")
Pair = tuple[str, str]
"""(chosen, rejected)."""
Ranks = dict[str, float | None]

few = settings(max_examples=60, deadline=None)
pairs_of_six = st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef")), min_size=1, max_size=12)
"""Half of such graphs have a circle, most have answers that nothing compares; a pair may be of one answer with itself."""


# ---- the oracle ----


def ways(pairs: Iterable[Pair]) -> set[Pair]:
    """(a, b) wherever a chain of pairs leads from a to b."""
    found = set(pairs)
    names = sorted({n for pair in found for n in pair})
    for through, a, b in itertools.product(names, repeat=3):
        if (a, through) in found and (through, b) in found:
            found.add((a, b))
    return found


def circles(pairs: Iterable[Pair]) -> set[frozenset[str]]:
    """The sets of two or more answers that are each better than the others."""
    lead = ways(p for p in pairs if p[0] != p[1])
    mutual = {frozenset({a, *(b for x, b in lead if x == a and (b, a) in lead)}) for a, _ in lead}
    return {c for c in mutual if len(c) > 1}


def believed(pairs: Iterable[Pair]) -> set[Pair]:
    """The pairs that lie in no circle."""
    contradicted = circles(pairs)
    return {(a, b) for a, b in pairs if a != b and not any({a, b} <= c for c in contradicted)}


def possible(pairs: Iterable[Pair]) -> list[Ranks]:
    """Every ranking that the rules allow: more than one where several answers are better than equally many others."""
    pairs = list(pairs)
    names, sure = {n for pair in pairs for n in pair}, believed(pairs)
    lead = ways(sure)
    if not sure:
        return [dict.fromkeys(names, 1.0)]
    below = {a: frozenset(b for x, b in lead if x == a) for a in names}
    unbeaten = names - {b for _, b in sure}
    most = max(len(below[a]) for a in unbeaten)
    made = []
    for reached in {below[a] for a in unbeaten if len(below[a]) == most}:
        best = {a for a in unbeaten if below[a] == reached}
        made.append({n: 1.0 if n in best else None for n in names} | longest_ways(best, sure, best | reached))
    return made


def longest_ways(best: set[str], sure: set[Pair], names: set[str]) -> dict[str, float]:
    """1 + the steps of the longest chain from one of the best, by trying every sequence of answers."""
    found: dict[str, float] = {}
    for length in range(2, len(names) + 1):
        for chain in itertools.permutations(sorted(names), length):
            if chain[0] in best and all(step in sure for step in itertools.pairwise(chain)):
                found[chain[-1]] = float(length)
    return found


# ---- what is tested ----


def joined(listed: list[dict[str, Any]], name: str = "trl_pairs") -> tuple[Ranks, list[dict[str, Any]], list[str]]:
    """(ranks by response, drops of candidates, contradictions) of rows of one prompt."""
    source = SourceSettings(name="s", path="x", format=name)
    whole = SourcesSettings(sources=[source])
    parsed = [reading.parse(row, source, f"f:{i}", whole) for i, row in enumerate(listed)]
    candidates, contradictions = SHAPES[name].join([p.candidates for p in parsed])
    made, drops = rows.finish(candidates)
    assert len({c["response"] for c in made}) == len(made), "equal answers are one"
    return {c["response"]: c["source_rank"] for c in made}, drops, contradictions


def as_rows(pairs: Iterable[Pair], prompt: str = "p") -> list[dict[str, Any]]:
    return [{"prompt": prompt, "chosen": a, "rejected": b} for a, b in pairs]


@pytest.fixture
def read(make_run, write_rows):
    """read(rows, format) -> the three tables."""

    def call(listed: list[dict[str, Any]], name: str = "trl_pairs") -> dict[str, pl.DataFrame]:
        source = {"name": "s", "path": write_rows(listed), "format": name}
        run = make_run(sources={"sources": [source], "max_reject_rate": 1.0})
        run_stages(run, "sources")
        return {t: files.read_table(Path(p), t) for t, p in zip(TABLES, run.outputs("sources"), strict=True)}

    return call


def ranked(made: dict[str, pl.DataFrame]) -> list[tuple[str, float | None]]:
    return sorted(made["candidates"].select("response", "source_rank").iter_rows(), key=str)


def reasons(made: dict[str, pl.DataFrame]) -> list[tuple[str, str]]:
    return sorted(made["drops"].select("scope", "reason").cast(pl.String).iter_rows())


# ---- by hand ----


@pytest.mark.parametrize(
    ("pairs", "ranks", "contradictions"),
    [
        ("ab ac ad", {"a": 1, "b": 2, "c": 2, "d": 2}, 0),
        ("ab bc cd", {"a": 1, "b": 2, "c": 3, "d": 4}, 0),
        ("ab bc ac", {"a": 1, "b": 2, "c": 3}, 0),
        ("ac bc", {"a": 1, "b": 1, "c": 2}, 0),
        ("ac bc cd be ae", {"a": 1, "b": 1, "c": 2, "d": 3, "e": 2}, 0),
        ("ab ac dc", {"a": 1, "b": 2, "c": 2, "d": None}, 0),
        ("ab bc de", {"a": 1, "b": 2, "c": 3, "d": None, "e": None}, 0),
        ("ab ba", {"a": 1, "b": 1}, 1),
        ("ab bc ca", {"a": 1, "b": 1, "c": 1}, 1),
        ("ab ba cd dc", {"a": 1, "b": 1, "c": 1, "d": 1}, 2),
        ("ab ba ac", {"a": 1, "b": None, "c": 2}, 1),
        ("ab bc cb bd cd", {"a": 1, "b": 2, "c": None, "d": 3}, 1),
        ("ab ab ab", {"a": 1, "b": 2}, 0),
        ("ab aa", {"a": 1, "b": 2}, 0),
    ],
)
def test_small_graphs_by_hand(pairs: str, ranks: Ranks, contradictions: int) -> None:
    found, drops, told = joined(as_rows(tuple(p) for p in pairs.split()))
    assert found == ranks
    assert len(told) == contradictions
    assert [d["reason"] for d in drops] == ["incomparable"] * list(ranks.values()).count(None)


def test_rows_of_a_prompt_are_one_set_however_the_prompt_is_written(read) -> None:
    hi = {"role": "user", "content": "hi"}
    told = [{"role": "assistant", "content": c} for c in "abc"]
    made = read(
        [
            {"prompt": "hi", "chosen": "a", "rejected": "b"},
            {"prompt": [hi], "chosen": [told[1]], "rejected": [told[2]]},
            {"chosen": [hi, told[0]], "rejected": [hi, told[2]]},
            {"prompt": "ho", "chosen": "a", "rejected": "b"},
        ]
    )
    assert made["prompts"].height == 2
    assert ranked(made) == [("a", 1.0), ("a", 1.0), ("b", 2.0), ("b", 2.0), ("c", 3.0)]
    assert reasons(made) == []


def test_rows_that_contradict_count_against_the_limit_before_anything_is_written(
    make_run, write_rows, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(pairs: str, **keys: Any) -> Results:
        source = {"name": "s", "path": write_rows(as_rows(tuple(p) for p in pairs.split())), "format": "trl_pairs"}
        made = make_run(sources={"sources": [source], **keys})
        run_stages(made, "sources")
        return made

    before = [Path(p).read_bytes() for p in run("ab cd").outputs("sources")]
    assert "contradict" not in capsys.readouterr().err
    with pytest.raises(DataError, match=r"1 of 9 rows and answers are bad \(11.11% > 1.00%\): {'contradictory': 1}"):
        run("ab ba cd")
    assert "warning: sources: contradictions between rows of one prompt: 1, the first of 'p'; " in capsys.readouterr().err
    made = run("ab cd", max_reject_rate=0.01)
    assert [Path(p).read_bytes() for p in made.outputs("sources")] == before
    run("ab ba cd dc", max_reject_rate=1 / 6)
    with pytest.raises(DataError, match="2 of 12 rows and answers are bad"):
        run("ab ba cd dc", max_reject_rate=0.16)


def test_the_contradictions_that_are_told_are_those_that_are_dropped(
    make_run, write_rows, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of prompts that another source owns, or that the mixture leaves out, there is none."""
    both = [row for i in range(40) for row in as_rows([("a", "b"), ("b", "a")], f"p{i}")]
    first = {"name": "f", "path": write_rows(both[:40], "f.jsonl"), "format": "trl_pairs", "weight": 0.5}
    other = {"name": "o", "path": write_rows(both, "o.jsonl"), "format": "trl_pairs", "weight": 0.5}
    once = {"name": "n", "path": write_rows(as_rows([("b", "c")], "p0"), "n.jsonl"), "format": "trl_pairs"}
    made = make_run(sources={"sources": [first, other, once], "max_reject_rate": 1.0}, num_shards=2)
    run_stages(made, "sources")
    drops = pl.concat([files.read_table(made.table(Part("drops", "sources"), s), "drops") for s in made.shards])
    count = drops.filter(pl.col("reason") == "contradictory").height
    assert 10 < count < 30
    assert f"contradictions between rows of one prompt: {count}, " in capsys.readouterr().err


def test_twenty_prompts_with_three_rejected_each_and_one_row_that_contradicts(read) -> None:
    listed = [row for i in range(20) for row in as_rows((("good", f"bad {k}") for k in range(3)), f"p{i}")]
    made = read([*listed, {"prompt": "p7", "chosen": "bad 1", "rejected": "good"}])
    assert made["prompts"].height == 20
    assert made["candidates"].height == 80
    assert reasons(made) == [("candidate", "incomparable"), ("row", "contradictory")]
    drops = made["drops"].sort("scope")
    assert drops["prompt_id"].n_unique() == 1, "both are of the prompt that contradicts itself"
    named = made["candidates"].filter(pl.col("candidate_id") == drops["candidate_id"].drop_nulls().item())
    assert named.select("response", "source_rank").rows() == [("bad 1", None)]
    others = made["candidates"].filter(pl.col("candidate_id") != named["candidate_id"].item())
    assert set(others.select("response", "source_rank").rows()) == {("good", 1.0)} | {(f"bad {k}", 2.0) for k in range(3)}


def test_an_answer_dropped_for_itself_is_not_dropped_again_as_incomparable(read) -> None:
    made = read([*as_rows(["ab", "ac"]), {"prompt": "p", "chosen": " ", "rejected": "b"}])
    assert ranked(made) == [(" ", None), ("a", 1.0), ("b", 2.0), ("c", 2.0)]
    assert reasons(made) == [("candidate", "empty_answer")]


def test_a_pair_of_equal_answers_says_nothing(read) -> None:
    made = read(as_rows(["aa", "aa"]))
    assert ranked(made) == [("a", 1.0)]
    assert reasons(made) == []


# ---- all graphs of three answers, through the stages ----


def all_of_three() -> dict[str, list[Pair]]:
    """Every graph over three answers that has an edge, by the prompt that stands for it."""
    edges = list(itertools.permutations("abc", 2))
    chosen = itertools.chain.from_iterable(itertools.combinations(edges, n) for n in range(1, 7))
    return {f"prompt {i}": list(graph) for i, graph in enumerate(chosen)}


def test_every_graph_of_three_answers_is_ranked_as_the_oracle_says_in_any_order(read) -> None:
    graphs = all_of_three()
    assert len(graphs) == 63
    listed = [row for prompt, pairs in graphs.items() for row in as_rows(pairs, prompt)]
    made = read(listed)
    asked = {i: m[0]["content"] for i, m in made["prompts"].select("prompt_id", "messages").iter_rows()}
    assert sorted(asked.values()) == sorted(graphs)
    for own, prompt in asked.items():
        mine = {t: made[t].filter(pl.col("prompt_id") == own) for t in TABLES}
        found = dict(ranked(mine))
        assert mine["candidates"].height == len(found), "equal answers are one"
        assert found in possible(graphs[prompt]), graphs[prompt]
        left_out = set(mine["candidates"].filter(pl.col("source_rank").is_null())["candidate_id"])
        assert set(mine["drops"].filter(pl.col("reason") == "incomparable")["candidate_id"]) == left_out
        expected = [("candidate", "incomparable")] * len(left_out) + [("row", "contradictory")] * len(circles(graphs[prompt]))
        assert reasons(mine) == expected
    for seed in range(3):
        random.Random(seed).shuffle(listed)
        again = read(listed)
        assert all(made[t].equals(again[t]) for t in TABLES)


def test_sets_hold_no_pair_that_the_rows_do_not_state(make_run, write_rows) -> None:
    """Of every graph of three answers, and of some with more: chosen and rejected are joined by a chain of pairs."""
    draw = random.Random(0)
    graphs = all_of_three() | {f"large {i}": [tuple(draw.sample("abcdefg", 2)) for _ in range(8)] for i in range(60)}
    source = {
        "name": "s",
        "path": write_rows([row for prompt, pairs in graphs.items() for row in as_rows(pairs, prompt)]),
        "format": "trl_pairs",
    }
    plain = {"prune": {"drop_ranks": []}, "noise": {"copies": 0}}
    run = make_run(sources={"sources": [source], "max_reject_rate": 1.0}, **plain)
    run_stages(run, "sources", "split", "prune", "rank:source", "noise", "sets:preference")
    sets = files.read_table(run.table(Part("sets", "sets", "preference"), 0), "sets")
    formed: dict[str, set[Pair]] = {}
    for prompt, candidates in sets.select("prompt", "candidates").iter_rows():
        first = next(c["response"] for c in candidates if c["role"] == "chosen")
        formed[prompt[0]["content"]] = {(first, c["response"]) for c in candidates if c["role"] == "rejected"}
    for prompt, pairs in graphs.items():
        if believed(pairs):
            assert formed[prompt]
            assert formed[prompt] <= ways(believed(pairs))
        else:
            assert prompt not in formed, "nothing is preferred"


# ---- graphs of up to six answers ----


@few
@given(pairs_of_six)
def test_ranks_and_drops_are_those_of_the_oracle(pairs: list[Pair]) -> None:
    found, drops, contradictions = joined(as_rows(pairs))
    assert found in possible(pairs)
    assert len(contradictions) == len(circles(pairs))
    assert [(d["scope"], d["reason"]) for d in drops] == [("candidate", "incomparable")] * list(found.values()).count(None)


@few
@given(pairs_of_six)
def test_every_best_answer_is_stated_to_be_better_than_all_kept_ones(pairs: list[Pair]) -> None:
    found, _, _ = joined(as_rows(pairs))
    stated = ways(believed(pairs))
    best = [a for a, rank in found.items() if rank == 1]
    assert best
    for answer, rank in found.items():
        if rank is not None and rank > 1:
            assert all((one, answer) in stated for one in best)
        elif rank == 1:
            assert not any((other, answer) in stated for other in found)


@few
@given(pairs_of_six, st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(pairs: list[Pair], draw: random.Random) -> None:
    mixed = [*pairs, *pairs[:2]]
    draw.shuffle(mixed)
    one, other = joined(as_rows(pairs)), joined(as_rows(mixed))
    assert one[0] == other[0]
    assert sorted(one[2]) == sorted(other[2])
    assert sorted(str(d["candidate_id"]) for d in one[1]) == sorted(str(d["candidate_id"]) for d in other[1])


@few
@given(st.lists(st.sampled_from("abcdef"), min_size=2, max_size=6, unique=True), st.data())
def test_pairs_of_a_total_order_give_its_ranks_back(order: list[str], data: st.DataObject) -> None:
    """Neighbours alone suffice; further pairs of the same order change nothing."""
    more = data.draw(st.lists(st.sampled_from(list(itertools.combinations(order, 2)))))
    found, drops, contradictions = joined(as_rows([*itertools.pairwise(order), *more]))
    assert found == {a: i + 1 for i, a in enumerate(order)}
    assert drops == contradictions == []


# ---- ultrafeedback_binarized ----


def binarized(chosen: str, rejected: str, *scores: float | None) -> dict[str, Any]:
    hi = {"role": "user", "content": "hi"}
    made: dict[str, Any] = {
        n: [hi, {"role": "assistant", "content": a}] for n, a in (("chosen", chosen), ("rejected", rejected))
    }
    return made | dict(zip(("score_chosen", "score_rejected"), scores, strict=False))


def test_binarized_rows_of_a_prompt_are_one_set_ordered_by_all_scores(read) -> None:
    listed = [binarized("a", "b", 9, 4), binarized("c", "d", 6, 6), binarized("a", "c", 9, 6)]
    made = read(listed, "ultrafeedback_binarized")
    assert made["prompts"].height == 1
    assert ranked(made) == [("a", 1.0), ("b", 3.0), ("c", 2.0), ("d", 2.0)]
    assert reasons(made) == []
    again = read(listed[::-1], "ultrafeedback_binarized")
    assert all(made[t].equals(again[t]) for t in TABLES)


def test_an_answer_with_two_scores_is_ordered_by_the_pairs(read) -> None:
    """a 5 > b 3 and b 8 > c 6: scores of different rows do not compare, each row's order does."""
    for listed in (
        [binarized("a", "b", 5, 3), binarized("b", "c", 8, 6)],
        [binarized("b", "c", 8, 6), binarized("a", "b", 5, 3)],
    ):
        made = read(listed, "ultrafeedback_binarized")
        assert dict(made["candidates"].select("response", "source_rank").iter_rows()) == {"a": 1.0, "b": 2.0, "c": 3.0}


def test_binarized_rows_without_scores_are_pairs(read) -> None:
    made = read([binarized("a", "b"), binarized("b", "c"), binarized("d", "c")], "ultrafeedback_binarized")
    assert ranked(made) == [("a", 1.0), ("b", 2.0), ("c", 3.0), ("d", None)]
    assert reasons(made) == [("candidate", "incomparable")]


def test_a_binarized_row_that_contradicts_its_scores_leaves_the_others(read) -> None:
    made = read([binarized("a", "b", 9, 4), binarized("b", "a", 4, 9)], "ultrafeedback_binarized")
    assert ranked(made) == [("a", 1.0), ("b", 2.0)]
    assert reasons(made) == [("row", "contradictory")]


def test_scored_rows_are_pairs_too_where_another_row_has_no_scores(read) -> None:
    made = read([binarized("a", "b", 9, 4), binarized("a", "c")], "ultrafeedback_binarized")
    assert ranked(made) == [("a", 1.0), ("b", 2.0), ("c", 2.0)]


@few
@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 3), min_size=2), st.data())
def test_scores_order_all_answers_compared_or_not(scores: dict[str, int], data: st.DataObject) -> None:
    ordered = sorted(scores, key=lambda a: -scores[a])
    pairs = data.draw(st.lists(st.sampled_from(list(itertools.combinations(ordered, 2))), min_size=2, max_size=8))
    listed = [binarized(a, b, scores[a], scores[b]) for a, b in pairs]
    found, drops, contradictions = joined(listed, "ultrafeedback_binarized")
    heights = {scores[a] for pair in pairs for a in pair}
    assert found == {a: 1.0 + sum(h > scores[a] for h in heights) for pair in pairs for a in pair}
    assert drops == contradictions == []
