"""Stage `summary`: what a person reads at the end, as text, and the evaluation's numbers as JSON.

Exact match is of the greedy answer, expected reward the mean score of the samples; accuracy and margin (nats, without
beta) are of the held-out pairs under the primary reference. Standard errors are over prompts.
"""

import io
import json
import math
from pathlib import Path
from typing import Any

import polars as pl

from prefdata.judging.measures import of_verdicts, win_rate
from prefdata.recipe.job import Job
from prefdata.recipe.results import Run
from prefdata.recipe.units import Part, unit_of
from prefdata.stages import judge_report, report
from prefdata.stages import win_rate as win_rate_stage
from prefdata.tables import atomic, files, views

STAGE_VERSION = 2
TIE_NATS = 1e-4
"""Margins below this are ties: a log-prob may differ by as much between two batches."""

Facts = dict[str, Any]


def run(job: Job) -> None:
    """Write report/evaluation.json and report/summary.txt, and print the summary."""
    facts = evaluation(job.run)
    atomic.atomic_text(job.run.root / "report" / "evaluation.json", json.dumps(facts, indent=1, sort_keys=True))
    gathered = json.loads(report.path(job.run).read_text(encoding="utf-8"))
    judges = [json.loads(Path(p).read_text(encoding="utf-8")) for p in judge_report.outputs(job.run)]
    rates = json.loads(win_rate_stage.path(job.run).read_text(encoding="utf-8")) if job.settings.evaluate.judge else None
    text = render(job.run, gathered, facts, judges, rates)
    atomic.atomic_text(job.run.root / "report" / "summary.txt", text)


def evaluation(run: Run) -> list[Facts]:
    """One entry a trained model, in the settings' order; the first is the baseline of the paired differences."""
    names = run.settings.evaluate.runs
    pairs = held_out_pairs(run)
    rewards = {name: _rewards(run, name) for name in names}
    return [{"run": name, **_answers(rewards[name], rewards[names[0]]), **_pairs(run, name, pairs)} for name in names]


def _read(run: Run, table: str, name: str) -> pl.DataFrame:
    part = Part(table, "evaluate", unit_of(f"run:{name}"))
    return pl.concat([files.read_table(run.table(part, s), table) for s in run.shards])


def _rewards(run: Run, name: str) -> pl.DataFrame:
    """Per prompt: exact (greedy score = 1) and reward (mean score of the samples); prompts without a verifier are out."""
    scored = _read(run, "candidates", name).join(_read(run, "ranks", name), on=["prompt_id", "candidate_id"])
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


def _answers(own: pl.DataFrame, baseline: pl.DataFrame) -> Facts:
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


def held_out_pairs(run: Run) -> pl.DataFrame:
    """prompt_id, chosen_id, rejected_id, and the primary reference's margin of every held-out pair."""
    rows = []
    for shard in run.shards:
        frame = files.read_table(run.table(Part("sets", "sets", "preference"), shard), "sets")
        for row in frame.filter(pl.col("split") == run.settings.evaluate.split).to_dicts():
            pair = views.fixed_pair(row["candidates"], run.settings.sets.origins, run.settings.seed)
            if pair and row["candidates"][0]["logps"]:
                chosen, rejected = (row["candidates"][i] for i in pair)
                margin = chosen["logps"][0]["logp"] - rejected["logps"][0]["logp"]
                rows.append((row["prompt_id"], chosen["candidate_id"], rejected["candidate_id"], margin))
    columns = {"prompt_id": pl.String, "chosen_id": pl.String, "rejected_id": pl.String, "reference": pl.Float64}
    return pl.DataFrame(rows, schema=columns, orient="row")


def _pairs(run: Run, name: str, pairs: pl.DataFrame) -> Facts:
    logps = _read(run, "logps", name).select("prompt_id", "candidate_id", "logp")
    joined = pairs.join(logps, left_on=["prompt_id", "chosen_id"], right_on=["prompt_id", "candidate_id"]).join(
        logps, left_on=["prompt_id", "rejected_id"], right_on=["prompt_id", "candidate_id"], suffix="_rejected"
    )
    margin = joined["logp"] - joined["logp_rejected"] - joined["reference"]
    decided = margin.filter(margin.abs() > TIE_NATS)
    accuracy = mean_se((decided > 0).cast(pl.Float64)) if decided.len() else None
    return {"pairs": joined.height, "accuracy": accuracy, "margin": mean_se(margin) if decided.len() else None}


def render(run: Run, gathered: Facts, evaluated: list[Facts], judges: list[Facts], rates: Facts | None) -> str:
    """The summary as text."""
    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, width=132, color_system=None, legacy_windows=False)
    for table in [_stage_table(gathered["stages"]), *of_verdicts.render(judges)]:
        console.print(table)
    if evaluated:
        console.print(_evaluation_table(evaluated, run.settings.evaluate.split))
    if rates and rates["systems"]:
        title = f"Win rates by the judge {rates['judge']}"
        console.print(f"{title}\n{win_rate.render(rates['systems'], rates['differences'], rates['baseline'])}", highlight=False)
    places = [
        ("set", run.root / "publish" / "dataset"),
        ("models", run.root / "models"),
        ("report", run.root / "report"),
    ]
    for what, where in places:
        console.print(f"{what:>7}: {where}")
    return out.getvalue()


def _stage_table(stages: list[Facts]):  # type: ignore[no-untyped-def]
    from rich.table import Table

    table = Table("stage", "unit", "rows in", "rows out", "dropped, by reason", title="Rows")
    for entry in stages:
        shown = [", ".join(f"{n} {t}" for t, n in entry[side].items() if n) for side in ("in", "out", "drops")]
        table.add_row(entry["stage"], entry["unit"], *shown)
    return table


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
