"""The pure data stages on literal frames: split, prune, rank, champion, noise, sets."""

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import nectar, run_stages
from hypothesis import given
from hypothesis import strategies as st

from prefdata.draws import hex_id
from prefdata.errors import DataError
from prefdata.models.tokens import load_encoder
from prefdata.recipe.settings.data import SplitSettings
from prefdata.recipe.settings.judging import JudgeSettings
from prefdata.stages import noise, prune, rank, sets, split
from prefdata.tables import files, schema, views

P = "0" * 16
C = [hex_id("c", i) for i in range(6)]


def candidate(i: int, text: str | None = None, **keys: Any) -> dict[str, Any]:
    base = {"prompt_id": P, "candidate_id": C[i], "response": f"text {i}" if text is None else text, "origin": "source"}
    return {**base, "producer": f"m{i}", "sample": 0, "finish": "stop", **keys}


def ranked(i: int, place: int, **keys: Any) -> dict[str, Any]:
    return {"prompt_id": P, "candidate_id": C[i], "method": "source", "rank": place, **keys}


# ---- split ----


def test_split_by_share_follows_the_shares() -> None:
    shares = SplitSettings(train=0.6, validation=0.1, test=0.2, sft=0.1)
    seen = Counter(split.by_share(pl.Series([hex_id(i) for i in range(4000)]), shares, 0))
    for name, share in (("train", 0.6), ("validation", 0.1), ("test", 0.2), ("sft", 0.1)):
        assert abs(seen[name] / 4000 - share) < 4 * (share * (1 - share) / 4000) ** 0.5


def test_the_sources_split_wins(make_run, write_rows) -> None:
    path = write_rows([nectar("Sba", split="test"), nectar("Sab", split="sft")])
    run = make_run(sources={"sources": [{"name": "s", "path": path}]})
    run_stages(run, "sources", "split")
    rows = files.read_table(Path(run.outputs("split")[0]), "splits")
    assert sorted(rows["split"].to_list()) == ["sft", "test"]
    assert rows["cluster_id"].to_list() == rows["prompt_id"].to_list()


# ---- prune ----


@given(st.lists(st.sampled_from([1.0, 1.5, 2.0, 7.0]), min_size=1, max_size=6), st.permutations(range(6)))
def test_positions_are_the_order_of_ranks_and_ignore_the_order_of_rows(ranks: list[float], order: list[int]) -> None:
    rows = [candidate(i, source_rank=r) for i, r in enumerate(ranks)]
    made = prune.positions(schema.frame("candidates", rows), 0)
    assert made.sort("position")["source_rank"].to_list() == sorted(ranks)
    assert sorted(made["position"].to_list()) == list(range(1, len(ranks) + 1))
    shuffled = schema.frame("candidates", [rows[i] for i in order if i < len(rows)])
    assert prune.positions(shuffled, 0).sort("candidate_id").equals(made.sort("candidate_id"))


@pytest.mark.parametrize(("drop", "left"), [([2], 4), ([2, 3], 3), ([2, 3, 4, 5], 1), ([9], 5), ([], 5)])
def test_prune_drops_positions_with_a_reason(make_run, write_rows, drop: list[int], left: int) -> None:
    path = write_rows([nectar("Sba", [(f"a{i}", i + 1) for i in range(5)])])
    run = make_run(sources={"sources": [{"name": "s", "path": path}]}, prune={"drop_ranks": drop})
    run_stages(run, "sources", "split", "prune")
    drops = files.read_table(Path(run.outputs("prune")[0]), "drops")
    assert 5 - drops.height == left
    assert set(drops["reason"].to_list()) <= {"pruned_rank"}
    candidates = files.read_table(Path(run.outputs("sources")[1]), "candidates")
    kept = schema.alive(candidates, drops)["source_rank"].to_list()
    assert 1.0 in kept
    assert not {float(d) for d in drop} & set(kept)


def test_prune_may_drop_the_first_so_that_the_next_is_chosen(make_run, write_rows) -> None:
    path = write_rows([nectar("Sba", [(f"a{i}", i + 1) for i in range(4)])])
    run = make_run(sources={"sources": [{"name": "s", "path": path}]}, prune={"drop_ranks": [1, 3]}, noise={"copies": 0})
    run_stages(run, "sources", "split", "prune", "rank:source", "noise", "sets:preference")
    (row,) = files.read_table(Path(run.outputs("sets", "preference")[0]), "sets").to_dicts()
    assert [(c["response"], c["role"]) for c in row["candidates"]] == [("a1", "chosen"), ("a3", "rejected")]


def test_prune_leaves_prompts_of_other_splits(make_run, write_rows) -> None:
    rows = [{**nectar(f"S{a}", [("x", 1), ("y", 2)]), "split": split} for a, split in (("ba", "sft"), ("ca", "train"))]
    run = make_run(
        sources={"sources": [{"name": "s", "path": write_rows(rows)}]}, prune={"drop_ranks": [1, 2], "splits": ["train"]}
    )
    run_stages(run, "sources", "split", "prune")
    drops = files.read_table(Path(run.outputs("prune")[0]), "drops")
    train = files.read_table(Path(run.outputs("split")[0]), "splits").filter(pl.col("split") == "train")["prompt_id"]
    assert drops["prompt_id"].to_list() == [train[0]] * 2


# ---- rank ----


def test_source_ranks_become_dense() -> None:
    rows = [candidate(i, source_rank=r) for i, r in enumerate([2.5, 1.0, 2.5, 9.0])] + [candidate(4)]
    made = rank.by_source(schema.frame("candidates", rows))
    assert dict(made.select("candidate_id", "rank").rows()) == {C[0]: 2, C[1]: 1, C[2]: 2, C[3]: 3}


def test_the_chosen_is_a_draw_among_the_first_and_ignores_later_drops() -> None:
    rows = [ranked(i, 1 if i < 3 else 2) for i in range(5)]
    drawn = {views.chosen(schema.frame("ranks", rows), seed)["candidate_id"][0] for seed in range(60)}
    assert drawn == set(C[:3])


def verdict(a: int, b: int, order: str, outcome: str, round_: int = 1) -> dict[str, Any]:
    return {
        "prompt_id": P,
        "a": C[a],
        "b": C[b],
        "order": order,
        "judge": "j",
        "rubric": "r",
        "outcome": outcome,
        "round": round_,
    }


def test_by_verdicts_gives_the_winner_1_and_all_others_2() -> None:
    rows = schema.frame("candidates", [candidate(i) for i in range(2)])
    asked = schema.frame("verdicts", [verdict(*sorted((0, 1), key=lambda i: C[i]), o, "a") for o in ("ab", "ba")])
    made = rank.by_verdicts(rows, asked, JudgeSettings(), 0)
    assert made.sort("rank")["candidate_id"].to_list() == sorted(C[:2])


def test_an_answer_that_was_cut_never_wins_by_accident() -> None:
    """Alone with whole ones it is behind them; where nobody won, it is among the equals; judged only where that is asked."""
    rows = [candidate(0), candidate(1), {**candidate(2), "finish": "length"}]
    low, high = sorted((0, 1), key=lambda i: C[i])
    won = [verdict(low, high, o, "a") for o in ("ab", "ba")]
    tied = [verdict(low, high, o, "tie") for o in ("ab", "ba")]

    def ranks(asked: list[dict[str, object]], of: list[dict[str, object]] = rows, **keys: object) -> dict[str, int]:
        made = rank.by_verdicts(schema.frame("candidates", of), schema.frame("verdicts", asked), JudgeSettings(**keys), 0)
        return dict(made.select("candidate_id", "rank").iter_rows())

    assert ranks(won) == {C[low]: 1, C[high]: 2, C[2]: 2}
    assert ranks(won, procedure="round_robin") == {C[low]: 1, C[high]: 2, C[2]: 3}
    assert ranks(tied) == {C[0]: 1, C[1]: 1, C[2]: 1}
    assert ranks([], [candidate(0), {**candidate(2), "finish": "length"}]) == {C[0]: 1, C[2]: 2}
    assert ranks([], [{**candidate(i), "finish": "length"} for i in (1, 2)]) == {C[1]: 1, C[2]: 1}
    assert ranks(won, truncated="judged").keys() == {C[0], C[1], C[2]}


def test_by_scores_ranks_densely_and_leaves_the_unscored_out() -> None:
    rows = [candidate(0), candidate(1), candidate(2), candidate(3), {**candidate(4), "finish": "length"}]
    scores = [0.5, 2.0, 0.5, None]
    alone = [{"prompt_id": P, "a": C[i], "judge": "j", "rubric": "r", "round": 1, "score": s} for i, s in enumerate(scores)]
    made = rank.by_scores(schema.frame("candidates", rows), schema.frame("verdicts", alone), JudgeSettings(), 0)
    assert dict(made.select("candidate_id", "rank").iter_rows()) == {C[0]: 2, C[1]: 1, C[2]: 2, C[4]: 3}
    assert made.filter(pl.col("rank") == 1)["score"].to_list() == [2.0]


# ---- noise ----


@pytest.fixture
def encoder(toy_tokenizers: Path):
    return load_encoder(str(toy_tokenizers / "large"), template="plain", end="none")


@given(st.text("abc12é ", min_size=0, max_size=14), st.integers(0, 5))
def test_noise_differs_by_one_swap_and_re_encodes_to_as_many_tokens(toy_tokenizers: Path, text: str, seed: int) -> None:
    encoder = _plain(toy_tokenizers)
    made, failed = noise.swap(schema.frame("candidates", [candidate(0, text)]), encoder, 2, 8, seed)
    assert len(made) + len(failed) == 2
    for row in made:
        assert row["response"] != text
        old, new = (encoder.contents([t])[0] for t in (text, row["response"]))
        assert len(old) == len(new) == row["num_tokens"]
        assert "�" not in row["response"]
        assert (row["origin"], row["parent_id"], row["finish"]) == ("noise", C[0], "stop")


_LOADED: dict[Path, Any] = {}


def _plain(folder: Path):
    if folder not in _LOADED:
        _LOADED[folder] = load_encoder(str(folder / "large"), template="plain", end="none")
    return _LOADED[folder]


def test_noise_swaps_two_tokens_that_differ(encoder) -> None:
    parents = schema.frame("candidates", [candidate(0, "xyxyx")])
    made, _ = noise.swap(parents, encoder, 20, 8, 0)
    assert made
    for row in made:
        changed = [i for i, (a, b) in enumerate(zip("xyxyx", row["response"], strict=True)) if a != b]
        assert len(changed) == 2


@pytest.mark.parametrize("text", ["a", "aa", "xxxx", ""])
def test_fewer_than_two_distinct_tokens_fail_with_a_reason(encoder, text: str) -> None:
    made, failed = noise.swap(schema.frame("candidates", [candidate(0, text)]), encoder, 1, 5, 0)
    assert (made, len(failed)) == ([], 1)


# ---- sets ----


class _Job:
    """What sets.make reads of a job."""

    def __init__(self, run: Any, unit: str = "preference") -> None:
        self.settings, self.unit = run.settings, unit


def make_set(make_run, candidates, ranks, drops=(), logps=None, unit: str = "preference", references=(), split=None):
    run = make_run(
        sources={"sources": [{"name": "s", "path": "x"}]},
        score={"references": [{"name": r, "model": "m"} for r in references]},
    )
    frames = {
        "prompts": schema.frame(
            "prompts",
            [
                {
                    "prompt_id": P,
                    "messages": [{"role": "user", "content": "x"}],
                    "source": "s",
                    "source_row": "1",
                    "license": "mit",
                }
            ],
        ),
        "splits": schema.frame(
            "splits", [{"prompt_id": P, "cluster_id": P, "split": split or ("sft" if unit == "sft" else "train")}]
        ),
        "candidates": schema.frame("candidates", candidates),
        "ranks": schema.frame("ranks", ranks),
        "drops": schema.frame("drops", list(drops)),
        "logps": schema.frame("logps", logps or []),
    }
    made = sets.make(frames, _Job(run, unit))
    checked = schema.require(schema.ordered(made["sets"], schema.TABLES["sets"]), schema.TABLES["sets"])
    return checked.to_dicts(), schema.ordered(made["drops"], schema.TABLES["drops"])["reason"].to_list()


def drop(i: int) -> dict[str, Any]:
    return {"scope": "candidate", "prompt_id": P, "candidate_id": C[i], "stage": "s", "reason": "r"}


def test_order_roles_and_merging(make_run) -> None:
    rows = [
        candidate(0, "worst"),
        candidate(1, "best"),
        candidate(2, "middle"),
        candidate(3, "best"),
        candidate(4, "noisy", origin="noise"),
        candidate(5, "caf\u00e9"),
    ]
    twin = {**candidate(0, "cafe\u0301"), "candidate_id": hex_id("c", 9)}
    ranks = [
        ranked(0, 3),
        ranked(1, 1),
        ranked(2, 2),
        ranked(3, 2),
        ranked(5, 2),
        {**ranked(0, 3), "candidate_id": twin["candidate_id"]},
    ]
    (row,), reasons = make_set(make_run, [*rows, twin], ranks)
    assert reasons == []
    shown = [(c["response"], c["role"], c["rank"], c["copies"]) for c in row["candidates"]]
    rest = sorted([("middle", "rejected", 2, 1, C[2]), ("caf\u00e9", "rejected", 2, 2, C[5])], key=lambda c: c[4])
    assert shown == [
        ("best", "chosen", 1, 2),
        *[c[:4] for c in rest],
        ("worst", "rejected", 3, 1),
        ("noisy", "rejected", None, 1),
    ]


def test_ties_with_the_chosen_are_other_and_the_chosen_keeps_its_id(make_run) -> None:
    rows = [candidate(i, t) for i, t in enumerate(["a", "b", "a", "c"])]
    ranks = [ranked(0, 1), ranked(1, 1), ranked(2, 1), ranked(3, 2)]
    (row,), _ = make_set(make_run, rows, ranks)
    drawn = views.chosen(schema.frame("ranks", ranks), 0)["candidate_id"][0]
    assert row["candidates"][0]["candidate_id"] == drawn
    assert [c["role"] for c in row["candidates"]] == ["chosen", "other", "rejected"]


@pytest.mark.parametrize(
    ("texts", "places", "dropped", "reason"),
    [
        (["a"], [1], [], "need_2"),
        (["a", "b"], [1, 2], [1], "need_2"),
        (["a", "a"], [1, 2], [], "identical"),
        (["a", "b"], [1, 1], [], "no_preference"),
        (["a", "b", "c"], [1, 2, 2], [0], "chosen_dropped"),
        (["a", "b"], [None, None], [], "unranked"),
    ],
)
def test_prompts_without_a_pair_are_dropped_with_a_reason(make_run, texts, places, dropped, reason: str) -> None:
    rows = [candidate(i, t) for i, t in enumerate(texts)] + [candidate(5, "noise", origin="noise")]
    ranks = [ranked(i, p) for i, p in enumerate(places) if p]
    made, reasons = make_set(make_run, rows, ranks, [drop(i) for i in dropped])
    assert (made, reasons) == ([], [reason])


def test_sft_needs_one_candidate_and_no_log_probs(make_run) -> None:
    (row,), reasons = make_set(
        make_run, [candidate(0), candidate(1)], [ranked(0, 1), ranked(1, 2)], unit="sft", references=["a"]
    )
    assert reasons == []
    assert [(c["candidate_id"], c["role"], c["logps"]) for c in row["candidates"]] == [(C[0], "chosen", [])]


def test_prompts_of_another_split_are_in_neither_set_nor_drops(make_run) -> None:
    """An sft prompt with a ranked pair and no log-probs is no business of the preference set."""
    rows, ranks = [candidate(0), candidate(1)], [ranked(0, 1), ranked(1, 2)]
    assert make_set(make_run, rows, ranks, references=["a"], split="sft") == ([], [])
    assert make_set(make_run, rows, ranks, unit="sft", split="train") == ([], [])


def test_log_probs_come_in_the_settings_order_and_must_be_all_there(make_run) -> None:
    rows, ranks = [candidate(0), candidate(1)], [ranked(0, 1), ranked(1, 2)]
    logps = [
        {"prompt_id": P, "candidate_id": C[i], "reference": r, "logp": -float(i + 1), "num_tokens": 3}
        for i in (0, 1)
        for r in ("a", "z")
    ]
    (row,), _ = make_set(make_run, rows, ranks, logps=logps, references=["z", "a"])
    assert [x["reference"] for x in row["candidates"][0]["logps"]] == ["z", "a"]
    assert [c["logps"][0]["logp"] for c in row["candidates"]] == [-1, -2]
    with pytest.raises(DataError, match=r"log-probs under \['z'\], but the settings name the references \['z', 'a'\]"):
        make_set(
            make_run,
            rows,
            ranks,
            logps=[x for x in logps if x["reference"] == "z" or x["candidate_id"] == C[0]],
            references=["z", "a"],
        )


def test_fixed_pair_draws_from_the_pool_only() -> None:
    rows = [
        {"candidate_id": C[0], "role": "chosen", "origin": "source"},
        {"candidate_id": C[1], "role": "other", "origin": "source"},
    ]
    rows += [{"candidate_id": C[2], "role": "rejected", "origin": "noise"}]
    assert views.fixed_pair(rows, ["source", "generated"]) is None
    assert views.fixed_pair(rows, ["noise"]) == (0, 2)
    rows += [{"role": "rejected", "origin": "generated"}] * 3
    of = lambda n: [r | {"candidate_id": hex_id(n, i)} for i, r in enumerate(rows)]  # noqa: E731
    assert {views.fixed_pair(of(n), ["source", "generated"])[1] for n in range(40)} == {3, 4, 5}


def test_equal_ranks_are_never_a_pair(make_run) -> None:
    (row,), _ = make_set(make_run, [candidate(i) for i in range(3)], [ranked(0, 1), ranked(1, 1), ranked(2, 2)])
    rejected = [c for c in row["candidates"] if c["role"] == "rejected"]
    assert [c["candidate_id"] for c in rejected] == [C[2]]
    assert pl.Series([c["rank"] for c in rejected]).min() > 1


@pytest.mark.parametrize("outcomes", [("tie", "tie"), ("a", "b"), ("missing", "missing")])
def test_no_winner_is_no_preference_never_a_random_one(outcomes: tuple[str, str]) -> None:
    rows = schema.frame("candidates", [candidate(i) for i in range(2)])
    place = sorted((0, 1), key=lambda i: C[i])
    asked = schema.frame("verdicts", [verdict(*place, o, said) for o, said in zip(("ab", "ba"), outcomes, strict=True)])
    assert rank.by_verdicts(rows, asked, JudgeSettings(), 0)["rank"].to_list() == [1, 1]


def test_a_lone_candidate_needs_no_verdict() -> None:
    lone = schema.frame("candidates", [candidate(0)])
    assert rank.by_verdicts(lone, schema.TABLES["verdicts"].empty(), JudgeSettings(), 0)["rank"].to_list() == [1]


def test_scores_rank_where_the_source_has_no_ranks() -> None:
    rows = schema.frame("candidates", [candidate(i, source_score=s) for i, s in enumerate([0.5, 9.0, 0.5])])
    assert dict(rank.by_source(rows).select("candidate_id", "rank").rows()) == {C[0]: 2, C[1]: 1, C[2]: 2}
