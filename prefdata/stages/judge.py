"""Stage `judge`: comparisons of candidates in rounds over all prompts of the job, or a score of each by itself."""

from prefdata.judging.registry import JUDGES, POINTWISE
from prefdata.judging.rounds import compare
from prefdata.judging.scores import score_alone
from prefdata.recipe.job import Job
from prefdata.recipe.units import judge as settings_of
from prefdata.tables.finished import ChunkStore

STAGE_VERSION = 3


def run(job: Job) -> None:
    """Ask until every prompt is decided, then write the verdicts."""
    settings = settings_of(job.settings, job.unit)
    with ChunkStore(job.run.chunks("judge", job.unit)) as store:
        if settings.judge in POINTWISE:
            score_alone(job, settings, POINTWISE[settings.judge](job.run, settings), store)
        else:
            compare(job, settings, JUDGES[settings.judge](job.run, settings), store)
