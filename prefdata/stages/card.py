"""Stage `card`: the data set card, computed facts only."""

import json
from pathlib import Path

from prefdata.output.card import render
from prefdata.recipe.job import Job
from prefdata.recipe.results import Run
from prefdata.stages import report
from prefdata.tables import atomic

STAGE_VERSION = 2


def run(job: Job) -> None:
    """Write publish/card.md."""
    facts, quality = (json.loads(p.read_text(encoding="utf-8")) for p in (report.path(job.run), report.quality_path(job.run)))
    atomic.atomic_text(path(job.run), render(job.settings, facts, quality))


def path(run: Run) -> Path:
    return run.root / "publish" / "card.md"
