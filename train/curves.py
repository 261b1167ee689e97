"""Curves of a run's metrics: one PNG, and one HTML page that loads nothing and runs no script."""

from pathlib import Path
from typing import Any

from prefdata.output import charts, page

Row = dict[str, Any]
SHOWN = ("loss", "accuracy", "margin", "chosen_logp", "ess", "draw_shortest", "grad_norm", "lr")
EVALUATED = {"loss": "eval_loss", "accuracy": "eval_accuracy", "margin": "eval_margin", "chosen_logp": "eval_chosen_logp"}


def draw(rows: list[Row], title: str, path: Path) -> None:
    """The PNG: one small panel a metric, over optimizer steps."""
    with path.open("wb") as file:
        chart(rows, title).save(file, format="png", ppi=100)


def page_of(rows: list[Row], title: str) -> str:
    """The same as a page, with the first, the last and the best value of every metric in a table."""
    shown = [(n, [r[n] for r in rows if r.get(n) is not None]) for n in (*SHOWN, *EVALUATED.values())]
    table = page.table(
        ("metric", "first", "last", "smallest", "largest"), [(n, v[0], v[-1], min(v), max(v)) for n, v in shown if v]
    )
    return page.document(f"{title}: {len(rows)} steps", [f"<figure>{charts.svg(chart(rows, title))}</figure>", table])


def chart(rows: list[Row], title: str) -> Any:
    """Held-out values lie over the training's own where a run was evaluated."""
    import altair as alt

    values = [
        {"step": r["step"], "metric": metric, "rows": of, "value": r[name]}
        for metric in SHOWN
        for of, name in (("training", metric), ("held out", EVALUATED.get(metric)))
        for r in rows
        if name is not None and r.get(name) is not None
    ]
    present = [m for m in SHOWN if any(v["metric"] == m for v in values)]
    colours = alt.Scale(domain=["training", "held out"], range=["#4c78a8", "#e45756"])
    return (
        alt.Chart(alt.Data(values=values))
        .mark_line(strokeWidth=1)
        .encode(
            x=alt.X("step:Q", title="optimizer step"),
            y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)),
            color=alt.Color("rows:N", title=None, scale=colours),
            facet=alt.Facet("metric:N", columns=4, title=None, sort=present),
        )
        .properties(width=180, height=120, title=title)
        .resolve_scale(y="independent")
    )
