"""Stage `summary`: what a person reads at the end, as text, and the evaluation's numbers as JSON.

Exact match is of the greedy answer, expected reward the mean score of the samples; accuracy and margin (nats, without
beta) are of the held-out pairs under the primary reference. Standard errors are over prompts.
"""

import io
import math
from pathlib import Path
from typing import Any

import polars as pl

from prefdata.judging.measures import of_verdicts, win_rate
from prefdata.output import segments
from prefdata.recipe import places
from prefdata.recipe.job import Job
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Stage
from prefdata.recipe.units import Part, evaluation_unit, judge_unit
from prefdata.tables import atomic, views

TIE_NATS = 1e-4
"""Margins below this are ties: a log-prob may differ by as much between two batches."""

EVALUATED = ("candidates", "ranks", "logps")
Facts = dict[str, Any]


def run(job: Job) -> None:
    """Write report/evaluation.json and report/summary.txt, and print the summary."""
    facts = evaluation(job)
    job.write_json(places.EVALUATION, facts)
    judges = [job.read_json(places.judge_report(judge_unit(j))) for j in job.settings.judge]
    rates = job.read_json(places.WIN_RATES) if job.settings.evaluate.judge else None
    online = [job.read_json(places.online(s.name)) for s in job.settings.segments]
    root = job.output(places.SUMMARY).parents[1]
    harness = [job.read_json(places.harness(r)) for r in job.settings.evaluated] if job.settings.harness else []
    text = render(root, job.settings, job.read_json(places.REPORT), facts, judges, rates, online, harness)
    atomic.atomic_text(job.output(places.SUMMARY), text)


def evaluation(job: Job) -> list[Facts]:
    """One entry a trained model, in the settings' order; the first is the baseline of the paired differences."""
    names = job.settings.evaluated
    pairs = held_out_pairs(job)
    rewards = {name: _rewards(job, name) for name in names}
    return [{"run": name, **_compared(rewards[name], rewards[names[0]]), **_pairs(job, name, pairs)} for name in names]


def _read(job: Job, table: str, name: str) -> pl.DataFrame:
    return job.table(Part(table, "evaluate", evaluation_unit(name)))


def _rewards(job: Job, name: str) -> pl.DataFrame:
    """Per prompt: exact (greedy score = 1) and reward (mean score of the samples); prompts without a verifier are out."""
    scored = _read(job, "candidates", name).join(_read(job, "ranks", name), on=["prompt_id", "candidate_id"])
    scored = scored.filter(pl.col("score").is_not_null())
    greedy = pl.col("temperature") == 0
    return (
        scored.group_by("prompt_id")
        .agg(
            (pl.col("score").filter(greedy) == 1).first().cast(pl.Float64).alias("exact"),
            pl.col("score").filter(~greedy).mean().alias("reward"),
        )
        .sort("prompt_id")
    )


def _compared(own: pl.DataFrame, baseline: pl.DataFrame) -> Facts:
    both = own.join(baseline, on="prompt_id", suffix="_base")
    gain = mean_se(both["reward"] - both["reward_base"])
    return {
        "n": own.height,
        "exact": mean_se(own["exact"]),
        "reward": mean_se(own["reward"]),
        "gain": gain,
        "gain_in_se": gain[0] / gain[1] if gain and gain[1] > 0 else None,
    }


def mean_se(values: pl.Series) -> tuple[float, float] | None:
    """(mean, standard error over prompts); None where there is nothing to average."""
    known = values.drop_nulls()
    if known.len() < 2:
        return None
    return float(known.mean()), float(known.std()) / math.sqrt(known.len())  # type: ignore[arg-type]


def held_out_pairs(job: Job) -> pl.DataFrame:
    """prompt_id, chosen_id, rejected_id, and the primary reference's margin of every held-out pair."""
    rows, settings = [], job.settings
    for frames in job.parts(of=[Part("sets", "sets", "preference")]):
        for row in frames["sets"].filter(pl.col("split") == settings.evaluate.split).to_dicts():
            pair = views.fixed_pair(row["candidates"], settings.sets.origins, settings.seed)
            if pair and row["candidates"][0]["logps"]:
                chosen, rejected = (row["candidates"][i] for i in pair)
                margin = chosen["logps"][0]["logp"] - rejected["logps"][0]["logp"]
                rows.append((row["prompt_id"], chosen["candidate_id"], rejected["candidate_id"], margin))
    columns = {"prompt_id": pl.String, "chosen_id": pl.String, "rejected_id": pl.String, "reference": pl.Float64}
    return pl.DataFrame(rows, schema=columns, orient="row")


def _pairs(job: Job, name: str, pairs: pl.DataFrame) -> Facts:
    logps = _read(job, "logps", name).select("prompt_id", "candidate_id", "logp")
    joined = pairs.join(logps, left_on=["prompt_id", "chosen_id"], right_on=["prompt_id", "candidate_id"]).join(
        logps, left_on=["prompt_id", "rejected_id"], right_on=["prompt_id", "candidate_id"], suffix="_rejected"
    )
    margin = joined["logp"] - joined["logp_rejected"] - joined["reference"]
    decided = margin.filter(margin.abs() > TIE_NATS)
    accuracy = mean_se((decided > 0).cast(pl.Float64)) if decided.len() else None
    return {"pairs": joined.height, "accuracy": accuracy, "margin": mean_se(margin) if decided.len() else None}


def render(
    root: Path,
    settings: Settings,
    gathered: Facts,
    evaluated: list[Facts],
    judges: list[Facts],
    rates: Facts | None,
    online: list[Facts],
    harness: list[Facts],
) -> str:
    """The summary as text. `root`: the results folder; `online`: facts of each segment; `harness`: of each run."""
    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, width=132, color_system=None, legacy_windows=False)
    for table in [_stage_table(gathered["stages"]), *of_verdicts.render(judges)]:
        console.print(table)
    for warning in gathered["warnings"]:
        console.print(f"warning: {warning}", highlight=False, markup=False)
    if online:
        console.print(_online_table(online))
    if evaluated:
        console.print(_evaluation_table(evaluated, settings.evaluate.split))
    if rates and rates["systems"]:
        title = f"Win rates by the judge {rates['judge']}"
        console.print(f"{title}\n{win_rate.render(rates['systems'], rates['differences'], rates['baseline'])}", highlight=False)
    if harness:
        console.print(_harness_table(harness))
    shown = [
        ("set", root / places.published(settings)),
        ("models", root / "models"),
        ("report", root / "report"),
    ]
    for what, where in shown:
        console.print(f"{what:>7}: {where}")
    return out.getvalue()


def _stage_table(stages: list[Facts]):  # type: ignore[no-untyped-def]
    from rich.table import Table

    table = Table("stage", "unit", "rows in", "rows out", "dropped, by reason", title="Rows")
    for entry in stages:
        shown = [", ".join(f"{n} {t}" for t, n in entry[side].items() if n) for side in ("in", "out", "drops")]
        table.add_row(entry["stage"], entry["unit"], *shown)
    return table


def _online_table(online: list[Facts]):  # type: ignore[no-untyped-def]
    from rich.table import Table

    table = Table(*segments.COLUMNS, title="Segments of online runs; the card says what the columns are")
    for facts in online:
        table.add_row(*segments.row(facts))
    return table


def _harness_table(harness: list[Facts]):  # type: ignore[no-untyped-def]
    from rich.table import Table

    columns = [(task, metric) for task, found in harness[0]["tasks"].items() for metric in found["metrics"]]
    title = f"lm-evaluation-harness {harness[0]['harness']}: value ± its standard error"
    table = Table("run", *(f"{task} {metric}" for task, metric in columns), title=title)
    for facts in harness:
        cells = [facts["tasks"][task]["metrics"].get(metric) for task, metric in columns]
        table.add_row(facts["run"], *(_with_error(cell) for cell in cells))
    return table


def _with_error(value: list[float | None] | None) -> str:
    if value is None or value[0] is None:
        return "n/a"
    return f"{value[0]:.3f}" + ("" if value[1] is None else f" ± {value[1]:.3f}")


def _evaluation_table(evaluated: list[Facts], split: str):  # type: ignore[no-untyped-def]
    from rich.table import Table

    title = (
        f"Held out ({split}): mean ± standard error over n prompts; gain = paired reward difference to {evaluated[0]['run']}"
    )
    columns = ("run", "n", "exact match", "expected reward", "gain", "gain / se", "pairs", "accuracy", "margin (nats)")
    table = Table(*columns, title=title)
    for e in evaluated:
        in_se = "" if e["gain_in_se"] is None else f"{e['gain_in_se']:+.1f}"
        shown = [_shown(e[k]) for k in ("exact", "reward", "gain", "accuracy", "margin")]
        table.add_row(e["run"], str(e["n"]), *shown[:3], in_se, str(e["pairs"]), *shown[3:])
    return table


def _shown(value: tuple[float, float] | None) -> str:
    return "n/a" if value is None else f"{value[0]:.3f} ± {value[1]:.3f}"


def _answers(settings: Settings) -> list[Part]:
    return [Part(t, "evaluate", evaluation_unit(r)) for r in settings.evaluated for t in EVALUATED]


STAGE = Stage(
    name="summary",
    help="Print rows in, out and dropped per stage and what the trained models do on held-out prompts.",
    version=2,
    run=run,
    per="run",
    reads=lambda s, u: [*_answers(s), Part("sets", "sets", "preference")],
    reads_files=lambda s, u: [
        places.REPORT,
        *map(places.judge_report, map(judge_unit, s.judge)),
        *places.win_rate_files(s)[:1],
        *(places.online(g.name) for g in s.segments),
        *(places.harness(r) for r in s.evaluated if s.harness),
    ],
    writes_files=lambda s, u: [places.EVALUATION, places.SUMMARY],
    slice=lambda s, u: {"split": s.evaluate.split, "origins": s.sets.origins, "runs": s.evaluated},
)
