"""`prefdata stats`: figures of a small set counted by hand, and those of the quality report."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import nectar, run_stages
from literal_sets import candidate, put, row
from test_from_file import published
from test_show import run

from prefdata.output import read_back
from prefdata.output.looking import counts
from prefdata.output.looking.opened import Opened, open_set
from prefdata.recipe.results import Results
from prefdata.tables.figures import FIGURES

__all__ = ["published"]
ROWS = [
    row(
        "a",
        [
            candidate(1, "chosen", "aaaa", 1, {"p": -2.0, "q": -8.0}, producer="x"),
            candidate(2, "other", "bbbb", 1, {"p": -9.0, "q": -9.0}, producer="y"),
            candidate(3, "rejected", "cc", 2, {"p": -6.0, "q": -6.0}, producer="y", copies=3),
            candidate(4, "rejected", "ddd", 3, {"p": -4.0, "q": -4.0}, origin="generated", producer="x"),
            candidate(5, "rejected", "eeeeeeeee", None, {"p": -99.0, "q": -99.0}, origin="noise", producer="swap"),
        ],
    ),
    row(
        "b",
        [candidate(6, "chosen", "cc", 1, {"p": -3.0, "q": -1.0}), candidate(7, "rejected", "ffff", 2, {"p": -1.0, "q": -3.0})],
        split="test",
        source=None,
    ),
    row("c", [candidate(8, "chosen", "g", 1), candidate(9, "rejected", "h", 2)]),
]


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    monkeypatch.setattr(read_back, "BATCH_ROWS", 1)  # sums over parts
    return open_set(str(put(tmp_path / "set", ROWS)))


def test_what_is_there_is_counted(opened: Opened) -> None:
    found = counts.counted(opened)
    assert (found["prompts"], found["candidates"], found["drops"]) == (3, 9, [])
    assert found["split"] == [
        {"split": "train", "prompts": 2, "candidates": 7},
        {"split": "test", "prompts": 1, "candidates": 2},
    ]
    assert [(s["source"], s["prompts"]) for s in found["source"]] == [("s@local", 2), ("unknown", 1)]
    assert {o["origin"]: o["candidates"] for o in found["origin"]} == {"source": 7, "generated": 1, "noise": 1}
    assert {p["producer"]: (p["candidates"], p["chosen"]) for p in found["producer"]} == {
        "m": (4, 2),
        "x": (2, 1),
        "y": (2, 0),
        "swap": (1, 0),
    }


def test_lengths_ties_and_texts_that_are_there_twice(opened: Opened) -> None:
    found = counts.counted(opened)
    lengths = {x["role"]: x for x in found["lengths"]}
    assert (lengths["chosen"]["n"], lengths["chosen"]["mean"]) == (3, pytest.approx(7 / 3))
    assert lengths["rejected"]["p50"] == 3
    assert found["chosen_longest"] == {"prompts": 1, "share": pytest.approx(1 / 3)}, (
        "noise left out, an equal length is not longer"
    )
    assert found["prompts_with"]["ties with the chosen"] == 1
    assert found["prompts_with"]["equal texts merged"] == 1
    assert found["repeated_texts"] == 2


def test_margins_are_of_each_reference_and_leave_noise_and_ties_out(opened: Opened) -> None:
    found = {(m["reference"], m["in"]): m for m in counts.counted(opened)["margins"]}
    assert set(found) == {(r, i) for r in "pq" for i in ("nats", "nats/token")}
    # p: a 3, b -2; q: a -3, b 2; two tokens each
    assert (found["p", "nats"]["n"], found["p", "nats"]["mean"], found["p", "nats"]["above_0"]) == (2, 0.5, 0.5)
    assert found["q", "nats"]["mean"] == -0.5
    assert found["p", "nats/token"]["mean"] == 0.25


def test_a_results_folder_tells_the_figures_of_its_report(published: Path) -> None:
    results = published.parents[1]
    found = json.loads(run("stats", results, "--json").stdout)
    quality = json.loads((results / "report" / "quality.json").read_text())
    assert found["figures"] == quality["figures"]
    assert {f["figure"] for f in found["figures"]} == set(FIGURES)
    assert {**found, "drops": []} == json.loads(run("stats", published, "--json").stdout)


def test_a_results_folder_tells_its_drops(make_run: Callable[..., Results], write_rows: Callable[..., str]) -> None:
    rows = [nectar(f"S{a}b", [("a", 1), ("b", 2), ("c", 3)][: 3 - (a > "e")], split="train") for a in "abcdefgh"]
    made = make_run(sources={"sources": [{"name": "s", "path": write_rows(rows)}]}, prune={"drop_ranks": [2]}, num_shards=2)
    run_stages(made, "sources", "split", "prune", "rank:source", "noise", "sets", "report")
    report = json.loads((made.root / "report" / "report.json").read_text())
    dropped = {(e["stage"], e["unit"], reason): n for e in report["stages"] for reason, n in e["drops"].items()}
    found = json.loads(run("stats", made.root, "--json").stdout)["drops"]
    assert {(d["stage"], d["unit"], d["reason"]): d["rows"] for d in found} == dropped
    assert dropped["prune", "all", "pruned_rank"] == 8
    assert dropped["sets", "preference", "need_2"] == 3


def test_the_page_has_the_figures_and_a_set_without_rows_is_no_error(opened: Opened, tmp_path: Path) -> None:
    said = run("stats", opened.name).stdout
    for text in ("3 prompts, 9 candidates", "ties with the chosen", "nats/token", "the set's ranks"):
        assert text in said
    assert counts.render(counts.Counts().facts() | {"drops": []})
