"""Stage `judge_report`: what a judge's verdicts say about the judge, as JSON."""

import json
from pathlib import Path

from prefdata.judging.measures.of_verdicts import facts_of, gather, scored_facts
from prefdata.judging.registry import POINTWISE
from prefdata.recipe.job import Job
from prefdata.recipe.results import Run
from prefdata.recipe.units import judge as settings_of
from prefdata.recipe.units import judge_unit
from prefdata.tables import atomic

STAGE_VERSION = 1


def run(job: Job) -> None:
    """Write report/judges/<unit>.json."""
    own = settings_of(job.settings, job.unit)
    found = gather(job, own)
    facts = scored_facts(own, found) if own.judge in POINTWISE else facts_of(own, found)
    atomic.atomic_text(path(job.run, job.unit), json.dumps(facts, indent=1, sort_keys=True))


def path(run: Run, unit: str) -> Path:
    return run.root / "report" / "judges" / f"{unit}.json"


def outputs(run: Run) -> list[str]:
    """Every judge's report, for Snakemake."""
    return [str(path(run, judge_unit(j))) for j in run.settings.judge]
