"""Stage `page`: the page of the preference set beside the published folder, as `prefdata explore` writes it of any set."""

from collections import Counter
from collections.abc import Iterator

from prefdata.output.explore import document
from prefdata.output.explore.columns import Columns
from prefdata.output.explore.frames import MOST_PROMPTS, Keyed, only, sample
from prefdata.output.explore.gathered import gather
from prefdata.output.explore.of_set import Facts, said
from prefdata.recipe import places
from prefdata.recipe.job import Job
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Stage
from prefdata.recipe.units import Part, judge_unit
from prefdata.stages.publish import parts_of as published_parts

SETS = Part("sets", "sets", "preference")


def run(job: Job) -> None:
    """Write publish/explore.html. Raises DataError."""
    of = sum(m["rows"] for m in job.manifests(SETS))
    kept = sample(_ids(job), MOST_PROMPTS) if of > MOST_PROMPTS else None
    columns = Columns(Keyed(job.settings.seed, tuple(job.settings.sets.origins)))
    made = gather((only(frames, kept) for frames in job.parts(of=parts_of(job.settings))), columns)
    document.write(job.output(places.PAGE), job.settings.name, made, said(of, _dropped(job)))


def _ids(job: Job) -> Iterator[str]:
    for frames in job.parts(of=[SETS], columns={"sets": ("prompt_id",)}):
        yield from frames["sets"]["prompt_id"]


def _dropped(job: Job) -> list[Facts]:
    """What the stages before dropped, by stage, unit and reason, as of an opened set."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for part in parts_of(job.settings):
        if part.table == "drops":
            for manifest in job.manifests(part):
                counts.update({(part.stage, part.unit, reason): n for reason, n in manifest["reasons"].items()})
    return [{"stage": s, "unit": u, "reason": r, "rows": n} for (s, u, r), n in sorted(counts.items())]


def parts_of(settings: Settings) -> list[Part]:
    """The set, its candidates and drops, and what the judges said."""
    made = [p for p in published_parts(settings) if p.table in ("sets", "candidates", "drops")]
    return [*made, *(Part("verdicts", "judge", judge_unit(j)) for j in settings.judge)]


STAGE = Stage(
    name="page",
    help="Write a page of the set to look around in (`prefdata explore` writes one of any set).",
    version=2,
    run=run,
    per="run",
    reads=lambda s, u: parts_of(s),
    writes_files=lambda s, u: [places.PAGE],
    slice=lambda s, u: {"seed": s.seed, "origins": list(s.sets.origins)},
)
