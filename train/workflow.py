"""What the Snakefile needs of train: what a run reads, writes and is re-run for."""

import json

from prefdata.recipe.results import Run
from prefdata.recipe.units import Part
from train.settings import resolve
from train.version import VERSION


def rule_name(name: str) -> str:
    """A rule's name for a run <objective>/<variant>."""
    return f"train_{name.replace('/', '_')}"


def inputs(run: Run, name: str) -> list[str]:
    """The run's set, and what its policy starts from."""
    wanted = resolve(run.settings, name)
    start = (wanted.init.tokenizer if wanted.init else wanted.model) or ""
    return run.files([Part("sets", "sets", wanted.set)]) + run.model_files(start)


def outputs(run: Run, name: str) -> list[str]:
    """The model, its card and its curves."""
    folder = run.model_path(f"run:{name}")
    return [
        *run.model_files(f"run:{name}"),
        *(f"{folder}/{file}" for file in ("metrics.jsonl", "metrics.png", "metrics.html", "README.md")),
    ]


def trigger(run: Run, name: str) -> str:
    """What re-runs a training: its resolved settings, the seed, the references, the trainer's version."""
    own = resolve(run.settings, name).model_dump(mode="json", exclude={"checkpoint_s"})
    names = [r.name for r in run.settings.score.references]
    return json.dumps({"version": VERSION, "seed": run.settings.seed, "references": names, **own}, sort_keys=True)
