"""What Snakemake is told of training runs: what each reads, writes and is run again for."""

import json

from prefdata.recipe.results import Results
from prefdata.recipe.rule import Rule
from prefdata.recipe.units import Part
from train.resolve import resolve
from train.version import VERSION

BESIDE = ("metrics.jsonl", "metrics.png", "metrics.html", "README.md")
"""What lies beside the model."""


def rules(results: Results) -> list[Rule]:
    """A job for each run of the recipe."""
    return [_rule(results, name) for name in results.settings.train.runs]


def models(results: Results) -> list[str]:
    """The files of every trained model."""
    return [file for name in results.settings.train.runs for file in results.model_files(f"run:{name}")]


def _rule(results: Results, name: str) -> Rule:
    own = resolve(results.settings, name)
    start = (own.init.tokenizer if own.init else own.model) or ""
    folder = results.model_path(f"run:{name}")
    return Rule(
        name=f"train_{name.replace('/', '_')}",
        inputs=results.tables([Part("sets", "sets", own.set)]) + results.model_files(start),
        outputs=[*results.model_files(f"run:{name}"), *(f"{folder}/{file}" for file in BESIDE)],
        log=str(results.root / "logs" / "train" / f"{name}.log"),
        trigger=trigger(results, name),
        command=f"train --run {name}",
        gpus=1,
    )


def trigger(results: Results, name: str) -> str:
    """What runs a training again: its resolved settings, the seed, the references, the trainer's version."""
    own = resolve(results.settings, name).model_dump(mode="json", exclude={"checkpoint_s"})
    names = [r.name for r in results.settings.score.references]
    return json.dumps({"version": VERSION, "seed": results.settings.seed, "references": names, **own}, sort_keys=True)
