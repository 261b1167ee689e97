"""Stage `summary`: what a person reads at the end, as text, and the evaluation's numbers as JSON.

What its figures are: prefdata/output/evaluation.py.
"""

import io
from pathlib import Path
from typing import Any

from prefdata.judging.measures import of_verdicts, win_rate
from prefdata.output import evaluation, segments
from prefdata.recipe import places
from prefdata.recipe.job import Job
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Stage
from prefdata.recipe.units import Part, evaluation_unit, judge_unit
from prefdata.tables import atomic

EVALUATED = ("candidates", "ranks", "logps")
Facts = dict[str, Any]


def run(job: Job) -> None:
    """Write report/evaluation.json and report/summary.txt, and print the summary."""
    facts = evaluation.evaluation(job)
    job.write_json(places.EVALUATION, facts)
    judges = [job.read_json(places.judge_report(judge_unit(j))) for j in job.settings.judge]
    rates = job.read_json(places.WIN_RATES) if job.settings.evaluate.judge else None
    online = [job.read_json(places.online(s.name)) for s in job.settings.segments]
    root = job.output(places.SUMMARY).parents[1]
    harness = [job.read_json(places.harness(r)) for r in job.settings.evaluated] if job.settings.harness else []
    text = render(root, job.settings, job.read_json(places.REPORT), facts, judges, rates, online, harness)
    atomic.atomic_text(job.output(places.SUMMARY), text)


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
    console = Console(file=out, width=150, color_system=None, legacy_windows=False)
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
        f"Held out ({split}): mean ± standard error over n prompts; gain: of sampled reward over {evaluated[0]['run']}, "
        "paired; foreign: samples with characters of no set; margin and KL (to the primary reference) in nats"
    )
    table = Table("run", *evaluation.COLUMNS.values(), title=title)
    for facts in evaluated:
        table.add_row(facts["run"], *evaluation.row(facts))
    return table


def _answers(settings: Settings) -> list[Part]:
    return [Part(t, "evaluate", evaluation_unit(r)) for r in settings.evaluated for t in EVALUATED]


STAGE = Stage(
    name="summary",
    help="Print rows in, out and dropped per stage and what the trained models do on held-out prompts.",
    version=3,
    run=run,
    per="run",
    reads=lambda s, u: [*_answers(s), *evaluation.SETS],
    reads_files=lambda s, u: [
        places.REPORT,
        *map(places.judge_report, map(judge_unit, s.judge)),
        *places.win_rate_files(s)[:1],
        *(places.online(g.name) for g in s.segments),
        *(places.harness(r) for r in s.evaluated if s.harness),
        *map(places.receipt, s.evaluated),
    ],
    writes_files=lambda s, u: [places.EVALUATION, places.SUMMARY],
    slice=lambda s, u: {"split": s.evaluate.split, "origins": s.sets.origins, "runs": s.evaluated},
)
