"""Tables and the report of a paper run, from invented results."""

import re
import statistics
from pathlib import Path

import paper_frames
import polars as pl
import pytest

from paper import report
from paper.claims import Claim
from paper.published import WORLD
from paper.tables import measured, tables

SMALL = {
    "main": ["SFT on the chosen", "DPO", "MC-PO"],
    "negatives": [f"{n} M = {m}" for n in ("RNCE", "MC-PO") for m in (1, 3)],
    "kernel": ["ratio", "policy"],
    "augmented": ["DPO", "augmented DPO"],
    "references": [f"{m}, order policy-larger, scarce" for m in ("DPO", "MRPO")],
}
FRAMES = paper_frames.frames(world_seeds=(1, 2), prompts=12, rows=SMALL)


def written(folder: Path, found: paper_frames.Frames, **others: str) -> tuple[str, str]:
    """report.html and report.md."""
    report.write(folder, others.get("size", "full"), *found, "a machine", "2026-01-02", ["Wall time 5 min."])
    return (folder / "report.html").read_text(), (folder / "report.md").read_text()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return written(tmp_path_factory.mktemp("paper"), FRAMES)


def test_a_table_is_means_and_spreads_of_the_runs() -> None:
    cells, outcomes, runs, _ = FRAMES
    table = next(t for t in tables(cells, outcomes, runs) if (t.name, t.world) == ("main", "exact"))
    row = dict(zip(table.head, next(r for r in table.rows if r[0] == "DPO"), strict=True))
    own = cells.filter(pl.col("table") == "main", pl.col("world") == "exact", pl.col("row") == "DPO")
    means = []
    for recipe, run in own.select("recipe", "run").iter_rows():
        values = outcomes.filter(pl.col("recipe") == recipe, pl.col("run") == run)["reward"].to_list()
        means.append(sum(values) / len(values))
    assert row["sampled reward"] == f"{statistics.mean(means):.3f} ± {statistics.stdev(means):.3f}"
    assert (row["rate"], row["runs"], row["redraw"], row["published"]) == ("0.0003", "2 in 2", "never", "33.74 / 60.25")


def test_published_numbers_stand_by_the_world_of_their_set_up_alone() -> None:
    for table in tables(*FRAMES[:3]):
        assert ("published" in table.head) == (table.world == WORLD and table.name in ("main", "negatives"))


def test_each_table_has_its_own_columns() -> None:
    heads = {t.name: t.head for t in tables(*FRAMES[:3])}
    assert {"ESS", "shortest"} <= set(heads["kernel"])
    assert {"tokens"} <= set(heads["augmented"])
    assert "rate" in heads["main"]
    assert "rate" not in heads["kernel"]
    assert "ESS" not in heads["main"]


def test_columns_of_which_nothing_is_known_are_left_out() -> None:
    cells, outcomes, runs, _ = FRAMES
    made = tables(cells, outcomes.with_columns(kl=pl.lit(None, pl.Float64)), runs.with_columns(redraw=pl.lit(None, pl.String)))
    assert not [t for t in made if {"KL", "redraw"} & set(t.head)]


def test_a_row_without_outcomes_is_shown_as_unknown() -> None:
    cells, outcomes, runs, _ = FRAMES
    found = measured(cells, outcomes.filter(~pl.col("run").str.starts_with("kernel/0")), runs)
    assert found.height == cells.height
    assert found.filter(pl.col("row") == "ratio")["greedy"].null_count() == 4


def test_the_page_loads_nothing(both: tuple[str, str]) -> None:
    html = both[0]
    assert not re.search(r"<script|<link|<img|@import|\bsrc=|javascript:", html)
    assert set(re.findall(r"https?://[\w./]+", html)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r'(xlink:)?href="(?!#)', html)


def test_the_page_has_each_table_chart_and_verdict(both: tuple[str, str]) -> None:
    html = both[0]
    headings = re.findall(r"<h2>(.*?)</h2>", html)
    assert [h.partition(" (")[0] for h in headings] == [
        "Verdicts",
        "Objectives",
        "Negatives of each prompt",
        "Readings of the kernel",
        "DPO with every rejected answer, and what it costs",
        "Several references",
    ]
    # a chart of rows for each table; reward by KL, moves and lengths; accuracy and margin over steps in each world; effects of claims
    assert html.count("<svg") == 5 + 3 + 2 + 4
    assert f'style="background:{report.TINTS["holds"]}"' in html


def test_the_markdown_has_whole_tables(both: tuple[str, str]) -> None:
    blocks = re.findall(r"(?:^\|.*\n)+", both[1], re.M)
    assert len(blocks) == 2 + 10
    for block in blocks:
        assert len({line.count("|") - line.count("\\|") for line in block.splitlines()}) == 1


def test_what_a_size_does_not_run_is_named(both: tuple[str, str]) -> None:
    assert re.search(r"^Not run at all, with the number of claims: .*MC-PO Table 2 \(2\)", both[1], re.M)
    assert re.search(r"^Not run, MC-PO Table 1: .*MC-PO over KTO", both[1], re.M), "of a source that was begun each by name"
    assert "MC-PO over DPO | MC-PO Table 1 | +2.10 / +3.52 | greedy |" in both[1]
    runs = FRAMES.cells.select("recipe", "run").n_unique()
    counted = f"{runs} runs in {runs} cells; world seeds 1, 2; training seeds 1; models of 0.3, 25.1 million parameters."
    assert f"{counted} a machine, 2026-01-02." in both[1]
    assert "Wall time 5 min." in both[1]


def test_a_line_of_a_verdict_says_word_effect_interval_and_pairs(both: tuple[str, str]) -> None:
    line = next(line for line in both[1].splitlines() if line.startswith("| MC-PO over DPO |"))
    cell = line.split("|")[5].strip()
    assert re.fullmatch(r"(holds|does not hold|undecided): [+-]\d\.\d{3} \([+-]\d\.\d{3} to [+-]\d\.\d{3}\), 2 pairs", cell)


def test_one_seed_one_world_and_no_curves_are_enough(tmp_path: Path) -> None:
    found = paper_frames.frames(world_seeds=(1,), prompts=8, rows=SMALL, worlds=("exact",))
    html, text = written(tmp_path, found._replace(curves=found.curves.clear()))
    assert "undecided (one seed)" in text
    assert "±" not in re.sub(r"^[^|].*$", "", text, flags=re.M)
    assert html.count("<svg") == 5 + 3 + 4


def test_names_from_outside_are_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "<b>bold</b> | *x* \u202e"
    claim = Claim(f"{name} over DPO", "<i>here</i>", "main", name, "DPO", "reward")
    monkeypatch.setattr(report, "claims", lambda: [claim])
    found = paper_frames.frames(
        world_seeds=(1,), prompts=4, rows={"main": [name, "DPO"], "<i>own</i>": [name]}, worlds=("<u>",)
    )
    html, text = written(tmp_path, found, size="<s>")
    for markup in ("<b>", "<i>", "<u>", "<s>", "\u202e"):
        assert markup not in html
        assert markup not in text
    assert "&lt;b&gt;bold&lt;/b&gt; \\| \\*x\\*" in text
