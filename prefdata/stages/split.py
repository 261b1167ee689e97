"""Stage `split`: every kept prompt gets a split, whole clusters together.

The source's split counts, a held-out member deciding for its whole cluster (stage `dedup`); else a hash of cluster_id
over the shares in the settings. Where deduplication is off every prompt is its own cluster.
"""

import polars as pl

from prefdata.draws import uniform
from prefdata.recipe.job import Job, each_part
from prefdata.recipe.settings.data import SplitSettings
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Stage, without
from prefdata.recipe.units import Part
from prefdata.stages.graph import OF_DROPPED
from prefdata.tables import schema
from prefdata.tables.views import Frames


def split(frames: Frames, job: Job) -> Frames:
    """prompts (and clusters) -> splits of the prompts that are alive."""
    settings, seed = job.settings.split, job.settings.seed
    clusters = frames.get("clusters")
    if clusters is None:
        clusters = frames["prompts"].select("prompt_id", pl.col("prompt_id").alias("cluster_id"), "source_split")
    alive = schema.alive(clusters, frames["drops"])
    drawn = [by_share(i, settings, seed) for i in alive["cluster_id"]]
    by_source = pl.coalesce(pl.col("source_split"), pl.Series(drawn, dtype=pl.Enum(schema.SPLITS)))
    return {"splits": alive.select("prompt_id", "cluster_id", by_source.alias("split"))}


def by_share(cluster_id: str, settings: SplitSettings, seed: int) -> str:
    """The split of a cluster without one of its own: where its keyed number falls among the shares."""
    number, edge = uniform(seed, "split", cluster_id), 0.0
    for name in ("sft", "validation", "test"):
        edge += float(getattr(settings, name))
        if number < edge:
            return name
    return "train"


def _reads(settings: Settings, unit: str) -> list[Part]:
    """The prompts, and the clusters they are in where duplicates are looked for."""
    if settings.dedup is None:
        return [Part("prompts", "sources"), Part("drops", "sources")]
    return [Part("prompts", "sources"), Part("clusters", "dedup"), Part("drops", "dedup"), Part("drops", "sources")]


STAGE = Stage(
    name="split",
    help="Put every prompt in sft, train, validation or test.",
    version=2,
    run=each_part(split),
    writes=("splits",),
    reads=_reads,
    columns={"prompts": ("prompt_id", "source_split"), "drops": OF_DROPPED},
    slice=lambda s, u: {**without(s.split), "seed": s.seed},
)
