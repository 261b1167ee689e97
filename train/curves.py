"""Curves of a run's metrics as one PNG."""

from pathlib import Path
from typing import Any

SHOWN = ("loss", "accuracy", "margin", "chosen_logp", "ess", "draw_shortest", "grad_norm", "lr")


def draw(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """One small panel a metric, over optimizer steps."""
    import altair as alt

    values = [{"step": r["step"], "metric": m, "value": r[m]} for r in rows for m in SHOWN if r.get(m) is not None]
    present = [m for m in SHOWN if any(v["metric"] == m for v in values)]
    chart = (
        alt.Chart(alt.Data(values=values))
        .mark_line(strokeWidth=1)
        .encode(
            x=alt.X("step:Q", title="optimizer step"),
            y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)),
            facet=alt.Facet("metric:N", columns=4, title=None, sort=present),
        )
        .properties(width=180, height=120, title=title)
        .resolve_scale(y="independent")
    )
    with path.open("wb") as file:
        chart.save(file, format="png", ppi=100)
