"""`prefdata train settings.yaml`: one training run on any set, without a recipe of one's own and without Snakemake.

The set is read, ranked and scored by the same stages as in a recipe, in this process, into <output>.work; what is there
already is not done again. A set that prefdata published is taken with its log-probs; only references it lacks are scored.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import ValidationError

from prefdata import __version__
from prefdata.draws import hex_id
from prefdata.errors import ConfigError, did_you_mean
from prefdata.models import scorer
from prefdata.models.identity import revision_of
from prefdata.models.scorer import problem
from prefdata.models.settings import ReferenceSettings
from prefdata.output import read_back
from prefdata.output.read_back import Recorded
from prefdata.progress import Progress, processors
from prefdata.recipe.read import explain, read_yaml, validate_recipe
from prefdata.recipe.results import BringUp, Results
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.units import Part, reference_unit
from prefdata.sources import readers
from prefdata.sources.shapes import SHAPES
from prefdata.tables import table_writer
from prefdata.tables.finished import ChunkStore
from train.file_settings import PUBLISHED, DataSettings, FileSettings, own_keys
from train.left_out import LeftOut, of_preparation
from train.objectives.losses import LOSSES
from train.objectives.registry import OBJECTIVES, ON_LABELS, Objective
from train.receipt import require_own
from train.resolve import validate
from train.settings import PREFERENCE, SFT, UNPAIRED, TrainingSettings
from train.version import VERSION

STAGES = ("sources", "split", "prune", "rank", "noise", "score", "sets")
CHUNK = 128


@dataclass(frozen=True)
class FileRun:
    """A validated run: its recipe, its name in there, and the published rows where they are read."""

    settings: FileSettings
    recipe: Settings
    name: str
    published: pl.DataFrame | None

    @property
    def results(self) -> Results:
        output = Path(self.settings.output).expanduser()
        return Results(self.recipe, {}, output.with_name(f"{output.name}.work"), {self.name: output})


def load(path: Path) -> FileRun:
    """Read and validate the file. Raises ConfigError with every mistake."""
    with own_keys():
        return _load(path)


def _load(path: Path) -> FileRun:
    raw = read_yaml(path)
    if "objective" not in raw:
        raise ConfigError(
            "no objective: this is no training run's file",
            str(path),
            f"for a recipe: --settings {path} --run <objective>/<variant>",
        )
    return of_settings(raw, str(path))


def of_settings(raw: dict[str, Any], place: str) -> FileRun:
    """A run of the file's keys; `place` names them in errors. Raises ConfigError with every mistake."""
    try:
        settings = FileSettings.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(explain(error, FileSettings, place, "prefdata train --keys")) from error
    if settings.objective not in OBJECTIVES:
        raise ConfigError(f"unknown objective{did_you_mean(settings.objective, OBJECTIVES)}", f"{place}: objective")
    require_own(Path(settings.output).expanduser())
    published, recorded = _published(settings)
    _require_effect(settings)
    references = _references(settings, OBJECTIVES[settings.objective], published, recorded)
    name = f"{settings.objective}/model"
    made = validate_recipe(_recipe(settings, name, references), place)
    validate(made, place)
    return FileRun(settings, made, name, published)


def _published(settings: FileSettings) -> tuple[pl.DataFrame | None, list[Recorded]]:
    if settings.data.format != PUBLISHED:
        return None, []
    if settings.data.dataset is not None:
        return read_back.read(read_back.fetch(settings.data.dataset, str(settings.data.revision)))
    return read_back.read(Path(str(settings.data.path)).expanduser())


def _references(
    settings: FileSettings, objective: Objective, published: pl.DataFrame | None, recorded: list[Recorded]
) -> list[ReferenceSettings]:
    """The references of the run, by the names they have in the set where it has them."""
    if objective.references == "none":
        return []
    if settings.reference_models is not None:
        for wanted in settings.reference_models:
            _require_as_recorded(wanted, recorded, settings.score_dtype)
        return settings.reference_models
    if recorded:  # their models need not be at hand: nothing is scored under them again
        _require_whole(published, [r.name for r in recorded])
        _require_start(settings, objective, recorded[0])
        return [_recorded(settings, r) for r in recorded]
    if settings.model is None:
        raise ConfigError("give model: it is the reference too", "model")
    own = {"template": settings.template or "chat", "end": settings.end or "eos"}
    return [ReferenceSettings.model_validate({"name": "start", "model": settings.model, "revision": settings.revision, **own})]


def _require_effect(settings: FileSettings) -> None:
    """Refuse keys that would do nothing. Raises ConfigError."""
    if settings.data.format == PUBLISHED:
        idle = sorted(settings.data.model_fields_set & {"config", "hub_split", "fields", "validation"})
        if idle:
            raise ConfigError(f"{idle[0]} has no effect on a published set", f"data.{idle[0]}", "leave it out")
    if settings.reference_models is not None and OBJECTIVES[settings.objective].references == "none":
        raise ConfigError(f"{settings.objective} compares with no reference", "reference_models", "leave them out")


def _require_whole(published: pl.DataFrame | None, names: Sequence[str]) -> None:
    """Every candidate has a log-prob under each of these. Raises ConfigError."""
    assert published is not None
    for row in published.iter_rows(named=True):
        for candidate in row["candidates"]:
            if lacking := set(names) - set(_names(candidate)):
                raise ConfigError(
                    f"candidate {candidate['candidate_id']} has no log-prob under {sorted(lacking)[0]}",
                    "data",
                    "list the references with their models under reference_models: missing log-probs are computed",
                )


def _require_start(settings: FileSettings, objective: Objective, primary: Recorded) -> None:
    """Losses that score by a copy of the start need the start to be the primary reference. Raises ConfigError; of others it is
    said, for every margin then starts far from 0."""
    if objective.references == "none" or settings.model is None:
        return
    if (now := revision_of(settings.model, settings.revision)) != primary.made_with:
        if LOSSES[objective.loss].needs != "mismatched":
            print(
                f"warning: the run starts from {settings.model} ({now}), the set's primary reference {primary.name} is "
                f"{primary.made_with}: log-ratios do not start at 0; give that model, or name reference_models",
                file=sys.stderr,
            )
            return
        raise ConfigError(
            f"{settings.objective} must start from the set's primary reference {primary.name} ({primary.made_with}), not {now}",
            "model",
            "give that model, or name reference_models",
        )


def _recorded(settings: FileSettings, facts: Recorded) -> ReferenceSettings:
    if settings.model is None:
        raise ConfigError("give model: the one to train, which was the set's primary reference", "model")
    kept = {"name": facts.name, "template": facts.template, "end": facts.end}
    return ReferenceSettings.model_validate({"model": settings.model, "revision": settings.revision, **kept})


def _require_as_recorded(wanted: ReferenceSettings, recorded: list[Recorded], dtype: str) -> None:
    """Log-probs that the set holds under this name were made as the settings say. Raises ConfigError naming the field."""
    facts = next((r for r in recorded if r.name == wanted.name), None)
    if facts is None:
        return
    pairs = [("template", wanted.template), ("end", wanted.end), ("dtype", dtype), ("max_tokens", wanted.max_tokens)]
    differing = [f"{k} {getattr(facts, k)!r}, not {v!r}" for k, v in pairs if getattr(facts, k) != v]
    if (now := revision_of(wanted.model, wanted.revision)) != facts.made_with:
        differing.append(f"model {facts.made_with}, not {now}")
    if differing:
        raise ConfigError(
            f"the set's log-probs under {wanted.name} differ from the settings: {'; '.join(differing)}",
            f"reference_models.{wanted.name}",
            "give the reference another name to have it scored, or the set's own settings",
        )


def _recipe(settings: FileSettings, name: str, references: Sequence[ReferenceSettings]) -> dict[str, Any]:
    given = settings.model_dump(mode="json", exclude_unset=True, include=set(TrainingSettings.model_fields))
    origins = settings.negatives.origins
    set_ = set_of(settings)
    run = {**({} if set_ == PREFERENCE else {"set": set_, "split": "train"}), **given}
    return {
        "name": "data",
        "seed": settings.seed or 0,
        "threads": settings.threads or _processors(),
        "dedup": None,
        "sources": {"sources": [_source(settings.data)], "max_reject_rate": settings.data.max_reject_rate},
        "split": {"train": 1 - settings.data.validation, "validation": settings.data.validation, "test": 0},
        "prune": {"drop_ranks": []},
        "noise": {"copies": int("noise" in origins or OBJECTIVES[settings.objective].negatives == "noise")},
        "score": {"references": [r.model_dump(mode="json") for r in references], "dtype": settings.score_dtype},
        "sets": {"sft_splits": ["train", "validation"], UNPAIRED: set_ == UNPAIRED},
        "train": {"runs": {name: run}},
    }


def set_of(settings: FileSettings) -> str:
    """The set that a file's run reads where it names none: labelled answers as they are, for an objective that takes them."""
    if "set" in settings.model_fields_set:
        return settings.set
    labels = settings.data.format != PUBLISHED and SHAPES[settings.data.format].labels
    if labels and settings.objective in ON_LABELS:
        return UNPAIRED
    return SFT if settings.objective == "sft" else PREFERENCE


def _source(data: DataSettings) -> dict[str, Any]:
    """As a recipe names it; a published set is not read as a source, only named on the card."""
    given = data.model_dump(mode="json", exclude={"validation", "format", "max_reject_rate"})
    return {"name": "data", **given, **({} if data.format == PUBLISHED else {"format": data.format})}


def _processors() -> int:
    """This process's share of them."""
    return max(1, processors() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def request(run: FileRun) -> str:
    """What identifies a run before anything is loaded: its settings, and what its data and local models hold."""
    settings = run.settings
    if run.published is None:
        data = readers.files_of(run.recipe.sources.sources[0])
    else:
        folder = Path(str(settings.data.path)).expanduser()
        data = [] if settings.data.path is None else sorted(p for p in folder.rglob("*") if p.suffix in (".parquet", ".json"))
    models = [settings.model, *(r.model for r in run.recipe.score.references)]
    files_ = [Path(f) for m in dict.fromkeys(models) if m is not None for f in run.results.model_files(m)]
    return hex_id(
        "request",
        settings.model_dump_json(exclude={"processes"}),
        __version__,
        VERSION,
        scorer.VERSION,
        *run.results.hashes.of([*data, *files_]),
        *([UNPAIRED] if set_of(settings) == UNPAIRED else []),
    )


def prepare(run: FileRun, bring_up: BringUp) -> LeftOut:
    """Make the set under <output>.work, as far as it is not there; what was left out of it. `bring_up` runs the data stages.

    Raises DataError where no row is left, or where too many are bad.
    """
    results, place = run.results, str(run.settings.data.path or run.settings.data.dataset)
    if run.published is None:
        with own_keys():
            bring_up(results, STAGES, readers.files_of(run.recipe.sources.sources[0]))
        left = of_preparation(results, set_of(run.settings))
        left.say()
        left.require_some(place)
        left.require_few_bad(run.settings.data.max_reject_rate, run.recipe.sources.sources[0])
        return left
    rows, left = run.published, LeftOut(run.published.height)
    for reference in run.recipe.score.references:
        rows = with_logps(rows, reference, results, left)
    left.say()
    left.require_some(place)
    for unit in ("preference", "sft"):
        table_writer.write_table(results.table(Part("sets", "sets", unit), 0), "sets", rows)
    return left


def with_logps(rows: pl.DataFrame, reference: ReferenceSettings, results: Results, left: LeftOut) -> pl.DataFrame:
    """The rows with log-probs under the reference, computed where they lack. Candidates that it cannot score are left out, and
    prompts that then have no chosen or no other one, counted in `left`."""
    listed = rows.to_dicts()
    lacking = [r for r in listed if any(reference.name not in _names(c) for c in r["candidates"])]
    if not lacking:
        return rows
    settings = results.settings.score
    reader = scorer.Scorer(results.model_path(reference.model), reference, settings.dtype, settings.batch_tokens)
    common = (
        results.revision(reference.model, reference.revision),
        settings.dtype,
        reference.template,
        reference.end,
        reference.max_tokens,
    )
    with (
        ChunkStore(results.chunks("score", reference_unit(reference))) as store,
        Progress(f"score {reference.name}", len(lacking)) as progress,
    ):
        for start in range(0, len(lacking), CHUNK):
            some = lacking[start : start + CHUNK]
            items = scorer.keyed([scorer.Item(_prompt(r), c) for r in some for c in r["candidates"]], common)
            if missing := store.missing(list(items)):
                store.put(dict(zip(missing, reader.values([items[k] for k in missing]), strict=True)))
            values = store.get(list(items))
            by_id = {(i.prompt["prompt_id"], i.candidate["candidate_id"]): values[k] for k, i in items.items()}
            for row in some:
                row["candidates"], against = _scored(row, reference.name, by_id)
                if against and not _has_pair(row):
                    left.reasons[against.partition(":")[0]] += 1
            progress.advance(len(some))
    return pl.DataFrame([r for r in listed if _has_pair(r)], schema=rows.schema)


def _has_pair(row: Mapping[str, Any]) -> bool:
    return len(row["candidates"]) > 1 and row["candidates"][0]["role"] == "chosen"


def _names(candidate: dict[str, Any]) -> list[str]:
    return [x["reference"] for x in candidate["logps"]]


def _prompt(row: dict[str, Any]) -> dict[str, Any]:
    kept = {k: row[k] for k in ("prompt_id", "tools", "template_kwargs")}
    return {**kept, "messages": row["prompt"], "extras": row["prompt_extras"]}


def _scored(
    row: dict[str, Any], name: str, values: dict[tuple[str, str], dict[str, Any]]
) -> tuple[list[dict[str, Any]], str | None]:
    """(candidates that have a log-prob, the reason against the first that has none)."""
    made, against = [], None
    for candidate in row["candidates"]:
        value = values[row["prompt_id"], candidate["candidate_id"]]
        if found := problem(value, name):
            against = against or found[0]
        else:
            others = [x for x in candidate["logps"] if x["reference"] != name]
            made.append({**candidate, "logps": [*others, {"reference": name, **value}]})
    return made, against
