"""Stage `judge`: comparisons of candidates in rounds over all prompts of the job, or a score of each by itself."""

from prefdata.judging.pointwise import Pointwise
from prefdata.judging.registry import KINDS
from prefdata.judging.rounds import compare
from prefdata.judging.scores import score_each
from prefdata.models.identity import Model
from prefdata.recipe.job import Job
from prefdata.recipe.prompts import PROMPTS
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Slice, Stage, shares, without
from prefdata.recipe.units import Part, judge_settings, judge_unit
from prefdata.stages.graph import pool


def run(job: Job) -> None:
    """Ask until every prompt is decided, then write the verdicts."""
    settings = judge_settings(job.settings, job.unit)
    judge = KINDS[settings.kind].make(job, settings)
    with job.store() as store:
        if isinstance(judge, Pointwise):
            score_each(job, settings, judge, store)
        else:
            compare(job, settings, judge, store)


def slice_of(settings: Settings, unit: str) -> Slice:
    """What can change a judge's verdicts."""
    own = judge_settings(settings, unit)
    model = {"model": own.model.identity()} if own.model else {}
    named = {**without(own, "shards_per_engine", "chunk_prompts", "model", "rubric"), **model}
    return {**named, **KINDS[own.kind].slice(settings, own), "seed": settings.seed}


def model_of(settings: Settings, unit: str) -> list[Model]:
    """The model whose files a judge reads."""
    model = judge_settings(settings, unit).model
    return model.files() if model else []


def reads_of(settings: Settings, unit: str) -> list[Part]:
    """The candidates that a judge is asked about."""
    return [*PROMPTS, *pool(settings, judge_settings(settings, unit).name)]


def _per_engine(settings: Settings, unit: str) -> int | None:
    own = judge_settings(settings, unit)
    return own.shards_per_engine or (shares(own.model, settings) if own.model else None)


STAGE = Stage(
    name="judge",
    help="Ask a judge which of two candidates is better, in both orders, or for a score of each.",
    version=4,
    run=run,
    per="engine",
    writes=("verdicts",),
    units=lambda s: [judge_unit(j) for j in s.judge],
    reads=reads_of,
    slice=slice_of,
    models=model_of,
    per_engine=_per_engine,
    engine=lambda s, u: judge_settings(s, u).model,
)
