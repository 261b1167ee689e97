"""What Snakemake is told of training runs: what each reads, writes and is run again for."""

import json
from collections.abc import Collection

from prefdata.models.identity import made_here
from prefdata.recipe import places
from prefdata.recipe.prompts import PROMPTS, prompt_drops
from prefdata.recipe.results import Results
from prefdata.recipe.rule import Rule, of_models, with_contents
from prefdata.recipe.settings.output import PublishedModel
from prefdata.recipe.units import Part
from train.data import references_of
from train.hub_models import base_of
from train.objectives.losses import LOSSES
from train.objectives.registry import objective_of
from train.resolve import of_set, resolve
from train.settings import UNPAIRED, TrainingSettings, what_identifies
from train.version import VERSION

PUSHED = 1
"""Raised when the files that a push sends change."""
BESIDE = ("metrics.jsonl", "metrics.png", "metrics.html", "README.md")
"""What lies beside the model."""


def rules(results: Results, only: Collection[str] | None = None) -> list[Rule]:
    """A job for each run of the recipe, and for each model that goes to the Hub; or those of these names."""
    made = [_rule(results, name) for name in results.settings.runs]
    made += [_push(results, model) for model in results.settings.publish.models]
    return [rule for rule in made if only is None or rule.name in only]


def models(results: Results) -> list[str]:
    """The files of every trained model."""
    return [file for name in results.settings.runs for file in results.model_files(f"run:{name}")]


def pushed(results: Results) -> list[str]:
    """Where each model that goes to the Hub says that it is there."""
    return [str(results.path(places.model_receipt(m.repo_id))) for m in results.settings.publish.models]


def _push(results: Results, model: PublishedModel) -> Rule:
    """Of a model to the Hub: after the set, and after its base where that goes there too."""
    own, settings = resolve(results.settings, model.run), results.settings
    folder, base = results.model_path(f"run:{model.run}"), base_of(settings, own)
    before = [places.model_receipt(m.repo_id) for m in settings.publish.models if m.repo_id == base]
    before += [places.RECEIPT] if settings.publish.repo_id is not None else []
    said = {"model": model.model_dump(), "base": base, "set": settings.publish.repo_id, "version": PUSHED}
    return Rule(
        name=f"publish_model_{model.repo_id.replace('/', '_')}",
        inputs=[*results.model_files(f"run:{model.run}"), f"{folder}/metrics.jsonl", *(str(results.path(b)) for b in before)],
        outputs=[str(results.path(places.model_receipt(model.repo_id)))],
        log=str(results.root / "logs" / "publish_model" / f"{model.repo_id}.log"),
        trigger=json.dumps(said, sort_keys=True),
        command=f"publish-model {model.repo_id}",
    )


def _rule(results: Results, name: str) -> Rule:
    own = resolve(results.settings, name)
    start = (own.init.tokenizer if own.init else own.model) or ""
    folder = results.model_path(f"run:{name}")
    models = dict.fromkeys(m for m in (start, _reference(results, name, own)) if m)
    outside = [f for m in models if not made_here(m) for f in results.model_files(m)]
    return Rule(
        name=f"train_{name.replace('/', '_')}",
        inputs=results.tables(_tables(results, own)) + [f for m in models if made_here(m) for f in results.model_files(m)],
        outputs=[*results.model_files(f"run:{name}"), *(f"{folder}/{file}" for file in BESIDE)],
        log=str(results.root / "logs" / "train" / f"{name}.log"),
        trigger=with_contents(trigger(results, name), outside, results.hashes),
        command=f"train --run {name}",
        needs=of_models(results.settings, [f"run:{name}"], own.processes, _copies(own), own.processes),
        outside=tuple(outside),
    )


def _copies(own: TrainingSettings) -> int:
    """How often a run holds its weights, or as much, in the memory of the machine: both moments and they for a checkpoint, in
    shards once more while they become a file; and the model that it leaves, where adapters train one of each process."""
    in_shards = own.processes > 1 and own.lora is None
    return (6 if in_shards else 3) + (own.processes if own.lora else 1)


def _reference(results: Results, name: str, own: TrainingSettings) -> str | None:
    """The primary reference, where the loss scores by it as it goes."""
    if LOSSES[objective_of(name.partition("/")[0], own.set == UNPAIRED).loss].needs != "mismatched":
        return None
    return of_set(results.settings, own.set).score.references[0].model


def _tables(results: Results, own: TrainingSettings) -> list[Part]:
    read = [Part("sets", "sets", own.set)]
    return read if of_set(results.settings, own.set).segment is None else [*read, *PROMPTS, *prompt_drops(results.settings)]


def trigger(results: Results, name: str) -> str:
    """What runs a training again: its resolved settings, the seed, the references, the trainer's version."""
    settings = resolve(results.settings, name)
    own, names = what_identifies(settings), references_of(results.settings, settings)
    return json.dumps({"version": VERSION, "seed": results.settings.seed, "reference_names": names, **own}, sort_keys=True)
