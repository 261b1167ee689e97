"""Stage `card`: the data set card, computed facts only."""

from prefdata.judging.registry import described
from prefdata.output.card.card import render
from prefdata.recipe import places
from prefdata.recipe.job import Job
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Slice, Stage, without
from prefdata.tables import atomic


def run(job: Job) -> None:
    """Write publish/card.md."""
    online = [job.read_json(places.online(s.name)) for s in job.settings.segments]
    text = render(job.settings, job.read_json(places.REPORT), job.read_json(places.QUALITY), ranking(job.settings), online)
    atomic.atomic_text(job.output(places.CARD), text)


def ranking(settings: Settings) -> str:
    """What made the ranks of the preference set."""
    judges = {j.name: f"by the judge {j.name} ({described(j)})" for j in settings.judge}
    return judges.get(settings.sets.method, "the source's own order, dense")


def _slice(settings: Settings, unit: str) -> Slice:
    said = (settings.card, settings.dedup, settings.split, settings.decontaminate, settings.prune, settings.sets)
    references = [without(r) for r in settings.score.references]
    sources = [without(s, "path", "fields", "exclude") for s in settings.sources.sources]
    own = {"references": references, "ranking": ranking(settings), "sources": sources, "repo_id": settings.publish.repo_id}
    return {**own, "said": [section and without(section) for section in said]}


STAGE = Stage(
    name="card",
    help="Write the data set card from computed facts.",
    version=4,
    run=run,
    per="run",
    reads_files=lambda s, u: [places.REPORT, places.QUALITY, *(places.online(g.name) for g in s.segments)],
    writes_files=lambda s, u: [places.CARD],
    slice=_slice,
)
