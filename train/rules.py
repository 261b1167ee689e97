"""What Snakemake is told of training runs: what each reads, writes and is run again for."""

import json

from prefdata.models.identity import made_here
from prefdata.recipe.results import Results
from prefdata.recipe.rule import Rule, with_contents
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
    outside = [] if made_here(start) or not start else results.model_files(start)
    return Rule(
        name=f"train_{name.replace('/', '_')}",
        inputs=results.tables([Part("sets", "sets", own.set)]) + (results.model_files(start) if made_here(start) else []),
        outputs=[*results.model_files(f"run:{name}"), *(f"{folder}/{file}" for file in BESIDE)],
        log=str(results.root / "logs" / "train" / f"{name}.log"),
        trigger=with_contents(trigger(results, name), outside, results.hashes),
        command=f"train --run {name}",
        gpus=1,
        outside=tuple(outside),
    )


def trigger(results: Results, name: str) -> str:
    """What runs a training again: its resolved settings, the seed, the references, the trainer's version."""
    own = resolve(results.settings, name).model_dump(mode="json", exclude={"checkpoint_s"})
    names = [r.name for r in results.settings.score.references]
    return json.dumps({"version": VERSION, "seed": results.settings.seed, "references": names, **own}, sort_keys=True)
