"""The quality report's charts, as Vega-Lite through altair: PNG files and SVG for the page. No display, no script."""

from typing import Any

import polars as pl

from prefdata.output.escape import visible

Facts = dict[str, Any]
WIDTH, HEIGHT, BINS = 420, 260, 40


def charts(facts: Facts, figures: pl.DataFrame, stages: list[Facts]) -> dict[str, Any]:
    """The charts that the data allows, by the name of their file."""
    drawn = {
        "length_ratio": histogram(figures, "length_ratio", "chosen length / mean rejected length (log2)", log2=True),
        "reference_margin": histogram(figures, "reference_margin", "chosen less rejected, nats per token, primary reference"),
        "agreement": heatmap(_square(facts["agreement"], "one", "other", "agree"), "pairs ordered alike"),
        "wins": heatmap([{"y": w["model"], "x": w["against"], "value": w["rate"]} for w in facts["wins"]], "adjusted win rate"),
        "drops": bars([(f"{s['stage']}: {r}", n) for s in stages for r, n in s["drops"].items()], "dropped"),
    }
    return {name: chart for name, chart in drawn.items() if chart is not None}


def _square(rows: list[Facts], one: str, other: str, value: str) -> list[Facts]:
    known = [r for r in rows if r[value] is not None]
    made = [{"y": r[one], "x": r[other], "value": r[value]} for r in known]
    return made + [{"y": r["x"], "x": r["y"], "value": r["value"]} for r in made]


def histogram(figures: pl.DataFrame, name: str, title: str, log2: bool = False) -> Any:
    """Prompts by a figure; None where no prompt has it."""
    import altair as alt

    values = figures[name].drop_nulls().drop_nans()
    values = values.filter(values > 0).log(2) if log2 else values
    if values.len() == 0:
        return None
    low, high = float(values.min()), float(values.max())  # type: ignore[arg-type]
    width = (high - low) / BINS or 1.0
    places = ((values - low) / width).floor().clip(0, BINS - 1)
    counted = places.value_counts().sort(name)
    rows = [{"from": low + p * width, "to": low + (p + 1) * width, "prompts": n} for p, n in counted.iter_rows()]
    bars_ = alt.Chart(alt.Data(values=rows)).mark_bar()
    drawn = bars_.encode(
        x=alt.X("from:Q", title=title), x2="to:Q", y=alt.Y("prompts:Q", title="prompts"), color=alt.value("#4c78a8")
    )
    return drawn.properties(width=WIDTH, height=HEIGHT)


def heatmap(rows: list[Facts], title: str) -> Any:
    """A matrix of shares from 0 to 1 with their values written in; None where there is nothing."""
    import altair as alt

    if not rows:
        return None
    named = [{**r, "x": visible(r["x"]), "y": visible(r["y"])} for r in rows]
    base = alt.Chart(alt.Data(values=named)).encode(x=alt.X("x:N", title=None), y=alt.Y("y:N", title=None))
    scale = alt.Scale(domain=[0, 1], scheme="blueorange", reverse=True)
    cells = base.mark_rect().encode(color=alt.Color("value:Q", title=title, scale=scale))
    return (cells + base.mark_text().encode(text=alt.Text("value:Q", format=".2f"))).properties(width=WIDTH, height=HEIGHT)


def bars(rows: list[tuple[str, int]], title: str) -> Any:
    """Counts by name, the largest first; None where there is nothing."""
    import altair as alt

    if not rows:
        return None
    data = [{"name": visible(name), "count": count} for name, count in rows]
    chart = alt.Chart(alt.Data(values=data)).mark_bar()
    return chart.encode(x=alt.X("count:Q", title=title), y=alt.Y("name:N", sort="-x", title=None)).properties(width=WIDTH)


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

    return str(vl_convert.vegalite_to_svg(_spec(chart)))


def _spec(chart: Any) -> dict[str, Any]:
    return dict(chart.to_dict())
