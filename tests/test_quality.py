"""The quality report's figures, counted by hand, and the filters that use the same figures."""

import json
import re
from itertools import combinations
from pathlib import Path

import polars as pl
import pytest
from conftest import nectar, run_stages
from hypothesis import given
from hypothesis import strategies as st

from prefdata.errors import ConfigError, PrefdataError
from prefdata.output import charts, checks, quality_page
from prefdata.output.quality import Quality, couples
from prefdata.recipe.read import validate_recipe
from prefdata.recipe.units import Part
from prefdata.stages import report
from prefdata.tables import files, schema
from prefdata.tables.figures import FIGURES, per_prompt

P = ["0" * 16, "1" * 16]


def candidate(i: int, role: str, text: str, rank: int | None, **more):
    logps = [{"reference": r, "logp": v, "num_tokens": 2} for r, v in more.pop("logps", {}).items()]
    known = {"origin": "source", "producer": "m", "finish": "stop", "copies": 1, "score": None, "win_prob": None}
    return {"candidate_id": f"{i:016x}", "role": role, "response": text, "rank": rank, "logps": logps, **known, **more}


def sets(*rows) -> pl.DataFrame:
    return schema.frame(
        "sets",
        [
            {"prompt_id": p, "split": "train", "prompt": [{"role": "user", "content": "x"}], "source": "s", "candidates": c}
            for p, c in zip(P, rows, strict=False)
        ],
    )


def source(*rows) -> pl.DataFrame:
    """candidates: (prompt, i, text, producer, source_rank)."""
    listed = [
        {
            "prompt_id": P[p],
            "candidate_id": f"{i:016x}",
            "response": t,
            "origin": "source",
            "producer": who,
            "sample": 0,
            "finish": "stop",
            "source_rank": r,
        }
        for p, i, t, who, r in rows
    ]
    return schema.frame("candidates", listed)


SET = sets(
    [
        candidate(1, "chosen", "aaaa", 1, score=3.0, copies=2, logps={"a": -2.0, "b": -4.0}),
        candidate(2, "other", "AAAA", 1, score=3.0, logps={"a": -2.0, "b": -8.0}),
        candidate(3, "rejected", "bb", 2, score=1.0, logps={"a": -8.0, "b": -2.0}),
        candidate(4, "rejected", "cccccc", 3, score=2.0, logps={"a": -4.0, "b": -6.0}),
        candidate(5, "rejected", "aaba", None, origin="noise", logps={"a": -7.0, "b": -4.0}),
    ],
    [candidate(6, "chosen", "Yes", 1), candidate(7, "rejected", "yes!", 2)],
)
CANDIDATES = source(
    (0, 1, "aaaa", "x", 1.5),
    (0, 2, "AAAA", "y", 1.5),
    (0, 3, "bb", "x", 4.0),
    (0, 4, "cccccc", "y", 3.0),
    (1, 6, "Yes", "x", 1.0),
    (1, 7, "yes!", "y", 2.0),
)


def test_figures_of_a_prompt_by_hand() -> None:
    one, two = per_prompt(SET).to_dicts()
    assert (one["rejected"], one["tied"], one["copies"], one["chosen_chars"]) == (2.0, 1.0, 1.0, 4.0)
    assert one["length_ratio"] == 1.0, "4 over the mean of 2 and 6; noise is left out"
    assert one["score_gap"] == 1.0
    assert one["reference_margin"] == pytest.approx(-1.0 - (-4.0 - 2.0) / 2)
    assert (two["score_gap"], two["reference_margin"]) == (None, None)
    assert set(one) == {"prompt_id", *FIGURES}


@pytest.fixture
def facts():
    quality = Quality(["a", "b"], "judge")
    for place in (0, 1):  # in two parts: sums do not care
        mine = pl.col("prompt_id") == P[place]
        quality.add({"sets": SET.filter(mine), "candidates": CANDIDATES.filter(mine)})
    return quality.facts()


def test_agreement_counts_pairs_that_neither_ranking_ties(facts) -> None:
    found = {(a["one"], a["other"]): (a["agree"], a["pairs"], a["tied"]) for a in facts["agreement"]}
    # source: 1.5, 1.5, 4, 3 and judge: 1, 1, 2, 3: of six pairs one is tied by both, (3, 4) is unlike; plus the pair of P[1]
    assert found["source", "judge"] == (5 / 6, 6, 1)
    # lengths 4, 4, 2, 6 against source: alike (1,3), (2,3), (3,4); unlike (1,4), (2,4); P[1]: "yes!" is longer: unlike
    assert found["source", "length"] == (3 / 6, 6, 1)
    # reference a per token: -1, -1, -4, -2: P[1] has none
    assert found["source", "reference a"] == (1.0, 5, 1)
    # reference b per token: -2, -4, -1, -3: of the pairs that a does not tie only (1, 4) is alike
    assert found["reference a", "reference b"] == (1 / 5, 5, 1)


def test_wins_are_between_models_and_know_ties(facts) -> None:
    by = {(w["model"], w["against"]): w for w in facts["wins"]}
    mine = by.pop(("x", "y"))
    assert (mine["wins"], mine["ties"], mine["losses"]) == (2, 1, 2)
    assert mine["rate"] == 0.5
    assert by == {}, "each two models once"


def test_degenerate_sets_ranks_producers_and_noise(facts) -> None:
    assert facts["degenerate"] == {
        "same words as the chosen": 1,
        "one rejected answer": 1,
        "ties with the chosen": 1,
        "equal texts merged": 1,
        "chosen answer cut by the length limit": 0,
    }
    assert facts["source_ranks"] == {
        "prompts with ranked answers": 2,
        "a rank that is no whole number (an average of ties)": 1,
        "several answers tie at the top": 1,
        "two levels only": 1,
        "one level only: nothing is preferred": 0,
        "no tie at all": 1,
    }
    assert {p["producer"]: p["made"] for p in facts["producers"]} == {"m": 0, "x": 3, "y": 3}
    assert [(n["n"], n["mean_nats"], n["noise_likelier"]) for n in facts["noise"]] == [(1, 5.0, 0.0), (1, 0.0, 1.0)]


def test_an_empty_set_has_facts_too() -> None:
    quality = Quality(["a"], "source")
    quality.add({"sets": SET.clear(), "candidates": CANDIDATES})
    facts = quality.facts()
    assert facts["prompts"] == 0
    found = checks.findings(facts, [], "source", ["a"])
    assert {f["state"] for f in found} == {"too few"}
    assert "Too few rows to say anything." in quality_page.render("t", {**facts, "judges": [], "checks": found}, [], {})
    assert charts.charts(facts, quality.table(), []) == {}


ROWS = [
    nectar("short", [("a" * 4, 1), ("b" * 4, 2), ("c" * 4, 3)], split="train"),
    nectar("long", [("a" * 40, 1), ("b" * 4, 2), ("c" * 4, 3)], split="train"),
    nectar("none", [("a" * 1, 1), ("b" * 4, 2), ("c" * 4, 3)], split="train"),
]


def filtered(make_run, path: str, **filters):
    run = make_run(
        sources={"sources": [{"name": "s", "path": path}]},
        prune={"drop_ranks": []},
        noise={"copies": 0},
        sets={"filters": filters},
    )
    run_stages(run, "sources", "split", "prune", "rank:source", "noise", "sets")
    made, drops = (files.read_table(run.table(Part(t, "sets", "preference"), 0), t) for t in ("sets", "drops"))
    return run, sorted(len(c[0]["response"]) for c in made["candidates"].to_list()), sorted(drops["reason"])


def test_filters_leave_out_prompts_outside_a_limit_and_say_so(make_run, write_rows) -> None:
    path = write_rows(ROWS)
    assert filtered(make_run, path)[1:] == ([1, 4, 40], [])
    assert filtered(make_run, path, length_ratio={"max": 2})[1:] == ([1, 4], ["filtered:length_ratio"])
    both = filtered(make_run, path, length_ratio={"max": 2}, chosen_chars={"min": 4})
    assert both[1:] == ([4], ["filtered:chosen_chars", "filtered:length_ratio"])
    assert filtered(make_run, path, length_ratio={"min": 1.0, "max": 1.0})[1] == [4], "limits themselves are inside"
    assert filtered(make_run, path, score_gap={"min": 1})[1] == [1, 4, 40], "a figure that is not there limits nothing"


def test_filters_are_named_and_limited() -> None:
    sources = {"sources": [{"name": "s", "path": "x"}]}
    for filters, said in (({"lenght_ratio": {"max": 1}}, "did you mean 'length_ratio'"), ({"tied": {}}, "give min or max")):
        with pytest.raises(ConfigError, match=said):
            validate_recipe({"name": "t", "sources": sources, "sets": {"filters": filters}}, "f")


def test_the_report_writes_tables_charts_and_one_page_without_scripts(make_run, write_rows) -> None:
    hostile = "<script>alert(1)</script>\u202e & co"
    rows = [nectar(f"p{i}", [("aa", 1, hostile), ("b", 2), ("c", 2)], split="train") for i in range(3)]
    run = make_run(sources={"sources": [{"name": "s", "path": write_rows(rows)}]}, noise={"copies": 0}, card={"title": hostile})
    run_stages(run, "sources", "split", "prune", "rank:source", "noise", "sets", "report")
    written = [Path(p) for p in run.outputs("report")]
    assert all(p.exists() for p in written)
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in written if p.suffix == ".png")
    text = (run.root / "report" / "quality.html").read_text()
    assert "<script" not in text
    assert "\u202e" not in text
    assert "&lt;script&gt;" in text
    assert not re.search(r"(src|href)=.https?:", text)
    assert json.loads((run.root / "report" / "quality.json").read_text())["prompts"] == 3


def test_bad_input_of_all_stages_together_is_limited(make_run, write_rows) -> None:
    gathered = [
        {"stage": "sources", "unit": "all", "out": {"prompts": 10, "candidates": 89}, "drops": {"bad_text": 1}},
        {"stage": "noise", "unit": "all", "out": {}, "drops": {"noise_failed": 1}},
        {"stage": "sets", "unit": "all", "out": {}, "drops": {"need_2": 50}},
    ]
    report._require_rate(gathered, 0.02)
    with pytest.raises(PrefdataError, match=r"2 of 100 rows and answers are bad over all stages.*noise_failed"):
        report._require_rate(gathered, 0.019)


@given(st.lists(st.integers(0, 5), max_size=4))
def test_couples_are_all_pairs_of_rows_of_a_prompt(counts: list[int]) -> None:
    prompts = [f"p{i}" for i, n in enumerate(counts) for _ in range(n)]
    found = [
        (int(a), int(b)) for one, other in couples(pl.Series(prompts, dtype=pl.String)) for a, b in zip(one, other, strict=True)
    ]
    expected = [(a, b) for a, b in combinations(range(len(prompts)), 2) if prompts[a] == prompts[b]]
    assert sorted(found) == expected
