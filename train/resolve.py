"""The settings of a recipe's training runs, with what depends on the rest of the recipe filled in and checked."""

from collections.abc import Collection
from typing import Any

from pydantic import ValidationError

from prefdata.errors import ConfigError, did_you_mean
from prefdata.recipe.read import explain
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.units import split_unit
from train import hub_models
from train.mistakes import given, mistakes
from train.objectives.losses import LOSSES
from train.objectives.registry import OBJECTIVES, objective_of
from train.settings import PREFERENCE, SFT, UNPAIRED, TrainingSettings, with_defaults


def resolve(settings: Settings, name: str, where: str = "settings") -> TrainingSettings:
    """The validated settings of one run with what depends on the rest of the recipe filled in.

    Raises ConfigError with every mistake: unknown keys and objectives, templates unlike the primary reference's, a
    run without a model to start from.
    """
    key = f"{where}: train.runs.{name}"
    objective = name.partition("/")[0]
    if objective not in OBJECTIVES:
        raise ConfigError(f"unknown objective{did_you_mean(objective, OBJECTIVES)}", key)
    try:
        run = TrainingSettings.model_validate(settings.runs[name])
    except ValidationError as error:
        raise ConfigError(explain(error, TrainingSettings, key, "prefdata train --keys")) from error
    filled = _fill(settings, run, objective, key)
    _check(settings, filled, objective, key, given(run))
    return filled


def _fill(settings: Settings, run: TrainingSettings, objective: str, key: str) -> TrainingSettings:
    references = of_set(settings, run.set).score.references
    primary = references[0] if references else None
    own = {r.model: r for r in references}.get(f"run:{key.rpartition('runs.')[2]}") or primary
    row = objective_of(objective, run.set == UNPAIRED)
    update: dict[str, Any] = {
        "template": run.template or (own.template if own else "chat"),
        "end": run.end or (own.end if own else "eos"),
    }
    if run.continue_from is not None:
        update["model"] = f"run:{run.continue_from}"
    elif run.model is None and run.init is None and primary is not None:
        update |= {"model": primary.model, "revision": primary.revision}
    if run.steps is None and run.epochs is None:
        update["epochs"] = 1
    if run.split is None and run.set != SFT:
        update["split"] = "train"
    return with_defaults(run.model_copy(update=update), row)


def _check(settings: Settings, run: TrainingSettings, objective: str, key: str, given: Collection[str]) -> None:
    row, references = objective_of(objective, run.set == UNPAIRED), of_set(settings, run.set).score.references
    problems = []
    if run.set == UNPAIRED and not settings.sets.unpaired:
        problems.append(f"{key}: the recipe makes no set unpaired: sets: {{unpaired: true}}")
    elif run.set not in (known := [SFT, PREFERENCE, UNPAIRED, *(s.set for s in settings.segments)]):
        problems.append(f"{key}: set {run.set} is no set of the recipe{did_you_mean(run.set, known)}")
    if run.model is None and run.init is None:
        problems.append(f"{key}: no model to start from: give model, init, or score.references")
    if run.model is not None and run.model.startswith("run:") and run.model[4:] not in settings.runs:
        problems.append(f"{key}: model {run.model} is no run{did_you_mean(run.model[4:], settings.runs)}")
    problems += _continued(settings, run, key)
    problems += [f"{key}: {p}" for p in mistakes(run, objective, [r.name for r in references], given)]
    if row.references != "none" and not references:
        problems.append(f"{key}: {objective} needs the log-probs of references: give score.references")
    if run.references.weights.startswith("validation") and "validation" not in settings.sets.splits:
        problems.append(f"{key}: references.weights {run.references.weights} needs split validation in sets.splits")
    need = LOSSES[row.loss].needs
    first = _first_start(settings, run)
    if need == "mismatched" and references and first != (references[0].model, references[0].revision):
        problems.append(
            f"{key}: {objective} scores other prompts' answers as it goes, by a copy of its start: "
            f"start from the primary reference {references[0].model}"
        )
    if row.negatives != "none" and run.set == SFT:
        problems.append(f"{key}: {objective} needs rejected candidates, sets/sft has none: set: preference")
    if row.references != "none" and references and (run.template, run.end) != (references[0].template, references[0].end):
        problems.append(f"{key}: template and end must be those of the primary reference {references[0].name}")
    if problems:
        raise ConfigError(problems)


def of_set(settings: Settings, name: str) -> Settings:
    """The recipe that a set is made by: the whole one, or a segment's."""
    return split_unit(settings, name)[0]


def _first_start(settings: Settings, run: TrainingSettings) -> tuple[str | None, str | None]:
    """What a run started from; of a part of an online run, what its first part did, where the reference stays that."""
    parts = [s for s in settings.segments if s.set == run.set]
    if parts and settings.online is not None and settings.online.reference == "initial":
        first = settings.parts(parts[0].run)[0]
        return first.start, first.revision
    return run.model, run.revision


def _continued(settings: Settings, run: TrainingSettings, key: str) -> list[str]:
    """What is wrong with the run that this one continues from."""
    before = run.continue_from
    if before is None or before not in settings.runs:  # an unknown name is reported as an unknown model
        return []
    if not settings.runs[before].get("keep_optimizer"):
        return [f"{key}: {before} keeps no optimizer to go on with: keep_optimizer: true there"]
    if (settings.runs[before].get("lora") is None) != (run.lora is None):
        return [f"{key}: {before} and this run must both train adapters or both all weights"]
    return [f"{key}: adapters are merged when a run ends, and cannot be continued"] if run.lora else []


def validate(settings: Settings, where: str = "settings") -> dict[str, TrainingSettings]:
    """Every run of the recipe; all mistakes of all runs together."""
    runs, problems = {}, []
    for name in settings.runs:
        try:
            runs[name] = resolve(settings, name, where)
        except ConfigError as error:
            problems += str(error).splitlines()
    problems += hub_models.problems(settings, runs)
    if problems:
        raise ConfigError(problems)
    return runs
