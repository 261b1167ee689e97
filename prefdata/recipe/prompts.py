"""The tables that hold a recipe's prompts and what dropped some of them, and how many are left."""

import polars as pl

from prefdata.recipe.results import Results
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.units import Part
from prefdata.tables import files, schema

SPLITS = Part("splits", "split")
PROMPTS = [Part("prompts", "sources"), SPLITS]


def prompt_drops(settings: Settings) -> list[Part]:
    """What dropped whole prompts before anything was made of them."""
    stages = ["sources", *(["dedup"] if settings.dedup else []), *(["decontaminate"] if settings.decontaminate else [])]
    return [Part("drops", stage) for stage in stages]


def count(results: Results, split: str) -> int:
    """Prompts of a split before anything was made of them."""
    found = 0
    for shard in results.shards:
        splits = _read(results, SPLITS, shard).filter(pl.col("split") == split)
        drops = pl.concat([_read(results, part, shard) for part in prompt_drops(results.settings)])
        found += schema.alive(splits, drops).height
    return found


def _read(results: Results, part: Part, shard: int) -> pl.DataFrame:
    return files.read_table(results.table(part, shard), part.table)
