"""Which tables the configured sets need."""

from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.units import (
    Part,
    rank_units,
)
from prefdata.stages.registry import STAGES


def data_parts(settings: Settings) -> list[Part]:
    """Every table file of the data side that the configured sets need, for the report."""
    parts: list[Part] = [Part(t, "sources") for t in ("prompts", "candidates", "drops")]
    made = ("signatures", "dedup", "split", "decontaminate", "prune", "generate", "judge", "rank", "noise", "score", "sets")
    for name in made:
        stage = STAGES[name]
        for unit in needed_units(settings, name):
            parts += [Part(table, name, unit) for table in stage.writes]
    return parts


def needed_units(settings: Settings, name: str) -> list[str]:
    """The units of a stage that the preference set needs (the source's own order needs no generation or judge)."""
    stage = STAGES[name]
    judged = settings.sets.method != "source"
    if name == "generate":
        return stage.units(settings) if judged else []
    if name == "judge":
        return [u for u in stage.units(settings) if u in rank_units(settings)]
    return stage.units(settings)
