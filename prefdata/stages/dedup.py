"""Stage `dedup`: exact and near-duplicate prompts, by the signatures of their words.

It gathers all shards. It joins prompts with
equal words, and prompts that share a band of their signatures and are estimated similar enough, into clusters. Of a
cluster one prompt stays: the source's test rows first, then the order of the sources, then the smallest prompt_id. A
cluster with a member that its source holds out is held out whole, so that no near copy of a test prompt is trained on.
"""

from collections.abc import Iterator, Sequence
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
HELD_OUT = ("test", "validation")


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
    rows, parts = [], []
    for frames in job.parts():
        frame = frames["signatures"]
        parts.append(frame["signature"].explode().to_numpy().reshape(frame.height, settings.permutations))
        rows.append(frame.drop("signature"))
    return pl.concat(rows), np.concatenate(parts)


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
        for group in _groups(keys):
            self._pairs.append(np.stack([np.full(len(group) - 1, group[0]), group[1:]], axis=1))

    def join_similar(self, band: Signatures, matrix: Signatures, threshold: float) -> None:
        """Join rows that agree in a band and in at least `threshold` of the whole signature (the Jaccard estimate).

        Within a group each row is compared with the rows that opened a cluster of their own there, so that one common
        phrase does not make the work quadratic in the copies of one text.
        """
        found, twos = list[tuple[int, int]](), list[npt.NDArray[np.int64]]()
        for group in _groups(_numbered(band)):
            if len(group) == 2:  # most are
                twos.append(group)
                continue
            leaders: list[int] = []
            for row in group:
                similar = np.mean(matrix[leaders] == matrix[row], axis=1) >= threshold
                if similar.any():
                    found += [(leaders[int(place)], int(row)) for place in np.flatnonzero(similar)]
                else:
                    leaders.append(int(row))
        self._pairs.append(np.array(found, np.int64).reshape(-1, 2))
        both = np.array(twos, np.int64).reshape(-1, 2)
        self._pairs.append(both[np.mean(matrix[both[:, 0]] == matrix[both[:, 1]], axis=1) >= threshold])


def _groups(keys: npt.NDArray[Any]) -> Iterator[npt.NDArray[np.int64]]:
    """Row numbers of equal keys, groups of two and more, rows in order."""
    order = np.argsort(keys, kind="stable")
    edges = np.flatnonzero(np.diff(keys[order], prepend=-1))  # keys are numbers from 0
    counts = np.diff(edges, append=len(keys))
    for start, count in zip(edges[counts > 1], counts[counts > 1], strict=True):
        yield order[start : start + count]


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
    reads=lambda s, u: [Part("signatures", "signatures")],
    slice=lambda s, u: {**without(s.dedup), "sources": [x.revisioned for x in s.sources.sources]} if s.dedup else {},
)
