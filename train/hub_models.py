"""Which trained models go to the Hub: what is wrong with publish.models, and where a model's base lies there."""

from collections.abc import Mapping

from prefdata.errors import did_you_mean
from prefdata.models.identity import is_local, is_path
from prefdata.recipe.settings.output import PublishedModel
from prefdata.recipe.settings.whole import Settings
from train.settings import TrainingSettings


def base_of(settings: Settings, run: TrainingSettings) -> str | None:
    """The model that a run started from as the Hub knows it: itself, or the repository that its run's last weights go to; None
    where it is nowhere there, or the run started from a fresh one."""
    if run.model is None:
        return None
    if run.model.startswith("run:"):
        pushed = {m.run: m.repo_id for m in settings.publish.models if m.weights == "last"}
        return pushed.get(run.model.removeprefix("run:"))
    return None if is_path(run.model) or is_local(run.model) else run.model


def problems(settings: Settings, runs: Mapping[str, TrainingSettings]) -> list[str]:
    """One line a mistake in publish.models; `runs`: the resolved ones by name."""
    found = []
    for model in settings.publish.models:
        key = f"publish.models ({model.repo_id})"
        if model.run not in settings.runs:
            found.append(f"{key}: {model.run} is no run{did_you_mean(model.run, settings.runs)}")
        elif model.run in runs:  # another is wrong itself, which is said of it
            found += [f"{key}: {problem}" for problem in _of(settings, model, runs[model.run])]
    return found


def _of(settings: Settings, model: PublishedModel, run: TrainingSettings) -> list[str]:
    found = []
    if model.weights == "best" and run.evaluation.every is None:
        found.append(f"{model.run} keeps no best weights: train.runs.{model.run}.evaluation.every, or weights: last")
    if model.weights == "adapter" and run.lora is None:
        found.append(f"{model.run} trains no adapter: train.runs.{model.run}.lora, or weights: last")
    elif model.weights == "adapter" and base_of(settings, run) is None:
        found.append(
            f"an adapter needs its base on the Hub, and {run.model} is not there: push that too, by its run and weights: last, "
            "or this one merged (weights: last)"
        )
    return found
