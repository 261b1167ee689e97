"""The report's charts, as Vega-Lite through altair. Bars and bands: standard deviations over runs; of one run, none."""

import re
from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from paper.tables import COLUMNS, MOVES, NATS
from paper.verdicts import FAILS, HOLDS, ONE_SEED, UNDECIDED, Verdict
from prefdata.output.escape import visible

Rows = list[dict[str, Any]]
COLOURS = {HOLDS: "#2e7d32", UNDECIDED: "#8a6d00", FAILS: "#c62828", ONE_SEED: "#757575"}
SERIES = (
    "#4c78a8",
    "#f58518",
    "#54a24b",
    "#e45756",
    "#7b5ea7",
    "#9d755d",
    "#17a2b8",
    "#d670ad",
    "#6b6b6b",
    "#b8a000",
    "#84d9d2",
    "#111111",
    "#b6e880",
    "#1f3b73",
)
MARKS = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
ALONG = {
    "negatives": (r"(.+) M = (\d+)", "negatives of a prompt (M)"),
    "epochs": (r"(.+), (\d+) epochs?", "epochs"),
    "quality": (r"(.+), (\d+) left", "negatives left, the best left out first"),
    "rates": (r"(.+), rate ([\d.e-]+)", "learning rate"),
}
"""Tables whose rows are points of lines: how a row's name says its line and its place, and what the place is."""
SCALES: dict[str, dict[str, Any]] = {
    "negatives": {"zero": False},
    "epochs": {"zero": False},
    "quality": {"zero": False, "reverse": True},
    "rates": {"type": "log"},
}
APART = 0.04
"""Points of different lines at one place stand this far apart, so that their bars can be seen."""


def dots(found: pl.DataFrame, metrics: Sequence[str]) -> Any:
    """Rows of one table by metric and world: each run, their mean, ± their standard deviation; None where there is nothing."""
    order = [visible(row) for row in found["row"].unique(maintain_order=True)]
    panels: list[Any] = []
    for metric, world in _panels(found, metrics):
        y = _names("row", order, labels=not panels)
        x = alt.X("value:Q", title=_title(metric, world), scale=alt.Scale(zero=False, nice=True))
        rows = [{"row": visible(r["row"]), "value": r[metric]} for r in _of(found, metric, world).to_dicts()]
        runs = alt.Chart(alt.Data(values=rows)).mark_tick(color="#9aa5b1", thickness=1.5, height=9).encode(x=x, y=y)
        means = alt.Chart(alt.Data(values=_spreads(_of(found, metric, world), metric, "row"))).encode(y=y)
        bars = means.mark_rule(color=SERIES[0], strokeWidth=2).encode(x="low:Q", x2="high:Q")
        panels.append(runs + bars + means.mark_circle(color=SERIES[0], size=60, opacity=1).encode(x="value:Q"))
    size = {"width": 190 if len(panels) > 2 else 330, "height": 20 * len(order)}
    return alt.hconcat(*[p.properties(**size) for p in panels], spacing=12) if panels else None


def lines(found: pl.DataFrame, table: str, metrics: Sequence[str]) -> Any:
    """Rows of a table of ALONG as lines, by metric and world; None where no row is a point of one."""
    pattern, title = ALONG[table]
    read = [re.fullmatch(pattern, row) for row in found["row"]]
    points = found.with_columns(
        pl.Series("line", [visible(m[1]) if m else None for m in read], dtype=pl.String),
        pl.Series("place", [float(m[2]) if m else None for m in read], dtype=pl.Float64),
    ).filter(pl.col("line").is_not_null())
    names = points["line"].unique(maintain_order=True).to_list()
    panels = []
    for metric, world in _panels(points, metrics):
        rows = _spreads(_of(points, metric, world), metric, "line", "place")
        places = sorted({r["place"] for r in rows})
        if table != "rates":
            rows = [{**r, "place": r["place"] + APART * (names.index(r["line"]) - (len(names) - 1) / 2)} for r in rows]
        scale = alt.Scale(**SCALES.get(table, {}), nice=False, padding=15)
        x = alt.X("place:Q", title=title, scale=scale, axis=alt.Axis(values=places, format="~g", grid=False))
        y = alt.Y("value:Q", title=_title(metric, world), scale=alt.Scale(zero=False))
        base = alt.Chart(alt.Data(values=rows)).encode(x=x, color=_colour("line", names))
        bars = base.mark_rule(opacity=0.5).encode(y=alt.Y("low:Q"), y2="high:Q")
        panels.append(bars + base.mark_line(point=alt.OverlayMarkDef(size=45)).encode(y=y))
    return _grid(panels, 2)


def curves(steps: pl.DataFrame, measures: Sequence[str], condition: str) -> Any:
    """Measures over steps of the runs of one condition: a line a method (mean over runs), a band of ± their standard deviation.

    steps: method, step, and the measures. None where there is nothing.
    """
    methods = [visible(m) for m in steps["method"].unique(maintain_order=True)]
    panels = []
    for measure in measures:
        known = steps.filter(pl.col(measure).is_not_null())
        rows = _spreads(known, measure, "method", "step")
        if not rows:
            continue
        y = alt.Y("value:Q", title=f"{measure}{' (nats)' if measure == 'margin' else ''}", scale=alt.Scale(zero=False))
        base = alt.Chart(alt.Data(values=rows)).encode(x=alt.X("step:Q", title="step"), color=_colour("method", methods))
        band = base.mark_area(opacity=0.15).encode(y="low:Q", y2="high:Q")
        panels.append(band + base.mark_line().encode(y=y))
    return _grid(panels, 2, visible(condition))


def scatter(found: pl.DataFrame) -> Any:
    """Sampled reward by KL to the reference, a point a run; None where no run has both."""
    known = found.filter(pl.col("kl").is_not_null(), pl.col("reward").is_not_null())
    names = [visible(row) for row in known["row"].unique(maintain_order=True)]
    panels = []
    for world in known["world"].unique().sort():
        own = known.filter(pl.col("world") == world)
        rows = [{"row": visible(r["row"]), "kl": r["kl"], "value": r["reward"]} for r in own.to_dicts()]
        y = alt.Y("value:Q", title=f"sampled reward, {visible(world)}", scale=alt.Scale(zero=False))
        shape = alt.Shape("row:N", sort=names, title=None, scale=alt.Scale(domain=names, range=_repeated(MARKS, len(names))))
        points = alt.Chart(alt.Data(values=rows)).mark_point(size=60, filled=True, opacity=0.9)
        panels.append(
            points.encode(x=alt.X("kl:Q", title="KL to the reference (nats)"), y=y, color=_colour("row", names), shape=shape)
        )
    return _grid(panels, 2)


def moves(found: pl.DataFrame) -> Any:
    """How far the log-probs of held-out chosen and rejected answers moved, a row a method; None where it is not known."""
    order = [visible(row) for row in found["row"].unique(maintain_order=True)]
    names = {"chosen_ratio": "chosen", "rejected_ratio": "rejected"}
    panels: list[Any] = []
    for world in found["world"].unique().sort():
        own = found.filter(pl.col("world") == world)
        rows = [
            {**r, "answer": said}
            for column, said in names.items()
            for r in _spreads(own.filter(pl.col(column).is_not_null()), column, "row")
        ]
        scale = alt.Scale(domain=list(names.values()), range=[SERIES[0], SERIES[3]])
        colour = alt.Color("answer:N", title=None, scale=scale, legend=alt.Legend(orient="top", symbolOpacity=1))
        base = alt.Chart(alt.Data(values=rows)).encode(y=_names("row", order, labels=not panels), color=colour)
        x = alt.X("value:Q", title=f"log-prob less the reference's (nats), world {visible(world)}")
        zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(color="#999").encode(x="zero:Q")
        points = base.mark_circle(size=60, opacity=1).encode(x=x)
        panels.append(zero + base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q") + points if rows else None)
    drawn = [p.properties(width=330, height=20 * len(order)) for p in panels if p is not None]
    return alt.hconcat(*drawn, spacing=12) if drawn else None


def by_margin(found: pl.DataFrame) -> Any:
    """Sampled reward by the margin of held-out pairs: a line a method through its learning rates, the largest one marked."""
    read = [re.fullmatch(ALONG["rates"][0], row) for row in found["row"]]
    points = found.with_columns(pl.Series("line", [visible(m[1]) if m else None for m in read], dtype=pl.String)).filter(
        pl.col("line").is_not_null(), pl.col("margin").is_not_null(), pl.col("reward").is_not_null()
    )
    names = points["line"].unique(maintain_order=True).to_list()
    panels = []
    for world in points["world"].unique().sort():
        own = points.filter(pl.col("world") == world).sort("rate")
        rows = [{k: r[k] for k in ("line", "margin", "reward", "rate")} for r in own.to_dicts()]
        largest = [r for r in rows if r["rate"] == max(o["rate"] for o in rows)]
        x = alt.X("margin:Q", title="margin of held-out pairs (nats)")
        y = alt.Y("reward:Q", title=f"sampled reward, {visible(world)}", scale=alt.Scale(zero=False))
        base = alt.Chart(alt.Data(values=rows)).encode(x=x, y=y, color=_colour("line", names))
        ends = alt.Chart(alt.Data(values=largest)).mark_point(size=90, shape="diamond", filled=True, opacity=1)
        line = base.mark_line(point=alt.OverlayMarkDef(size=30)).encode(order="rate:Q")
        panels.append(line + ends.encode(x=x, y=y, color=_colour("line", names)))
    return _grid(panels, 2)


def effects(verdicts: Sequence[Verdict]) -> Any:
    """Effects with their intervals, a panel a metric and world; None where nothing was run."""
    run = [v for v in verdicts if v.effect is not None]
    order = list(dict.fromkeys(_label(v) for v in run))
    panels: list[Any] = []
    for metric, world in dict.fromkeys((v.claim.metric, v.world) for v in run):
        own = [v for v in run if (v.claim.metric, v.world) == (metric, world)]
        rows = [{"claim": _label(v), "value": v.effect, "low": v.low, "high": v.high, "word": v.word} for v in own]
        y = _names("claim", order, labels=not panels)
        scale = alt.Scale(domain=list(COLOURS), range=list(COLOURS.values()))
        colour = alt.Color("word:N", scale=scale, legend=alt.Legend(title=None, orient="top", symbolOpacity=1))
        base = alt.Chart(alt.Data(values=rows)).encode(y=y, color=colour)
        zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(color="#999").encode(x="zero:Q")
        points = base.mark_circle(size=50, opacity=1).encode(x=alt.X("value:Q", title=_title(metric, world)))
        panels.append(zero + base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q") + points)
    sized = [p.properties(width=170 if len(panels) > 2 else 280, height=20 * len(order)) for p in panels]
    return alt.hconcat(*sized, spacing=12) if panels else None


def _title(metric: str, world: str) -> str:
    unit = " (nats)" if metric in NATS else ""
    return f"{(COLUMNS | MOVES)[metric][0]}{unit}, world {visible(world)}"


def _names(field: str, order: Sequence[str], labels: bool) -> Any:
    """Names down the side, all of them in every panel."""
    axis = alt.Axis(labels=labels, ticks=False, grid=True, labelLimit=320)
    return alt.Y(f"{field}:N", sort=list(order), scale=alt.Scale(domain=list(order)), title=None, axis=axis)


def _label(verdict: Verdict) -> str:
    return visible(verdict.claim.name)


def _panels(found: pl.DataFrame, metrics: Sequence[str]) -> list[tuple[str, str]]:
    worlds = found["world"].unique().sort().to_list()
    return [(m, w) for m in metrics for w in worlds if _of(found, m, w).height]


def _of(found: pl.DataFrame, metric: str, world: str) -> pl.DataFrame:
    return found.filter(pl.col("world") == world, pl.col(metric).is_not_null())


def _spreads(found: pl.DataFrame, metric: str, *by: str) -> Rows:
    """Mean over runs (value) and it less and plus the standard deviation (low, high; of one run the mean), a row a group."""
    value, sd = pl.col(metric).mean(), pl.col(metric).std().fill_null(0)
    made = found.group_by(by, maintain_order=True).agg(value=value, low=value - sd, high=value + sd)
    return [{k: visible(v) if isinstance(v, str) else v for k, v in row.items()} for row in made.to_dicts()]


def _colour(field: str, names: Sequence[str]) -> Any:
    scale = alt.Scale(domain=list(names), range=_repeated(SERIES, len(names)))
    return alt.Color(f"{field}:N", sort=list(names), title=None, scale=scale, legend=alt.Legend(symbolOpacity=1))


def _repeated(values: Sequence[str], count: int) -> list[str]:
    return [values[i % len(values)] for i in range(count)]


def _grid(panels: Sequence[Any], columns: int, title: str | None = None) -> Any:
    """Panels of one size, beside and below each other; None where there is none."""
    if not panels:
        return None
    sized = [p.properties(width=340, height=230) for p in panels]
    drawn = alt.vconcat(*[alt.hconcat(*sized[i : i + columns]) for i in range(0, len(sized), columns)])
    return drawn.properties(title=title) if title else drawn
