"""The report: report.html, one file with its charts, nothing loaded from elsewhere, and report.md."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from paper import figures, published
from paper.claims import claims
from paper.tables import NATS, TITLES, Table, as_markdown, in_order, measured, tables
from paper.verdicts import FAILS, HOLDS, NOT_RUN, ONE_SEED, UNDECIDED, Verdict, verdicts
from prefdata.output.charts import png, svg
from prefdata.output.escape import html_text, markdown
from prefdata.output.page import document, table
from prefdata.tables.atomic import atomic_bytes

TINTS = {HOLDS: "#dff0df", FAILS: "#f8dcdc", UNDECIDED: "#fbf2d0", ONE_SEED: "#eeeeee", NOT_RUN: "#ffffff"}
SHOWN, PAIRS = ("greedy", "reward"), ("accuracy", "margin")
INTRODUCTION = (
    "Two papers in miniature: MC-PO (arXiv 2502.04567) and MRPO (arXiv 2405.16388). Every row is a training run of a small "
    "model on five string tasks whose answers a program verifies. It is another task and another scale than the papers': only "
    "orderings can be compared with theirs, never values.",
    "Worlds. exact: candidates are answers of simulated writers of different quality, and the chosen one is nearly always "
    "right, as in the papers' base set-up. imperfect: candidates are samples of the policy itself, and the chosen one, "
    "the best of them, is often wrong, as in the papers' instruct set-up.",
    "Seeds. A world seed makes the data and the start of all runs, a training seed a run. Runs of one pair of seeds differ in "
    "the method alone, and their answers are drawn with the same random numbers.",
    "Fixed beforehand: the claims and their metrics, the methods' settings, seeds and steps. The grid of learning rates, of "
    "sizes that have one, was moved once, one step up for all methods alike, when its largest was the best of ten of thirteen "
    "rows in the one world and of nine in the other; nothing else was changed after results were seen.",
    "Learning rates. Where the size has several, each row of the first table has its own, chosen from the same grid, with the "
    "same budget, by sampled reward on held-out prompts that no table shows; rows of other tables take the one of the "
    "objective that they vary. Where it has one, all rows take it.",
    "Columns. greedy exact: share of greedy answers that are right; sampled reward: mean score, from 0 to 1, of the samples; "
    "foreign: share of samples with a character of no prompt and no answer of the sets; accuracy and margin (nats): of "
    "held-out pairs under the primary reference; KL (nats): mean log-ratio of the samples to the reference; redraw: when "
    "negatives are drawn anew; runs: how many, and of how many world seeds. ±: standard deviation over runs.",
)
GRADIENTS = "Gradients of the samplers"
ON_GRADIENTS = (
    "One drawn negative a prompt against the loss over the whole pool (RNCE with every candidate), whose gradient is the "
    "theory's aim. Bias: squared distance of the expected gradient of a prompt from the whole pool's; variance: of one draw; "
    "both by the squared norm of the whole pool's, so that their sum is the relative squared error of a draw. Cosine: of the "
    "expected gradients summed over all prompts. Exact sums over the pool, no draws."
)
ON_VERDICTS = (
    "A verdict is on one order, metric and world: the mean difference of paired runs, and its 95 % interval by a bootstrap "
    "over world seeds, training seeds and prompts, widened for how few seeds there are. holds: the interval is above 0; does "
    "not hold: it is below 0; undecided: 0 is in it, which does not mean that both are equal. With one run of each only "
    "prompts are resampled: the interval says nothing of other seeds, and the verdict is undecided (one seed).",
    "Intervals are of one claim each: of forty true ties about one looks decided. Published differences are in percentage "
    f"points ({published.CITATION}).",
)


def write(
    folder: Path,
    size: str,
    cells: pl.DataFrame,
    outcomes: pl.DataFrame,
    runs: pl.DataFrame,
    curves: pl.DataFrame,
    machine: str,
    date: str,
    notes: Sequence[str] = (),
    gradients: Sequence[Mapping[str, Any]] = (),
) -> list[Verdict]:
    """Writes `report.html` and `report.md` into the folder and gives the verdicts.

    cells: table, row, world, world_seed, seed, recipe, run, rate. outcomes: recipe, run, prompt_id, greedy, reward, foreign,
    kl. runs: recipe, run, parameters, accuracy, margin, steps, tokens, redraw, ess, draw_shortest, chosen_logp. curves: recipe,
    run, step, accuracy, margin, loss, chosen_logp. notes: plain sentences put above the introduction, such as the wall time.
    gradients: rows of world, where, sampler, bias, variance, cosine (paper/gradient.py).
    """
    found, made = measured(cells, outcomes, runs), tables(cells, outcomes, runs)
    judged = verdicts(claims(), cells, outcomes, runs)
    title = f"The papers in miniature ({size})"
    facts = (f"{_counts(cells, runs)} {machine}, {date}.", *notes)
    folder.mkdir(parents=True, exist_ok=True)
    of_samplers = _gradients(gradients)
    text = _markdown(title, facts, made, judged)
    text += "".join([f"\n## {GRADIENTS}\n\n{ON_GRADIENTS}\n\n", as_markdown(*of_samplers)] if gradients else [])
    (folder / "report.md").write_text(text, encoding="utf-8")
    parts = _html(facts, found, made, judged, curves, folder / "figures")
    parts += [f"<h2>{GRADIENTS}</h2>", _p(ON_GRADIENTS), table(*of_samplers)] if gradients else []
    page = document(title, parts)
    (folder / "report.html").write_text(page, encoding="utf-8")
    return judged


def _gradients(rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    figures = ("bias", "variance", "cosine")
    made = [(r["world"], r["where"], r["sampler"], *(f"{r[name]:.3f}" for name in figures)) for r in rows]
    return ("world", "policy", "sampler", *figures), made


def _counts(cells: pl.DataFrame, runs: pl.DataFrame) -> str:
    """How many runs and seeds the report is of, and of what size their models are."""
    shown = cells.select("recipe", "run").unique()
    sizes = runs.join(shown, on=["recipe", "run"], how="semi")["parameters"].drop_nulls().unique().sort()
    models = ", ".join(f"{size / 1e6:,.1f}" for size in sizes) or "an unknown number of"
    seeds = ", ".join(map(str, cells["seed"].unique().sort()))
    worlds = ", ".join(map(str, cells["world_seed"].unique().sort()))
    seen = f"{shown.height} runs in {cells.height} cells; world seeds {worlds}; training seeds {seeds}"
    return f"{seen}; models of {models} million parameters."


def _markdown(title: str, facts: Sequence[str], made: Sequence[Table], judged: Sequence[Verdict]) -> str:
    parts = [f"# {markdown(title)}\n", *(f"{markdown(t)}\n" for t in (*facts, *INTRODUCTION)), "## Verdicts\n"]
    parts += [f"{markdown(t)}\n" for t in ON_VERDICTS]
    parts += [as_markdown(*_summary(judged)), as_markdown(*_lines(judged))]
    parts += [f"{markdown(t)}\n" for t in _not_run(judged)]
    for name in in_order([t.name for t in made]):
        heading, said = TITLES.get(name, (name, ""))
        parts += [f"## {markdown(heading)}\n", *([f"{markdown(said)}\n"] if said else [])]
        for one in (t for t in made if t.name == name):
            parts += [f"World {markdown(one.world)}:\n", as_markdown(one.head, one.rows)]
    return "\n".join(parts)


def _html(
    facts: Sequence[str],
    found: pl.DataFrame,
    made: Sequence[Table],
    judged: Sequence[Verdict],
    curves: pl.DataFrame,
    folder: Path,
) -> list[str]:
    """The page's body; its charts also land in `folder` as PNG, for pages of one's own."""
    parts = [*map(_p, (*facts, *INTRODUCTION)), "<h2>Verdicts</h2>", *map(_p, ON_VERDICTS)]
    parts += [table(*_summary(judged)), _coloured(*_lines(judged)), *map(_p, _not_run(judged))]
    for name in in_order([t.name for t in made]):
        heading, said = TITLES.get(name, (name, ""))
        parts += [f"<h2>{html_text(heading)}</h2>", *([_p(said)] if said else [])]
        for one in (t for t in made if t.name == name):
            parts += [f"<h3>World {html_text(one.world)}</h3>", table(one.head, one.rows)]
        own = found.filter(pl.col("table") == name)
        drawn = [(chart, said) for chart, said in _charts(name, own, judged, curves) if chart is not None]
        parts += [_figure(chart, said) for chart, said in drawn]
        for place, (chart, _) in enumerate(drawn, 1):
            atomic_bytes(folder / f"{name}-{place}.png", png(chart))
    return parts


def _charts(name: str, own: pl.DataFrame, judged: Sequence[Verdict], curves: pl.DataFrame) -> list[tuple[Any, str]]:
    """The charts of one table with what is said below them."""
    drawn: list[tuple[Any, str]] = []
    if name in figures.ALONG:
        drawn.append((figures.lines(own, name, SHOWN), "Means over runs; bars: ± standard deviation over runs."))
    else:
        drawn.append((figures.dots(own, SHOWN), "Ticks: runs; points and bars: their mean ± standard deviation."))
    if name == "main":
        drawn.append((figures.scatter(own), "What a run's reward costs in distance from the reference; a point is a run."))
        drawn.append(
            (figures.moves(own), "How far the log-probs of held-out chosen and rejected answers moved; means over runs.")
        )
        drawn.append((figures.dots(own, ["length"]), "Characters of the samples."))
    if name == "rates":
        said = "Through the learning rates of a method; a diamond is the largest: a larger margin is not a better model."
        drawn.append((figures.by_margin(own), said))
    if name == "references":
        drawn += _over_steps(own, curves)
    said = "Better less worse with its 95 % interval: each order, metric and world."
    for metrics in (SHOWN, PAIRS):
        of_table = [v for v in judged if v.claim.table == name and v.claim.metric in metrics]
        drawn.append((figures.effects(of_table), said))
    return drawn


def _over_steps(own: pl.DataFrame, curves: pl.DataFrame) -> list[tuple[Any, str]]:
    """Accuracy and margin over steps, a chart a world and condition (what follows the method in a row's name)."""
    split = own.with_columns(pl.col("row").str.splitn(", ", 2).struct.rename_fields(["method", "condition"]).alias("split"))
    steps = (
        split.unnest("split")
        .select("world", "method", "condition", "recipe", "run")
        .join(curves.select("recipe", "run", "step", pl.col("accuracy", "margin").cast(pl.Float64)), on=["recipe", "run"])
    )
    drawn = []
    for key, part in steps.group_by("world", "condition", maintain_order=True):
        title = ", ".join(str(k) for k in key if k is not None)
        drawn.append((figures.curves(part, PAIRS, title), "Means over runs; bands: ± standard deviation over runs."))
    return drawn


def _summary(judged: Sequence[Verdict]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Of each source and world how many verdicts say what; what was not run at all is left out."""
    words = [w for w in TINTS if any(v.word == w for v in judged)]
    rows = []
    for source, world in dict.fromkeys((v.claim.source, v.world) for v in judged if v.word != NOT_RUN):
        own = [v.word for v in judged if (v.claim.source, v.world) == (source, world)]
        rows.append((source, world, *(str(own.count(word)) for word in words)))
    return ("claims of", "world", *words), rows


def _lines(judged: Sequence[Verdict]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """A line a claim and metric, a column a world; what was run in no world is left out."""
    worlds = sorted({v.world for v in judged})
    rows = []
    for claim in dict.fromkeys(v.claim for v in judged if v.word != NOT_RUN):
        own = {v.world: v for v in judged if v.claim == claim}
        source = claim.source if claim.claimed else f"{claim.source} (asked here)"
        gap = published.shown(published.difference(claim.table, claim.better, claim.worse), sign=True)
        unit = f"{claim.metric} (nats)" if claim.metric in NATS else claim.metric
        rows.append((claim.name, source, gap, unit, *(_said(own[w]) if w in own else NOT_RUN for w in worlds)))
    return ("claim", "source", "published", "metric", *worlds), rows


def _said(verdict: Verdict) -> str:
    """The word, the effect with its interval, and of how many pairs of runs."""
    if verdict.effect is None:
        return verdict.word
    interval = "" if verdict.low is None else f" ({verdict.low:+.3f} to {verdict.high:+.3f})"
    pairs = f"{verdict.runs} pair{'s' if verdict.runs > 1 else ''}"
    return f"{verdict.word}: {verdict.effect:+.3f}{interval}, {pairs}"


def _not_run(judged: Sequence[Verdict]) -> list[str]:
    """What this size runs in no world: the claims by name of a source that some were run of, else how many."""
    run = {v.claim for v in judged if v.word != NOT_RUN}
    left: dict[str, list[str]] = {}
    for name, source in dict.fromkeys((v.claim.name, v.claim.source) for v in judged if v.claim not in run):
        left.setdefault(source, []).append(name)
    begun = {c.source for c in run}
    named = [f"Not run, {source}: {'; '.join(names)}." for source, names in left.items() if source in begun]
    whole = [f"{source} ({len(names)})" for source, names in left.items() if source not in begun]
    return [*named, *([f"Not run at all, with the number of claims: {'; '.join(whole)}."] if whole else [])]


def _coloured(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The lines of verdicts as an HTML table, cells tinted by their word."""
    if not rows:
        return "<p>none</p>"
    body = "".join(f"<tr>{''.join(f'<td{_tint(t)}>{html_text(t)}</td>' for t in row)}</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{html_text(h)}</th>' for h in head)}</tr>{body}</table>"


def _tint(text: str) -> str:
    colour = TINTS.get(text.partition(":")[0])
    return f' style="background:{colour}"' if colour else ""


def _p(text: str) -> str:
    return f"<p>{html_text(text)}</p>"


def _figure(chart: Any, said: str) -> str:
    return f'<figure style="overflow-x: auto">{svg(chart)}<figcaption>{html_text(said)}</figcaption></figure>'
