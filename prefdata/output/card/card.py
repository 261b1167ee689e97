"""Stage `card`: the data set card, computed facts only.

Holes are filled in one pass, so no value is ever read as a template; every value from data or settings is escaped.
"""

import re
from collections.abc import Sequence
from typing import Any

import yaml

from prefdata import __version__
from prefdata.output import segments
from prefdata.output.card import card_making, card_models, card_quality, card_use
from prefdata.output.card.card_files import COLUMNS_HERE, CONFIGS_HERE
from prefdata.output.card.card_header import header
from prefdata.output.card.card_keys import described
from prefdata.output.escape import markdown
from prefdata.output.markdown import rows_of, table
from prefdata.output.published_configs import CONFIGS, names
from prefdata.recipe.settings.whole import Settings
from prefdata.shipped import shipped
from prefdata.tables.schema import READ_SPLITS

Facts = dict[str, Any]


def render(settings: Settings, facts: Facts, quality: Facts, ranking: str, online: Sequence[Facts] = ()) -> str:
    """The whole card: YAML header, then the filled template. `ranking`: what made the set's ranks; `online`: facts of each
    segment of each online run. Publishing fills in what its files tell (prefdata/output/card/card_files.py)."""
    splits = [s for s in READ_SPLITS if facts["prompts"].get(s)]
    made = _made(settings, facts)
    front = _header(settings, facts, splits)
    holes = {
        "title": markdown(settings.card.title),
        "description": markdown(settings.card.description),
        "summary": card_quality.summary(settings, facts, quality),
        "snippets": card_use.snippets(settings, made),
        "configs_table": "Configs: " + ", ".join(f"`{c}`" for c in made) + ".",
        "config_rows": CONFIGS_HERE,
        "not_published": _not_published(made, facts),
        "splits_table": rows_of([(s, facts["prompts"][s], facts["candidates"][s]) for s in splits]),
        "labels": _labels(facts.get("labels")),
        "sources_table": card_making.sources(settings, facts),
        "preparing": card_making.preparing(settings, facts),
        "generation": card_models.generation(facts, quality),
        "noise": card_making.noise(settings, facts),
        "judging": card_models.judging(facts, ranking if facts["prompts"] else "by the judges of the online runs, below"),
        "references": card_models.references(facts),
        "sets": card_making.sets(settings, facts),
        "online": segments.section(online, rows_of),
        "verdict": card_quality.verdict(quality, facts["warnings"]),
        **card_quality.holes(facts, quality),
        "column_tables": COLUMNS_HERE,
        "known_limits": card_quality.known_limits(settings, facts),
        "licence": card_use.licence(settings, facts, front),
        "citation": card_use.citation(settings),
        "version": __version__,
    }
    filled = re.sub(r"\{(\w+)\}", lambda m: holes.get(m[1], m[0]), _template("dataset.md"))
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=False)}---\n{filled}"


def _header(settings: Settings, facts: Facts, splits: list[str]) -> Facts:
    """The YAML header's keys."""
    licences = {s["license"] for s in facts["sources"]}
    shared = licences.pop() if len(licences) == 1 and licences != {"unknown"} else "other"
    of_labels = [labels["split"] for labels in facts.get("labels", ())]
    known: Facts = yaml.safe_load(header(settings, splits, shared, of_labels))
    configs = known.pop("configs")
    return {**known, **described(settings, facts, known["license"]), "configs": configs}


def _made(settings: Settings, facts: Facts) -> list[str]:
    """The configs that have rows: a recipe whose prompts only online runs answer has no set but theirs."""
    return [c for c in names(settings) if facts["prompts"] or c not in CONFIGS]


def _not_published(made: Sequence[str], facts: Facts) -> str:
    """What the set was made of and is not here."""
    demonstrations = next((s["prompts"] for s in facts["splits"] if s["split"] == "sft"), 0)
    parts = {
        "verdicts": "the judges' verdicts (their figures are below)" if facts["judges"] else None,
        "drops": "the removed rows themselves",
        "sft": f"{demonstrations} demonstrations of the SFT split" if demonstrations else None,
    }
    lacking = [what for config, what in parts.items() if what and config not in made]
    return f"Not published: {', '.join(lacking)}." if lacking else ""


def _template(name: str) -> str:
    """A template of cards/."""
    return (shipped("cards") / name).read_text(encoding="utf-8")


def _labels(labels: Sequence[Facts] | None) -> str:
    """The section on labelled answers, where the recipe makes their set."""
    if labels is None:
        return ""
    rows = [(each["split"], each["desirable"], each["undesirable"]) for each in labels]
    what = "`unpaired` has one row a labelled answer (`label` true: desirable); a prompt may have answers of one kind alone"
    return f"{what}:\n\n{table(('split', 'desirable', 'undesirable'), rows)}\n\n"
