"""Stage `publish`: the published configs to a folder and, where repo_id is set, to the Hub."""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from prefdata.draws import hex_id
from prefdata.errors import PublishError
from prefdata.models.identity import public_name
from prefdata.output import delta, gates, published_configs, published_files
from prefdata.output.card import card_files, card_header
from prefdata.output.delta import SCRIPT
from prefdata.output.explore import document
from prefdata.output.hub.commit import Facts, Wanted, plan, publish
from prefdata.output.hub.hub import Hub
from prefdata.output.hub.manifest import CARD, MANIFEST, PAGE, stored_of
from prefdata.output.hub.targets import Folder, Target
from prefdata.output.published_configs import OF_LABELS, Config, of_online
from prefdata.output.published_files import Group
from prefdata.recipe import places
from prefdata.recipe.job import Job
from prefdata.recipe.prompts import PROMPTS, prompt_drops
from prefdata.recipe.settings.online import Segment
from prefdata.recipe.settings.segments import recipe_of
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Stage, without
from prefdata.recipe.units import Part, in_segment, method_unit, reference_unit
from prefdata.shipped import shipped
from prefdata.stages import sets
from prefdata.stages.graph import UNPAIRED, asked
from prefdata.stages.segmented import OF_SEGMENTS
from prefdata.tables import atomic

BUILT = "publish/.built"
"""Where the files are made before they are put in their place."""


def run(job: Job) -> None:
    """Publish everywhere the settings say and write publish/receipt.json."""
    settings, receipt = job.settings.publish, dict[str, Any]()
    with _wanted(job) as wanted:
        for name, target in _targets(job).items():
            done = publish(target, wanted, settings.attempts)
            print(done.told(), file=sys.stderr)
            receipt[name] = done.facts()
        receipt["files"] = wanted.hashes
    job.write_json(places.RECEIPT, receipt)


def foretell(job: Job) -> None:
    """Say what publishing would change, and change nothing."""
    with _wanted(job) as wanted:
        for name, target in _targets(job).items():
            print(plan(target, wanted).foretold(name))


@contextmanager
def _wanted(job: Job) -> Iterator[Wanted]:
    """The files of the set, built in the stage's own folder for as long as they are wanted."""
    built = job.own_folder(BUILT)
    try:
        shutil.rmtree(built, ignore_errors=True)
        made = published_files.build(job, groups(job.settings), built)
        hashes = {path: file.digest for path, file in made.items()}
        _require_rows(job, hashes)
        hashes |= more_files(job, built)
        text = card_files.filled(job.input(places.CARD).read_text(encoding="utf-8"), built, made)
        text, facts = card_header.with_files(text, made), identity(job)
        texts = {CARD: text, MANIFEST: json.dumps(facts, ensure_ascii=False)}
        texts |= {PAGE: document.held(built / PAGE)} if PAGE in hashes else {}
        gates.check(job.settings, job.read_json(places.REPORT)["sources"], built, texts, [built.parents[1], Path.cwd()])
        yield Wanted(built, hashes, text, facts)
    finally:
        atomic.remove_folder(built)


def _targets(job: Job) -> dict[str, Target]:
    """The folder and, where repo_id is set, the Hub."""
    targets: dict[str, Target] = {"folder": Folder(job.own_folder(places.published(job.settings)))}
    if (repo_id := job.settings.publish.repo_id) is not None:
        targets[repo_id] = Hub(job.settings.publish)
    return targets


def more_files(job: Job, built: Path) -> dict[str, str]:
    """Files beside the data files that the recipe asks for, put where those are: their hashes by name."""
    asked = job.settings.publish
    made = _script(built) if asked.delta else {}
    if asked.page:
        page = job.input(places.PAGE)
        atomic.atomic_write(built / PAGE, partial(shutil.copyfile, page))
        made |= {PAGE: str(stored_of(page).sha256)}
    return made


def _script(built: Path) -> dict[str, str]:
    """The script that joins the texts to a delta, written beside the data files; its hash by its name."""
    text = (shipped("cards") / SCRIPT).read_text(encoding="utf-8")
    atomic.atomic_text(built / SCRIPT, text)
    return {SCRIPT: hex_id(text)}


def _require_rows(job: Job, hashes: dict[str, str]) -> None:
    """Refuse to replace what is published by nothing; a recipe whose prompts only online runs answer has no other set, and
    one of labelled answers may have no pair."""
    online = job.settings.segments and not job.settings.answered_once
    report = job.read_json(places.REPORT)
    if hashes and (online or report["prompts"] or report.get("labels")):
        return
    dropped = sum((Counter(e["drops"]) for e in report["stages"]), Counter[str]()).most_common(3)
    said = ", ".join(f"{n} {reason}" for reason, n in dropped) or "no rows came in"
    raise PublishError(
        f"the preference set is empty ({said})",
        "sets/preference",
        f"look at {job.input(places.REPORT).parent}: what was dropped, why",
    )


def identity(job: Job) -> Facts:
    """What a reader of the published set needs to know to use its log-probs and its pairs."""
    logps = [job.manifests(part)[0] for part in _logps(job.settings)]
    references = [{**_public(m["slice"]["reference"], m["models"]), "dtype": m["slice"]["dtype"]} for m in logps]
    extra = delta.facts(job.settings) if job.settings.publish.delta else {}
    return {"seed": job.settings.seed, "origins": list(job.settings.sets.origins), "references": references, **extra}


def _public(reference: dict[str, Any], revisions: dict[str, str]) -> dict[str, Any]:
    """A reference without the place where its model lies."""
    named = {public_name(ref): revision for ref, revision in revisions.items()}
    return {**reference, "model": public_name(reference["model"]), "revision_of": named}


def _logps(settings: Settings) -> list[Part]:
    return [Part("logps", "score", unit) for unit in map(reference_unit, settings.score.references)]


def parts_of(settings: Settings) -> list[Part]:
    """The set, and its candidates with the splits and every drop, so that no dropped one is published."""
    made = [p for p in sets.reads_of(settings, "preference") if p.table in ("candidates", "drops")]
    return [Part("sets", "sets", "preference"), *PROMPTS, *made, Part("drops", "sets", "preference")]


def groups(settings: Settings) -> list[Group]:
    """The configs to publish and the tables of each: those of the set, of the SFT set, of what was dropped, of the labelled
    answers, and of each online run those of all its segments."""
    wanted = published_configs.wanted(settings)
    parts = {"preference": _parts_of_set, "sft": _parts_of_sft, "drops": _parts_of_drops}
    made = []
    for of, its_parts in parts.items():
        if own := {name: config for name, config in wanted.items() if config.of == of}:
            made.append(Group(own, its_parts(settings, list(own.values()))))
    if settings.sets.unpaired:
        made.append(Group(OF_LABELS, [Part("sets", "sets", UNPAIRED)]))
    for run in dict.fromkeys(s.run for s in settings.segments):
        made.append(Group(of_online(run), _parts_of_run(settings, run)))
    return made


def _parts_of_set(settings: Settings, configs: Sequence[Config]) -> list[Part]:
    read = {table for config in configs for table in config.reads}
    parts = parts_of(settings) if read else parts_of(settings)[:1]
    methods = dict.fromkeys([settings.sets.method, settings.sets.sft_method])
    parts += [Part("verdicts", "judge", method_unit(settings, m)) for m in methods if m != "source" and "verdicts" in read]
    return parts + (_logps(settings) if "logps" in read else [])


def _parts_of_sft(settings: Settings, configs: Sequence[Config]) -> list[Part]:
    return [Part("sets", "sets", "sft")]


def _parts_of_drops(settings: Settings, configs: Sequence[Config]) -> list[Part]:
    """Prompts lead: a part of them comes with the drops up to its last, those without a prompt among the first."""
    return [PROMPTS[0], *(p for p in parts_of(settings) if p.table == "drops")]


def _parts_of_run(settings: Settings, run: str) -> list[Part]:
    parts = [part for segment in settings.parts(run) for part in _of_segment(settings, segment)]
    return [*PROMPTS, *parts, *prompt_drops(settings)]


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
    foretell=foretell,
    reads=lambda s, u: list(dict.fromkeys([*(p for g in groups(s) for p in g.parts), *_logps(s)])),
    columns={"prompts": ("prompt_id",), "splits": ("prompt_id",)},
    reads_files=lambda s, u: [places.REPORT, places.CARD, *([places.PAGE] if s.publish.page else [])],
    writes_files=lambda s, u: [places.RECEIPT],
    folders=lambda s: [places.published(s), BUILT],
    slice=lambda s, u: {
        **without(s.publish, "attempts", "timeout_s", "models"),
        "origins": s.sets.origins,
        "seed": s.seed,
        **asked(s),
    },
)
