"""The verdict on a set: figures against named limits, and the charts that show them."""

import html
import re
from pathlib import Path
from urllib.parse import parse_qsl

import polars as pl
import pytest

from prefdata.output import charts, page, quality_page
from prefdata.output.checks import CHECKS, ENOUGH, findings
from prefdata.output.explore.problems import PROBLEMS

STATE = (Path(page.__file__).parent / "explore" / "front" / "state.js").read_text()

QUALITY = {
    "prompts": 100,
    "agreement": [
        {"one": "j", "other": "reference a", "agree": 0.96, "pairs": 50, "tied": 0},
        {"one": "j", "other": "length", "agree": 0.6, "pairs": 50, "tied": 0},
        {"one": "source", "other": "length", "agree": 0.9, "pairs": 50, "tied": 0},
    ],
    "figures": [{"figure": "length_ratio", "what": "w", "n": 100, "p50": 1.51}],
    "degenerate": {"same words as the chosen": 2, "ties with the chosen": 30, "one rejected answer": 51},
    "producers": [
        {"producer": "x", "made": 9, "in the set": 9, "chosen": 81},
        {"producer": "y", "made": 9, "in the set": 9, "chosen": 19},
        {"producer": "gone", "made": 9, "in the set": 0, "chosen": 0},
    ],
    "noise": [{"reference": "a", "n": 29, "mean_nats": 1.0, "noise_likelier": 0.9}],
}
JUDGE = {
    "judge": "j",
    "procedure": "champion",
    "calls": 200,
    "consistency": {"share": 0.79, "se": 0.01, "of": 100},
    "first_place": {"share": 0.61, "se": 0.01, "of": 100},
    "ties": {"share": 0.3, "se": 0.01, "of": 100},
    "cycles": {"share": None, "se": None, "of": 0},
    "missing": {"verdicts": {"share": 0.021, "se": 0.01, "of": 200}, "reasons": {}},
}


def states(**changed) -> dict[str, str]:
    return {f["check"]: f["state"] for f in findings({**QUALITY, **changed}, [JUDGE], "j", ["a", "b"])}


def test_a_figure_is_suspicious_beyond_its_limits_and_good_at_them() -> None:
    assert states() == {
        "length": "good",  # 0.6 of the set's own ranking: a limit itself is inside
        "length_ratio": "suspicious",
        "reference": "suspicious",
        "same_words": "suspicious",
        "ties": "good",
        "one_rejected": "suspicious",
        "cut": "good",
        "one_producer": "suspicious",
        "noise": "too few",
        "consistency": "suspicious",
        "first_place": "suspicious",
        "judge_ties": "good",
        "missing": "suspicious",
        "cycles": "too few",
    }
    assert set(states()) == set(CHECKS), "every check is of something"


def test_below_enough_rows_nothing_is_said() -> None:
    few = [{"one": "j", "other": "length", "agree": 1.0, "pairs": n, "tied": 0} for n in (ENOUGH - 1, ENOUGH)]
    assert [states(agreement=[one])["length"] for one in few] == ["too few", "suspicious"]


def test_one_producer_alone_is_no_finding() -> None:
    assert "one_producer" not in states(producers=QUALITY["producers"][::2])


def test_the_page_begins_with_the_verdict_and_names_limits_and_judge() -> None:
    found = findings(QUALITY, [JUDGE], "j", ["a"])
    assert [f["state"] for f in found] == sorted((f["state"] for f in found), key=("suspicious", "good", "too few").index)
    facts = {**QUALITY, "judges": [JUDGE], "checks": found, "wins": [], "source_ranks": {}}
    text = quality_page.render("t", facts, [], {}, ["prune leaves out a lot"])
    assert text.index("8 of 14 checks are suspicious; for 2 there is too little data.") < text.index("Figures of each prompt")
    assert '<td class="suspicious">suspicious</td>' in text
    assert "0.67 and 1.5" in text
    assert "0.790 ± 0.010" in text
    assert "prune leaves out a lot" in text
    assert CHECKS["one_producer"].means in text


def opened(text: str) -> dict[str, list[str]]:
    """Filter -> values of every link to the page of the set."""
    found: dict[str, list[str]] = {}
    for query in re.findall(r'href="\.\./publish/explore\.html#([^"]+)"', text):
        for key, value in parse_qsl(html.unescape(query), strict_parsing=True):
            found.setdefault(key, []).append(value)
    return found


def test_counts_and_bars_open_what_the_page_of_the_set_knows() -> None:
    figure = {"figure": "length_ratio", "what": "w", "n": 100, "p5": 0.5, "p50": 1.51, "p95": 2.5}
    facts = {
        **QUALITY,
        "figures": [figure],
        "wins": [{"model": "x", "against": "<y>", "wins": 1, "ties": 0, "losses": 0, "rate": 1.0}],
    }
    facts |= {"judges": [JUDGE], "checks": findings(QUALITY, [JUDGE], "j", ["a"]), "source_ranks": {}}
    values = pl.DataFrame({"length_ratio": [0.5, 0.9, 4.0], "reference_margin": [-1.0, 0.5, 2.0]})
    stages = [{"stage": "prune", "drops": {"near: <b>": 3}}]
    drawn = charts.charts({**facts, "agreement": []}, values, stages)
    links = opened(quality_page.render("t", facts, stages, {n: charts.svg(c) for n, c in drawn.items()}))
    known = re.findall(r'"(\w+)"', re.search(r"RANGES = \[(.*?)\].*?NAMED = \[(.*?)\]", STATE, re.S).expand(r"\1 \2"))
    assert set(links) <= set(known)
    assert set(links["problem"]) <= set(PROBLEMS)
    assert {"..0.5", "2.5.."} <= set(links["ratio"])
    assert (links["rival"], links["chosenBy"][0]) == (["<y>"], "x")
    assert links["reason"] == ["prune: near: <b>"] * 2, "the table's and the bar's"
    bars = [tuple(map(float, r.split(".."))) for r in links["ratio"] if not r.startswith("..") and not r.endswith("..")]
    for value in values["length_ratio"]:
        assert sum(low <= value < high for low, high in bars) == 1


def test_numbers_of_a_table_can_be_read() -> None:
    shown = [page.number(v) for v in (3e-4, 1.5e-5, 0.0, 0.25, 12.0, 3, None, 2.5e7, "x")]
    assert shown == ["0.0003", "1.5e-05", "0.000", "0.250", "12.000", "3", "n/a", "2.5e+07", "x"]


# ---- charts ----


def bars_of(svg: str) -> list[tuple[float, float, float, float]]:
    """(x, y, width, height) of every bar."""
    found = re.findall(r'aria-roledescription="bar"[^>]* d="M([\d.-]+),([\d.-]+)h([\d.-]+)v([\d.-]+)', svg)
    return [(float(x), float(y), float(w), float(h)) for x, y, w, h in found]


def test_histograms_are_bars_that_stand_on_the_axis() -> None:
    values = pl.DataFrame({"length_ratio": [0.5, 0.9, 1.0, 1.1, 1.1, 2.0, 4.0, 0.0, None]})
    drawn = bars_of(charts.svg(charts.histogram(values, "length_ratio", "t", log2=True)))
    assert len(drawn) == 6
    assert all(y + height == pytest.approx(charts.HEIGHT) for _, y, _, height in drawn), "no bar floats"
    assert all(width > 1 for _, _, width, _ in drawn)
    assert max(h for *_, h in drawn) == pytest.approx(2 * min(h for *_, h in drawn))


@pytest.mark.parametrize("spread", [0.0, 1e-9, 0.3, 1.0, 39.0, 41.0, 12345.6])
def test_bars_are_round_and_no_more_than_bins(spread: float) -> None:
    width = charts.step(spread)
    assert float(f"{width:.0e}") == pytest.approx(width)
    assert str(f"{width:e}")[0] in "125"
    assert spread / width <= charts.BINS - 1 + 1e-9


def test_a_histograms_middle_is_an_edge() -> None:
    chart = charts.histogram(pl.DataFrame({"reference_margin": [-0.3, -0.1, 0.0, 0.2, 1.7]}), "reference_margin", "t")
    rows = chart.to_dict()["layer"][0]["data"]["values"]
    assert all(row["from"] >= 0 or row["to"] <= 1e-12 for row in rows)
    assert sum(row["prompts"] for row in rows) == 5


def test_a_matrix_has_each_pair_once_the_strongest_model_first() -> None:
    wins = [
        {"model": "a", "against": "b", "rate": 0.2},
        {"model": "a", "against": "c", "rate": 0.4},
        {"model": "b", "against": "c", "rate": 0.9},
        {"model": "c", "against": "d", "rate": None},
    ]
    order = charts.by_strength(wins)
    assert order == ["b", "c", "a"]
    assert charts._wins(wins, order) == [("b", "a", 0.8), ("c", "a", 0.6), ("b", "c", 0.9)]
    rows = charts.heatmap(charts._wins(wins, order), order, "t").to_dict()["data"]["values"]
    assert [(row["y"], row["x"]) for row in rows] == [("b", "a"), ("c", "a"), ("b", "c")]


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2's formula."""
    parts = {"black": (0, 0, 0), "white": (255, 255, 255)}.get(colour) or map(int, re.findall(r"\d+", colour))
    linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_figures_of_a_matrix_can_be_read_on_every_colour() -> None:
    """WCAG's contrast for small text, 4.5, whatever the cell's colour."""
    names = [f"m{i}" for i in range(22)]
    pairs = [("m0", name, place / 20) for place, name in enumerate(names[1:])]
    text = charts.svg(charts.heatmap(pairs, names, "t"))
    cells = re.findall(r'aria-roledescription="rect mark"[^>]* fill="(rgb[^"]+)"', text)
    inks = re.findall(r'fill="(black|white)">[01]\.\d\d</text>', text)
    assert len(cells) == len(inks) == 21
    assert {"black", "white"} == set(inks)
    for cell, ink in zip(cells, inks, strict=True):
        low, high = sorted([luminance(cell), luminance(ink)])
        assert (high + 0.05) / (low + 0.05) >= 4.5, (cell, ink)
