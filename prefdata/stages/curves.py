"""Stage `curves`: all training runs of the recipe in one page, report/metrics.html, and as a picture, metrics.png."""

import json
from pathlib import Path

from prefdata.output import charts, curves
from prefdata.recipe import places
from prefdata.recipe.job import Job
from prefdata.recipe.stage import Stage
from prefdata.tables import atomic


def run(job: Job) -> None:
    """Write both from every run's metrics.jsonl."""
    # whatever the order of the keys
    runs = {name: _rows(job.input(places.metrics(name))) for name in sorted(job.settings.runs)}
    title = f"{job.settings.name}: training runs"
    atomic.atomic_text(job.output(places.METRICS_PAGE), curves.page_of(runs, title))
    atomic.atomic_bytes(job.output(places.METRICS_CHART), charts.png(curves.chart(runs, title)))


def _rows(path: Path) -> list[curves.Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


STAGE = Stage(
    name="curves",
    help="Compare the metrics of all training runs in one page.",
    version=1,
    run=run,
    per="run",
    units=lambda s: ["all"] if s.runs else [],
    reads_files=lambda s, u: list(map(places.metrics, s.runs)),
    writes_files=lambda s, u: [places.METRICS_PAGE, places.METRICS_CHART],
    slice=lambda s, u: {"runs": sorted(s.runs)},
)
