"""Stage `publish`: the published configs to a folder and, where repo_id is set, to the Hub."""

import shutil
from collections import Counter
from dataclasses import replace
from typing import Any

from prefdata.errors import PublishError
from prefdata.output import card_files, card_header, published_files
from prefdata.output.commit import Facts, publish
from prefdata.output.published_files import CONFIGS, OF_LABELS, Group, of_online
from prefdata.output.targets import Folder, Hub, Target
from prefdata.recipe import places
from prefdata.recipe.job import Job
from prefdata.recipe.prompts import PROMPTS, prompt_drops
from prefdata.recipe.settings.online import Segment
from prefdata.recipe.settings.segments import recipe_of
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Stage, without
from prefdata.recipe.units import Part, in_segment, reference_unit
from prefdata.stages import sets
from prefdata.stages.graph import UNPAIRED, asked
from prefdata.stages.segmented import OF_SEGMENTS
from prefdata.tables import atomic

BUILT = "publish/.built"
"""Where the files are made before they are put in their place."""


def run(job: Job) -> None:
    """Publish everywhere the settings say and write publish/receipt.json."""
    settings, built = job.settings.publish, job.own_folder(BUILT)
    try:
        shutil.rmtree(built, ignore_errors=True)
        made = published_files.build(job, groups(job.settings), built)
        hashes = {path: file.digest for path, file in made.items()}
        _require_rows(job, hashes)
        text = card_files.filled(job.input(places.CARD).read_text(encoding="utf-8"), built, made)
        text = card_header.with_files(text, made)
        targets: dict[str, Target] = {"folder": Folder(job.own_folder(places.published(job.settings)))}
        if settings.repo_id is not None:
            _require_licences(job)
            targets[settings.repo_id] = Hub(settings.repo_id, settings.private)
        receipt: dict[str, Any] = {"files": hashes}
        for name, target in targets.items():
            receipt[name] = publish(target, built, hashes, text, identity(job), settings.attempts)
    finally:
        atomic.remove_folder(built)
    job.write_json(places.RECEIPT, receipt)


def _require_rows(job: Job, hashes: dict[str, str]) -> None:
    """Refuse to replace what is published by nothing; a recipe whose prompts only online runs answer has no other set, and
    one of labelled answers may have no pair."""
    online = job.settings.segments and not job.settings.answered_once
    if hashes and (online or any(name.startswith(("data/sets/", "data/unpaired/")) for name in hashes)):
        return
    stages = job.read_json(places.REPORT)["stages"]
    dropped = sum((Counter(e["drops"]) for e in stages), Counter[str]()).most_common(3)
    said = ", ".join(f"{n} {reason}" for reason, n in dropped) or "no rows came in"
    raise PublishError(
        f"the preference set is empty ({said})",
        "sets/preference",
        f"look at {job.input(places.REPORT).parent}: what was dropped, why",
    )


def identity(job: Job) -> Facts:
    """What a reader of the published set needs to know to use its log-probs and its pairs."""
    logps = [job.manifests(part)[0] for part in _logps(job.settings)]
    references = [{**m["slice"]["reference"], "dtype": m["slice"]["dtype"], "revision_of": m["models"]} for m in logps]
    return {"seed": job.settings.seed, "origins": list(job.settings.sets.origins), "references": references}


def _require_licences(job: Job) -> None:
    """Refuse to push rows of a source whose licence nobody stated."""
    sources = job.read_json(places.REPORT)["sources"]
    unknown = [f"{s['source']} ({s['prompts']} prompts)" for s in sources if s["license"] == "unknown"]
    if unknown:
        raise PublishError(
            f"no licence is stated for {', '.join(unknown)}", "publish.repo_id", "state it in sources.sources[].license"
        )


def _logps(settings: Settings) -> list[Part]:
    return [Part("logps", "score", unit) for unit in map(reference_unit, settings.score.references)]


def parts_of(settings: Settings) -> list[Part]:
    """The set, and its candidates with the splits and every drop, so that no dropped one is published."""
    made = [p for p in sets.reads_of(settings, "preference") if p.table in ("candidates", "drops")]
    return [Part("sets", "sets", "preference"), *PROMPTS, *made, Part("drops", "sets", "preference")]


def groups(settings: Settings) -> list[Group]:
    """The configs to publish and the tables of each: those of the set, the labelled answers, and of each online run those of
    all its segments."""
    made = [Group(CONFIGS, parts_of(settings))]
    if settings.sets.unpaired:
        made.append(Group(OF_LABELS, [Part("sets", "sets", UNPAIRED)]))
    for run in dict.fromkeys(s.run for s in settings.segments):
        parts = [part for segment in settings.parts(run) for part in _of_segment(settings, segment)]
        made.append(Group(of_online(run), [*PROMPTS, *parts, *prompt_drops(settings)]))
    return made


def _of_segment(settings: Settings, segment: Segment) -> list[Part]:
    recipe = recipe_of(settings, segment)
    made = [p for p in sets.reads_of(recipe, "preference") if p.table in ("candidates", "drops") and p.stage in OF_SEGMENTS]
    own = [Part("sets", "sets", "preference"), *made, Part("drops", "sets", "preference")]
    return [replace(p, unit=in_segment(p.unit, segment)) for p in own]


STAGE = Stage(
    name="publish",
    help="Write the published configs to a folder and, where repo_id is set, commit them to the Hub.",
    version=4,
    run=run,
    per="run",
    reads=lambda s, u: list(dict.fromkeys([*(p for g in groups(s) for p in g.parts), *_logps(s)])),
    reads_files=lambda s, u: [places.REPORT, places.CARD],
    writes_files=lambda s, u: [places.RECEIPT],
    folders=lambda s: [places.published(s), BUILT],
    slice=lambda s, u: {**without(s.publish, "attempts"), "origins": s.sets.origins, "seed": s.seed, **asked(s)},
)
