"""Stage `card`: the data set card, computed facts only.

Holes are filled in one pass, so no value is ever read as a template; every value from data or settings is escaped.
"""

import re
from collections.abc import Sequence
from typing import Any

from prefdata import __version__
from prefdata.output import segments
from prefdata.output.card_header import header
from prefdata.output.escape import markdown
from prefdata.output.published_files import CONFIGS, names
from prefdata.recipe.settings.whole import Settings
from prefdata.shipped import shipped

PRODUCER_COLUMNS = ("producer", "made", "in the set", "chosen")
QUANTILES = ("p5", "p50", "p95")
Facts = dict[str, Any]


def render(settings: Settings, facts: Facts, quality: Facts, ranking: str, online: Sequence[Facts] = ()) -> str:
    """The whole card: YAML header, then the filled template. `ranking`: what made the set's ranks; `online`: facts of each
    segment of each online run."""
    template = _template("dataset.md")
    splits = [s for s in ("train", "validation", "test", "sft") if facts["prompts"].get(s)]
    drops = [(e["stage"], reason, n) for e in facts["stages"] for reason, n in e["drops"].items()]
    holes = {
        "title": markdown(settings.card.title),
        "description": markdown(settings.card.description),
        "configs_table": "Configs: " + ", ".join(f"`{c}`" for c in _made(settings, facts)) + ".",
        "splits_table": _rows([(s, facts["prompts"][s], facts["candidates"][s]) for s in splits]),
        "sources_table": _rows([(s["source"], s["license"], s["prompts"]) for s in facts["sources"]]),
        "drops_table": _rows(drops),
        "warnings": "".join(f"- {markdown(w)}.\n" for w in facts["warnings"]) + ("\n" if facts["warnings"] else ""),
        "ranks_table": _rows([(what, n) for what, n in quality["source_ranks"].items()], 2),
        "producers_table": _rows([tuple(p[c] for c in PRODUCER_COLUMNS) for p in quality["producers"]], 4),
        "agreement_table": _rows([(a["one"], a["other"], _share(a["agree"]), a["pairs"]) for a in quality["agreement"]], 4),
        "figures_table": _rows([(f["what"], *(_number(f.get(k)) for k in QUANTILES)) for f in quality["figures"]], 4),
        "look_table": _rows(list(quality["degenerate"].items()), 2),
        "noise_table": _rows(
            [(n["reference"], n["n"], _number(n["mean_nats"]), _share(n["noise_likelier"])) for n in quality["noise"]], 4
        ),
        "method": markdown(ranking if facts["prompts"] else "by the judges of the online runs, below"),
        "labels": _labels(facts.get("labels")),
        "references": markdown(", ".join(f"{r.name} ({r.template}, end {r.end})" for r in settings.score.references) or "none"),
        "online": segments.section(online, _rows),
        "version": __version__,
    }
    filled = re.sub(r"\{(\w+)\}", lambda m: holes.get(m[1], m[0]), template)
    licences = {s["license"] for s in facts["sources"]}
    shared = licences.pop() if len(licences) == 1 and licences != {"unknown"} else "other"
    of_labels = [labels["split"] for labels in facts.get("labels", ())]
    return f"---\n{header(settings, splits, shared, of_labels)}---\n{filled}"


def _made(settings: Settings, facts: Facts) -> list[str]:
    """The configs that have rows: a recipe whose prompts only online runs answer has no set but theirs."""
    return [c for c in names(settings) if facts["prompts"] or c not in CONFIGS]


def _template(name: str) -> str:
    """A template of cards/."""
    return (shipped("cards") / name).read_text(encoding="utf-8")


def _rows(rows: list[tuple[Any, ...]], columns: int = 3) -> str:
    return "\n".join("| " + " | ".join(markdown(str(v)) for v in row) + " |" for row in rows) or "|" + " |" * columns


def _labels(labels: Sequence[Facts] | None) -> str:
    """The section on labelled answers, where the recipe makes their set."""
    if labels is None:
        return ""
    rows = _rows([(each["split"], each["desirable"], each["undesirable"]) for each in labels])
    what = "`unpaired` has one row a labelled answer (`label` true: desirable); a prompt may have answers of one kind alone"
    return f"{what}:\n\n| split | desirable | undesirable |\n|---|---|---|\n{rows}\n\n"


def _share(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"
