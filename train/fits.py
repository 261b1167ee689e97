"""Whether a recipe's training runs fit their GPUs: the count of train/memory.py for each, in words."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from prefdata.errors import ConfigError
from prefdata.models.loading import load_config
from prefdata.recipe.settings.whole import Settings
from train.memory import GIB, Peak, Rows, peak
from train.objectives.registry import objective_of
from train.resolve import validate
from train.settings import UNPAIRED, TrainingSettings, with_defaults

UNCOUNTED = 0.1
"""Of a GPU: kernels' own work, NCCL, the CUDA context, fragmentation."""


@dataclass(frozen=True)
class Machine:
    """GPUs that train together, and the memory of each."""

    gpus: int
    gib: float


def told(recipe: Settings, rows: Rows, machine: Machine) -> Iterator[str]:
    """One line a run; runs whose steps are alike are counted once. Raises ConfigError where a model's config is not there."""
    known: dict[str, Peak] = {}
    runs = validate(recipe)
    for name, run in runs.items():
        if (start := _start(runs, run)) is None:
            yield f"{name}: a fresh model, not counted"
            continue
        objective = objective_of(name.partition("/")[0], run.set == UNPAIRED)
        settings = with_defaults(run, objective)
        of_rows = rows if objective.negatives != "none" else Rows(rows.prompt, rows.completion, 1)
        key = json.dumps([start, objective.negatives, *(str(getattr(settings, k)) for k in _OF_A_STEP)])
        if key not in known:
            known[key] = peak(load_config(*start), objective, settings, of_rows, machine.gpus)
        yield f"{name}: {_verdict(known[key], settings, machine)}"


_OF_A_STEP = ("negatives", "micro_tokens", "precision", "checkpoint_activations", "lora")


def _start(runs: dict[str, TrainingSettings], run: TrainingSettings) -> tuple[str, str | None] | None:
    """Model and revision whose shape the run's is; None for one that is made afresh."""
    while run.model is not None and run.model.startswith("run:"):
        if run.model.removeprefix("run:") not in runs:
            raise ConfigError(f"{run.model} is no run of this recipe", "train.runs", "correct the name")
        run = runs[run.model.removeprefix("run:")]
    return None if run.init is not None or run.model is None else (run.model, run.revision)


def _verdict(found: Peak, settings: TrainingSettings, machine: Machine) -> str:
    held = f"{found.most / GIB:.1f} GiB at most on each of {machine.gpus}, in the {found.when}; "
    held += f"{found.between / GIB:.1f} between steps"
    if found.most / GIB <= machine.gib * (1 - UNCOUNTED):
        return held
    return (
        f"{held}: too much for {machine.gib:g} GiB, of which a tenth is not counted. The run would end with "
        f'"out of memory with forwards of {settings.micro_tokens} tokens": lower micro_tokens, set checkpoint_activations: '
        "true, or take more GPUs"
    )
