"""Stage `judge_report`: what a judge's verdicts say about the judge, as JSON."""

from prefdata.judging.measures.of_verdicts import facts_of, gather, scored_facts
from prefdata.judging.registry import KINDS
from prefdata.recipe import places
from prefdata.recipe.job import Job
from prefdata.recipe.stage import Stage
from prefdata.recipe.units import Part, judge_settings, judge_unit
from prefdata.stages.judge import reads_of, slice_of


def run(job: Job) -> None:
    """Write report/judges/<unit>.json."""
    own = judge_settings(job.settings, job.unit)
    found = gather(job.parts(), own, job.settings.judge)
    facts = facts_of(own, found) if KINDS[own.kind].compares else scored_facts(own, found)
    job.write_json(places.judge_report(job.unit), facts)


STAGE = Stage(
    name="judge_report",
    help="Say how far a judge can be trusted: consistency, position and length bias, cycles, calls, cost.",
    version=1,
    run=run,
    per="run",
    units=lambda s: [judge_unit(j) for j in s.judge],
    reads=lambda s, u: [*reads_of(s, u), *(Part("verdicts", "judge", judge_unit(j)) for j in s.judge)],
    writes_files=lambda s, u: [places.judge_report(u)],
    slice=lambda s, u: {"judges": [slice_of(s, judge_unit(j)) for j in s.judge]},
)
