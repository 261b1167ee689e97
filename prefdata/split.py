"""Stage `split`: every kept prompt gets a split, whole clusters together.

Without deduplication every prompt is its own cluster. The source's split counts; else a hash of cluster_id over the
shares in the settings.
"""

import polars as pl

from prefdata import tables
from prefdata.draws import uniform
from prefdata.run import Frames, Job
from prefdata.settings import SplitSettings

STAGE_VERSION = 1


def split(frames: Frames, job: Job) -> Frames:
    """prompts -> splits, drops (none here: duplicates of a cluster are dropped once clusters have members)."""
    settings, seed = job.settings.split, job.settings.seed
    prompts = frames["prompts"]
    drawn = [by_share(i, settings, seed) for i in prompts["prompt_id"]]
    return {
        "splits": prompts.select(
            "prompt_id",
            pl.col("prompt_id").alias("cluster_id"),
            pl.coalesce(pl.col("source_split"), pl.Series(drawn, dtype=pl.Enum(tables.SPLITS))).alias("split"),
        ),
        "drops": tables.TABLES["drops"].empty(),
    }


def by_share(cluster_id: str, settings: SplitSettings, seed: int) -> str:
    """The split of a cluster without one of its own: where its keyed number falls among the shares."""
    number, edge = uniform(seed, "split", cluster_id), 0.0
    for name in ("sft", "validation", "test"):
        edge += float(getattr(settings, name))
        if number < edge:
            return name
    return "train"
