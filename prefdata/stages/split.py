"""Stage `split`: every kept prompt gets a split, whole clusters together.

The source's split counts, a held-out member deciding for its whole cluster (stage `dedup`); else a hash of cluster_id
over the shares in the settings. Where deduplication is off every prompt is its own cluster.
"""

from itertools import accumulate

import numpy as np
import polars as pl

from prefdata.draws import uniforms
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
    by_source = pl.coalesce(pl.col("source_split"), by_share(alive["cluster_id"], settings, seed))
    return {"splits": alive.select("prompt_id", "cluster_id", by_source.alias("split"))}


def by_share(cluster_ids: pl.Series, settings: SplitSettings, seed: int) -> pl.Series:
    """The split of clusters without one of their own: where each one's keyed number falls among the shares."""
    names = ("sft", "validation", "test", "train")
    edges = list(accumulate(float(getattr(settings, name)) for name in names[:3]))
    places = np.searchsorted(edges, uniforms(seed, "split", cluster_ids), side="right")
    return pl.Series("split", np.array(names)[places], dtype=pl.Enum(schema.SPLITS))


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
