"""Stage `dedup`: exact and near-duplicate prompts, by the signatures of their words.

It gathers all shards. It joins prompts with
equal words, and prompts that share a band of their signatures and are estimated similar enough, into clusters. Of a
cluster one prompt stays: the source's test rows first, then the order of the sources, then the smallest prompt_id. A
cluster with a member that its source holds out is held out whole, so that no near copy of a test prompt is trained on.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from prefdata.progress import Progress
from prefdata.recipe.job import Job
from prefdata.recipe.settings.data import DedupSettings
from prefdata.recipe.stage import Stage, without
from prefdata.recipe.units import Part
from prefdata.tables import schema
from prefdata.tables.drops import drops_of

Signatures = npt.NDArray[np.uint32]
SIGNATURES = Part("signatures", "signatures")
HELD_OUT = ("test", "validation")
TOGETHER = 2**14
"""Pairs of signatures compared at once."""


def run(job: Job) -> None:
    """Join all shards' prompts into clusters; write clusters and drops, shard by shard."""
    settings = job.settings.dedup or DedupSettings()
    rows, matrix = _gather(job, settings)
    clusters = Clusters(rows.height)
    clusters.join_equal(rows["exact"].cast(pl.Categorical).to_physical().to_numpy())
    with Progress("dedup bands", settings.bands) as progress:
        for band in np.split(matrix, settings.bands, axis=1):
            clusters.join_similar(band, matrix, settings.threshold)
            progress.advance()
    order = [s.revisioned for s in job.settings.sources.sources]
    made = decide(rows.drop("exact").with_columns(cluster=clusters.numbers()), order)
    for shard in job.shards:
        with job.writers(shard) as writers:
            first, behind = (made["prompt_id"].search_sorted(schema.first_of(s, job.num_shards)) for s in (shard, shard + 1))
            mine = made.slice(first, behind - first)
            job.write(writers, {"clusters": mine.select("prompt_id", "cluster_id", "source_split"), "drops": _drops(mine)})


def _gather(job: Job, settings: DedupSettings) -> tuple[pl.DataFrame, Signatures]:
    """All rows without their signatures, and the signatures [prompts, permutations]."""
    count = sum(manifest["rows"] for manifest in job.manifests(SIGNATURES))
    rows, matrix, done = list[pl.DataFrame](), np.empty((count, settings.permutations), np.uint32), 0
    for frames in job.parts():
        frame = frames["signatures"]
        matrix[done : done + frame.height] = frame["signature"].explode().to_numpy().reshape(frame.height, -1)
        rows.append(frame.drop("signature"))
        done += frame.height
    return pl.concat(rows), matrix


class Clusters:
    """Row numbers joined in pairs; what is joined, directly or through others, is one cluster."""

    def __init__(self, size: int) -> None:
        self._size, self._pairs = size, [np.empty((0, 2), np.int64)]

    def numbers(self) -> pl.Series:
        """The number of each row's cluster."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        ones, others = np.concatenate(self._pairs).T
        joined = coo_array((np.ones(len(ones)), (ones, others)), shape=(self._size, self._size))
        return pl.Series(connected_components(joined, directed=False)[1], dtype=pl.Int64)

    def join_equal(self, keys: npt.NDArray[Any]) -> None:
        """Join rows with equal keys."""
        rows, groups = _in_groups(keys)
        firsts = rows[np.unique(groups, return_index=True)[1]][groups]
        self._pairs.append(np.stack([firsts, rows], axis=1))

    def join_similar(self, band: Signatures, matrix: Signatures, threshold: float) -> None:
        """Join rows that agree in a band and in at least `threshold` of the whole signature (the Jaccard estimate).

        Within a group each row is compared with the rows that opened a cluster of their own there, so that one common
        phrase does not make the work quadratic in the copies of one text.
        """
        rows, groups = _in_groups(_numbered(band))
        pending = np.ones(len(rows), np.bool_)  # neither opened a cluster nor are like one
        while pending.any():
            places = np.flatnonzero(pending)
            opened, first = np.unique(groups[places], return_index=True)
            leader = np.full(groups[-1] + 1, len(rows))
            leader[opened] = places[first]  # of each group the first that is left
            later = np.flatnonzero(np.arange(len(rows)) > leader[groups])
            leaders = rows[leader[groups[later]]]
            rows, groups = rows[later], groups[later]
            alike = _similar(matrix, leaders, rows, threshold)
            self._pairs.append(np.stack([leaders, rows], axis=1)[alike])
            pending = pending[later] & ~alike


def _similar(
    matrix: Signatures, ones: npt.NDArray[np.int64], others: npt.NDArray[np.int64], threshold: float
) -> npt.NDArray[np.bool_]:
    """Whether the signatures of each two rows are; few at a time, for they are copied."""
    made = [
        np.mean(matrix[ones[i : i + TOGETHER]] == matrix[others[i : i + TOGETHER]], axis=1) >= threshold
        for i in range(0, len(ones), TOGETHER)
    ]
    return np.concatenate(made) if made else np.empty(0, np.bool_)


def _in_groups(keys: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The rows whose key others have too, group after group, each in order; and the number of each one's group, from 0.

    Keys are numbers from 0.
    """
    order = np.argsort(keys, kind="stable")
    edges = np.flatnonzero(np.diff(keys[order].astype(np.int64), prepend=-1))
    counts = np.diff(edges, append=len(keys))
    several = counts > 1
    return order[np.repeat(several, counts)], np.repeat(np.arange(several.sum()), counts[several])


def _numbered(band: Signatures) -> npt.NDArray[np.int64]:
    """A number for each row of the band, from 0; equal ones for equal rows alone."""
    order = np.lexsort(band.T)
    new = np.any(np.diff(band[order], axis=0, prepend=band[order][:1]) != 0, axis=1)
    numbers = np.empty(len(band), np.int64)
    numbers[order] = np.cumsum(new)
    return numbers


def decide(rows: pl.DataFrame, sources: Sequence[str]) -> pl.DataFrame:
    """Rows (prompt_id, source, source_split, cluster) with cluster_id, the cluster's source_split and who is `kept`."""
    split = pl.col("source_split").cast(pl.String)
    held = {name: (split == name).fill_null(False).any().over("cluster") for name in HELD_OUT}
    ranked = rows.with_columns(
        pl.col("prompt_id").min().over("cluster").alias("cluster_id"),
        pl.col("source").replace_strict({s: i for i, s in enumerate(sources)}, return_dtype=pl.Int64).alias("_order"),
        split.replace_strict({"test": 0, "validation": 1}, default=2, return_dtype=pl.Int64).alias("_held"),
    ).sort("cluster", "_held", "_order", "prompt_id")
    kept = pl.col("prompt_id").first().over("cluster")
    return (
        ranked.with_columns(
            kept.alias("kept"),
            pl.when(held["test"])
            .then(pl.lit("test"))
            .when(held["validation"])
            .then(pl.lit("validation"))
            .otherwise(split.first().over("cluster"))
            .cast(pl.Enum(schema.SPLITS))
            .alias("source_split"),
        )
        .select("prompt_id", "cluster_id", "source_split", "source", "kept")
        .sort("prompt_id")
    )


def _drops(rows: pl.DataFrame) -> pl.DataFrame:
    others = rows.filter(pl.col("prompt_id") != pl.col("kept"))
    return drops_of(others, "dedup", "duplicate", pl.format("of {}", "kept"))


STAGE = Stage(
    name="dedup",
    help="Find exact and near-duplicate prompts over all shards; one of each cluster stays.",
    version=1,
    run=run,
    per="run",
    writes=("clusters", "drops"),
    units=lambda s: ["all"] if s.dedup else [],
    reads=lambda s, u: [SIGNATURES],
    slice=lambda s, u: {**without(s.dedup), "sources": [x.revisioned for x in s.sources.sources]} if s.dedup else {},
)
