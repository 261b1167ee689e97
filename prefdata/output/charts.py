"""The quality report's charts, as Vega-Lite through altair: PNG files and SVG for the page. No display, no script."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import polars as pl

from prefdata.output.escape import visible
from prefdata.output.examples import address, between

Facts = dict[str, Any]
WIDTH, HEIGHT, BINS = 420, 260, 40
BLUE, GREY = "#4c78a8", "#666666"
READABLE = 0.18
"""The relative luminance on which black and white text have the same contrast (WCAG 2)."""
RENDERERS = "https://vega.github.io/vega-datasets/"
"""What the renderer puts before an address of this site."""
LONGEST = 300
"""Pixels of a name beside a bar; the rest of it is cut."""


def charts(facts: Facts, figures: pl.DataFrame, stages: list[Facts]) -> dict[str, Any]:
    """The charts that the data allows, by the name of their file."""
    agreement = [(a["one"], a["other"], a["agree"]) for a in facts["agreement"]]
    rankers = list(dict.fromkeys(name for one, other, _ in agreement for name in (one, other)))
    models = by_strength(facts["wins"])
    drawn = {
        "length_ratio": histogram(figures, "length_ratio", "chosen length / mean rejected length", log2=True),
        "reference_margin": histogram(figures, "reference_margin", "chosen less rejected, nats per token, primary reference"),
        "agreement": heatmap(agreement, rankers, "pairs ordered alike"),
        "wins": heatmap(_wins(facts["wins"], models), models, "adjusted win rate"),
        "drops": bars([(f"{s['stage']}: {r}", n) for s in stages for r, n in s["drops"].items()], "dropped", "reason"),
    }
    return {name: chart for name, chart in drawn.items() if chart is not None}


def by_strength(wins: Sequence[Facts]) -> list[str]:
    """The models, by their mean adjusted win rate against the others, the best first."""
    rates = defaultdict[str, list[float]](list)
    for pair in wins:
        if pair["rate"] is not None:
            rates[pair["model"]].append(pair["rate"])
            rates[pair["against"]].append(1 - pair["rate"])
    return sorted(rates, key=lambda name: (-sum(rates[name]) / len(rates[name]), name))


def _wins(wins: Sequence[Facts], models: Sequence[str]) -> list[tuple[str, str, float | None]]:
    """Each pair once, seen from the one that stands first in `models`."""
    listed = []
    for pair in wins:
        if pair["rate"] is not None:
            turned = models.index(pair["model"]) > models.index(pair["against"])
            names = (pair["against"], pair["model"]) if turned else (pair["model"], pair["against"])
            listed.append((*names, 1 - pair["rate"] if turned else pair["rate"]))
    return listed


def histogram(figures: pl.DataFrame, name: str, title: str, log2: bool = False) -> Any:
    """Prompts by a figure, 0 (of a ratio 1) at the edge of a bar; None where no prompt has it. `log2`: bars of equal width on
    a logarithmic axis, which is labelled by the ratios themselves."""
    import altair as alt

    values = figures[name].drop_nulls().drop_nans()
    values = values.filter(values > 0).log(2) if log2 else values
    if values.len() == 0:
        return None
    width = step(float(values.max()) - float(values.min()))  # type: ignore[arg-type]
    counted = (values / width).floor().value_counts().sort(name)
    rows = [
        {"from": place * width, "to": (place + 1) * width, "prompts": n, "href": _examples(name, place, width, log2)}
        for place, n in counted.iter_rows()
    ]
    axis = alt.Axis(labelExpr="format(pow(2, datum.value), '.3~g')", labelSeparation=8) if log2 else alt.Axis()
    drawn = alt.Chart(alt.Data(values=rows)).mark_bar(color=BLUE)
    drawn = drawn.encode(
        x=alt.X("from:Q", title=title, bin="binned", axis=axis),
        x2="to:Q",
        y=alt.Y("prompts:Q", title="prompts"),
        href="href:N",
    )
    middle = alt.Chart(alt.Data(values=[{"middle": 0}])).mark_rule(color=GREY, strokeDash=[4, 3]).encode(x="middle:Q")
    return (drawn + middle).properties(width=WIDTH, height=HEIGHT)


def _examples(figure: str, place: float, width: float, log2: bool) -> str:
    """The address of a bar's prompts."""
    low, high = place * width, (place + 1) * width
    return between(figure, 2**low, 2**high) if log2 else between(figure, low, high)


def step(spread: float) -> float:
    """A round width of at most BINS bars that cover a spread: 1, 2 or 5 times a power of ten."""
    least = spread / (BINS - 1) or 1.0  # the first and the last bar may be half empty
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * times for times in (1, 2, 5, 10) if power * times >= least * (1 - 1e-9))


def heatmap(pairs: Sequence[tuple[str, str, float | None]], names: Sequence[str], title: str) -> Any:
    """A triangle of shares from 0 to 1 with their values written in, of (row, column, share); None where there is nothing."""
    import altair as alt

    shown = {name: visible(name) for name in names}
    rows = [{"y": shown[y], "x": shown[x], "value": value} for y, x, value in pairs if value is not None]
    if not rows:
        return None
    order = [shown[name] for name in names]
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("x:N", title=None, sort=order, axis=alt.Axis(labelAngle=-45, labelLimit=LONGEST)),
        y=alt.Y("y:N", title=None, sort=order, axis=alt.Axis(labelLimit=LONGEST)),
    )
    scale = alt.Scale(domain=[0, 1], scheme="blueorange", reverse=True)
    cells = base.mark_rect().encode(color=alt.Color("value:Q", title=title, scale=scale))
    ink = alt.expr(f"luminance(scale('color', datum.value)) > {READABLE} ? 'black' : 'white'")
    return (cells + base.mark_text(color=ink).encode(text=alt.Text("value:Q", format=".2f"))).properties(
        width=max(WIDTH, 50 * len(order)), height=max(HEIGHT, 28 * len(order))
    )


def bars(rows: list[tuple[str, int]], title: str, opens: str) -> Any:
    """Counts by name, the largest first, each written at its bar; None where there is nothing. `opens`: the filter of the
    page of the set that a name is a value of."""
    import altair as alt

    if not rows:
        return None
    data = [{"name": visible(name), "count": count, "href": address(**{opens: name})} for name, count in rows]
    base = alt.Chart(alt.Data(values=data)).encode(
        x=alt.X("count:Q", title=title), y=alt.Y("name:N", sort="-x", title=None, axis=alt.Axis(labelLimit=LONGEST))
    )
    counts = base.mark_text(align="left", dx=4).encode(text="count:Q")
    return (base.mark_bar(color=BLUE).encode(href="href:N") + counts).properties(width=WIDTH)


def nothing(name: str) -> Any:
    """A chart that says there is no data for it."""
    import altair as alt

    said = [{"text": f"no data for {name}"}]
    return alt.Chart(alt.Data(values=said)).mark_text(size=16).encode(text="text:N").properties(width=WIDTH, height=60)


def png(chart: Any) -> bytes:
    """The chart as a PNG, twice the pixels for sharp screens."""
    import vl_convert

    return bytes(vl_convert.vegalite_to_png(_spec(chart), scale=2))


def svg(chart: Any) -> str:
    """The chart as SVG, texts escaped by the renderer."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(_spec(chart))).replace(f'href="{RENDERERS}', 'href="')


def _spec(chart: Any) -> dict[str, Any]:
    return dict(chart.to_dict())
