"""Curves of training runs, one or several in one picture: each metric a panel, smoothed over steps with its raw values behind,
held-out values as points. What every metric is, in words. Static SVG and PNG; no script."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefdata.output import charts, page
from prefdata.output.escape import visible

Row = Mapping[str, Any]
Point = dict[str, Any]
METRICS = {
    "loss": "mean loss of the step's prompts (of SFT, of its tokens), by the objective's formula",
    "accuracy": "share of chosen-rejected pairs whose margin is above 0; ties count for neither",
    "margin": "beta × (log-ratio of the chosen answer less that of the rejected one), to the primary reference; of labelled "
    "answers the mean reward of good ones less that of bad ones; nats",
    "chosen_logp": "mean log-prob of the chosen answer under the model that is trained, nats an answer",
    "reward_desirable": "mean of beta × log-ratio of good answers to the primary reference, nats",
    "reward_undesirable": "mean of beta × log-ratio of bad answers to the primary reference, nats",
    "ess": "effective number of candidates in the kernel's weights (1: all weight on one)",
    "ess_share": "that number over the number of candidates",
    "draw_shortest": "share of drawn negatives that are the shortest of their prompt",
    "draw_source": "share of drawn negatives that are the source's answers",
    "draw_generated": "share of drawn negatives that a model was sampled for",
    "draw_noise": "share of drawn negatives that are noise",
    "draw_chosen": "share of draws that took the chosen answer itself (include_chosen)",
    "shift": "reference point that the loss takes off its log-ratios (bco, kto), nats",
    "grad_norm": "norm of the gradient before it is clipped",
    "lr": "learning rate",
    "tokens": "tokens of the step, prompts and completions",
}
"""A column of metrics.jsonl: what it is. eval_<name> is the same on held-out rows."""
COUNTERS = ("step", "epoch")
SHOWN = ("loss", "accuracy", "margin", "chosen_logp", "ess", "draw_shortest", "grad_norm", "lr")
"""The panels, in order."""
EXACT = ("lr",)
"""What is known, not measured: drawn as it is."""
COMPARING, PLAIN = "Runs that compare answers", "Runs of plain SFT"
COLUMNS, MOST_POINTS = 4, 300
"""Panels in a row; points of one line: of longer runs every so-manieth step is drawn, so that a page stays small."""
MANY_POINTS, FEWEST_POINTS = 3000, 12
"""Points of a panel, and of each line where many runs share them: to draw takes as long as there are points."""
COLOURS = ("#4c78a8", "#e45756", "#54a24b", "#f58518", "#72b7b2", "#b279a2", "#9d755d", "#eeca3b", "#ff9da6", "#79706e")


def half_life(steps: int) -> float:
    """Steps after which a value weighs half in the smoothed curve: a twentieth of the run."""
    return max(1.0, steps / 20)


def smoothed(values: Sequence[float], half: float) -> list[float]:
    """Exponential moving average, each value divided by the weights so far, so that it does not begin at 0."""
    keep, total, weight, made = 0.5 ** (1 / half), 0.0, 0.0, []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        made.append(total / weight)
    return made


def points(rows: Sequence[Row], name: str, run: str, most: int = MOST_POINTS) -> tuple[list[Point], list[Point]]:
    """The points of one metric of one run, about `most` of each line: raw and smoothed by step; and held-out ones."""
    known = [(r["step"], r[name]) for r in rows if r.get(name) is not None]
    values = [value for _, value in known]
    curve = values if name in EXACT else smoothed(values, half_life(len(rows)))
    stride = math.ceil(len(known) / most) or 1
    made = [
        {"run": run, "step": step, "raw": value, "smooth": smooth}
        for place, ((step, value), smooth) in enumerate(zip(known, curve, strict=True))
        if place % stride == 0 or place == len(known) - 1
    ]
    evaluated = [(r["step"], r[f"eval_{name}"]) for r in rows if r.get(f"eval_{name}") is not None]
    return made, [{"run": run, "step": step, "held": value} for step, value in evaluated]


def groups(runs: Mapping[str, Sequence[Row]]) -> dict[str, dict[str, Sequence[Row]]]:
    """The runs whose losses are of one kind, by a heading: those that compare answers, and plain SFT."""
    of: dict[str, dict[str, Sequence[Row]]] = {COMPARING: {}, PLAIN: {}}
    for name, rows in runs.items():
        of[COMPARING if any(r.get("margin") is not None for r in rows) else PLAIN][name] = rows
    return {heading: found for heading, found in of.items() if found}


def chart(runs: Mapping[str, Sequence[Row]], title: str) -> Any:
    """The panels of every group of runs, one below the other."""
    import altair as alt

    drawn = [panels(own, heading if len(runs) > 1 else title) for heading, own in groups(runs).items()]
    return alt.vconcat(*drawn).resolve_scale(color="independent") if drawn else charts.nothing("training")


def panels(runs: Mapping[str, Sequence[Row]], title: str) -> Any:
    """A panel for each metric that some run has; a colour a run, named where there are several."""
    import altair as alt

    names = {name: visible(name) for name in runs}
    domain = list(names.values())
    legend = alt.Legend(orient="top", columns=COLUMNS, labelLimit=charts.LONGEST, symbolOpacity=1)
    scale = alt.Scale(domain=domain, range=[COLOURS[i % len(COLOURS)] for i in range(len(domain))])
    colour = alt.Color("run:N", title=None, scale=scale, legend=legend if len(domain) > 1 else None)
    drawn, most = [], min(MOST_POINTS, max(FEWEST_POINTS, MANY_POINTS // len(runs)))
    for metric in SHOWN:
        found = [points(rows, metric, names[name], most) for name, rows in runs.items()]
        stepped, held = ([p for pair in found for p in pair[i]] for i in (0, 1))
        if stepped:
            drawn.append(_panel(stepped, held, metric, colour))
    if not drawn:
        return charts.nothing("training")
    return alt.concat(*drawn, columns=COLUMNS).properties(title=title).resolve_scale(x="shared")


def _panel(stepped: list[Point], held: list[Point], metric: str, colour: Any) -> Any:
    import altair as alt

    axis = alt.Axis(format="~e" if metric == "lr" else "~g")

    def layer(points: list[Point], of: str) -> Any:
        y = alt.Y(f"{of}:Q", title=None, scale=alt.Scale(zero=False), axis=axis)
        return alt.Chart(alt.Data(values=points)).encode(x=alt.X("step:Q", title="optimizer step"), y=y, color=colour)

    layers = [
        layer(stepped, "raw").mark_line(strokeWidth=1, opacity=0.3),
        layer(stepped, "smooth").mark_line(strokeWidth=2),
        *([layer(held, "held").mark_point(filled=True, size=30, opacity=1)] if held else []),
    ]
    said = f"{metric} (points: held out)" if held else metric
    return alt.layer(*layers).properties(width=200, height=140, title=said)


def page_of(runs: Mapping[str, Sequence[Row]], title: str) -> str:
    """The page: curves of all runs, their last values side by side, what each metric is."""
    drawings = [
        f"<h2>{heading}</h2><figure>{charts.svg(panels(own, ''))}<figcaption>{NOTE}</figcaption></figure>"
        for heading, own in groups(runs).items()
    ]
    columns = [n for n in [*METRICS, *(f"eval_{m}" for m in METRICS)] if any(_has(rows, n) for rows in runs.values())]
    shown = [n for n in columns if n.removeprefix("eval_") in SHOWN]
    ends = [(name, len(rows), *(_end(rows, column) for column in shown)) for name, rows in runs.items()]
    last = page.section(
        "At the end",
        "Means over the last twentieth of the steps; of held-out rows (eval_) the last value.",
        page.table(("run", "steps", *shown), ends),
    )
    spread = [
        (name, column, *_spread([r[column] for r in rows if r.get(column) is not None]))
        for name, rows in runs.items()
        for column in columns
        if _has(rows, column)
    ]
    ranges = page.table(("run", "metric", "first", "last", "smallest", "largest"), spread, texts=("metric",))
    meant = [(n, METRICS[n.removeprefix("eval_")] + (", on held-out rows" if n.startswith("eval_") else "")) for n in columns]
    words = page.table(("metric", "what it is"), meant, texts=("what it is",))
    after = [last, page.section("Metrics", "", words), page.section("First, last and extreme values", "", ranges)]
    return page.document(title, [*drawings, *after])


NOTE = (
    "Thick: smoothed (an exponential mean with a half-life of a twentieth of the run's steps); thin behind it: the steps "
    f"themselves. Of runs longer than {MOST_POINTS} steps, and where there are many runs, every so-manieth step is drawn."
)


def _has(rows: Sequence[Row], column: str) -> bool:
    return any(r.get(column) is not None for r in rows)


def _end(rows: Sequence[Row], column: str) -> float | None:
    """The mean of a metric over the last twentieth of the steps; of held-out rows the last value."""
    known = [float(r[column]) for r in rows if r.get(column) is not None]
    if not known:
        return None
    some = known[-1:] if column.startswith("eval_") else known[-max(1, len(rows) // 20) :]
    return sum(some) / len(some)


def _spread(values: Sequence[float]) -> tuple[float, float, float, float]:
    return float(values[0]), float(values[-1]), float(min(values)), float(max(values))


def draw(rows: Sequence[Row], run: str, path: Path) -> None:
    """The PNG of one run."""
    path.write_bytes(charts.png(chart({run: rows}, run)))
