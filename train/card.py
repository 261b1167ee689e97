"""The card of a trained model: what it was trained on, how, from where, and what was measured. Computed facts only."""

import json
from dataclasses import dataclass
from typing import Any

import yaml

import prefdata
from prefdata.output.escape import markdown
from prefdata.recipe.settings.whole import Settings
from train.objectives.losses import LOSSES
from train.objectives.registry import objective_of
from train.settings import UNPAIRED

Facts = dict[str, Any]
LAST = ("loss", "accuracy", "margin", "eval_loss", "eval_accuracy", "eval_margin")


@dataclass(frozen=True)
class About:
    """What the run was trained on and compared with: names of the references, (name@revision, licence, data set on the Hub) of
    the sources, and which part of an online run it is."""

    references: tuple[str, ...] = ()
    sources: tuple[tuple[str, str, str | None], ...] = ()
    online: str | None = None

    @classmethod
    def of(cls, recipe: Settings) -> "About":
        """Of the recipe that the run's set was made by: a segment's names the segment."""
        sources = tuple((s.revisioned, s.license, s.dataset) for s in recipe.sources.sources)
        made = recipe.segment
        online = f"segment {made.number} of {made.count} of {made.run}: trained on answers of {made.start}" if made else None
        return cls(tuple(f"{r.name} ({r.model})" for r in recipe.score.references), sources, online)


def text(name: str, facts: Facts, rows: list[Facts], about: About) -> str:
    """README.md of the model's folder, front matter included."""
    settings = facts["settings"]
    objective = objective_of(name.partition("/")[0], settings["set"] == UNPAIRED)
    lines = [
        f"# {markdown(name)}",
        "",
        f"A causal LM trained by prefdata {prefdata.__version__} (`prefdata train`). {markdown(objective.paper)}.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {markdown(str(value))} |" for key, value in _rows(objective, settings, facts, rows, about)),
        "",
        "## Settings",
        "",
        "All of them, defaults included; the same settings, data and start give the same losses on the same machine.",
        "",
        "```json",
        json.dumps(settings, indent=1, sort_keys=True, ensure_ascii=True),
        "```",
        "",
        "`metrics.html` has the curves, `metrics.jsonl` their numbers, `train.json` what identifies all of it.",
        "",
    ]
    return f"---\n{_front(name, settings, about)}---\n\n" + "\n".join(lines)


def _front(name: str, settings: Facts, about: About) -> str:
    """What the Hub reads. A model or set is named where it is one on the Hub, by its pinned revision."""
    front: Facts = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    front["tags"] = ["prefdata", "preference", name.partition("/")[0]]
    if settings["revision"] is not None:
        front["base_model"] = settings["model"]
    if sets := [dataset for _, _, dataset in about.sources if dataset is not None]:
        front["datasets"] = sets
    return yaml.safe_dump(front, sort_keys=True, allow_unicode=False)


def _rows(objective: Any, settings: Facts, facts: Facts, rows: list[Facts], about: About) -> list[tuple[str, Any]]:
    start = "a fresh model" if settings["init"] else f"{settings['model']} ({settings['revision'] or facts['start']})"
    last = {k: rows[-1][k] for k in LAST if rows and rows[-1].get(k) is not None}
    return [
        ("loss", LOSSES[objective.loss].formula),
        ("negatives", objective.negatives),
        ("references", ", ".join(about.references) if objective.references != "none" else "none"),
        ("started from", start),
        *([("online", about.online)] if about.online else []),
        ("data", f"{', '.join(source for source, _, _ in about.sources) or 'rows given in memory'}; rows {facts['data']}"),
        *([("labels", facts["labels"])] if facts.get("labels") else []),
        ("left out", facts["left_out"]),
        ("licences of the sources", ", ".join(sorted({licence for _, licence, _ in about.sources})) or "unknown"),
        ("optimizer steps", len(rows)),
        ("seed", facts["seed"]),
        ("last step", ", ".join(f"{k} {v:.4f}" for k, v in last.items()) or "n/a"),
        *([("best evaluation", f"step {facts['best']['step']}, in best/")] if facts["best"] else []),
    ]
