"""Stage `prune`: drop positions of the source's own order, the MC-PO paper's "drop rank 2" and its quality ablation."""

import polars as pl

from prefdata.draws import gumbels
from prefdata.recipe.job import Job, each_part
from prefdata.recipe.prompts import PROMPTS, prompt_drops
from prefdata.recipe.stage import Stage, without
from prefdata.recipe.units import Part
from prefdata.stages.graph import OF_DROPPED, asked
from prefdata.tables import schema
from prefdata.tables.drops import drops_of
from prefdata.tables.views import Frames


def prune(frames: Frames, job: Job) -> Frames:
    """candidates -> drops of scope candidate, reason pruned_rank.

    The order is the source's (ties broken by a keyed draw), over the candidates not dropped before. Candidates without a
    source rank are in no order and stay; so do prompts of other splits, and labelled candidates where the set `unpaired` is
    made, for a label is no position.
    """
    settings = job.settings.prune
    mine = frames["splits"].filter(pl.col("split").is_in(settings.splits))
    kept = schema.alive(frames["candidates"], frames["drops"]).filter(pl.col("source_rank").is_not_null())
    kept = kept.join(mine, on="prompt_id", how="semi", maintain_order="left")
    if job.settings.sets.unpaired:
        kept = kept.filter(pl.col("label").is_null())
    dropped = positions(kept, job.settings.seed).filter(pl.col("position").is_in(settings.drop_ranks))
    sources = frames["prompts"].select("prompt_id", "source", "source_row")
    return {
        "drops": drops_of(
            dropped.join(sources, on="prompt_id"),
            "prune",
            "pruned_rank",
            pl.format("position {}, source_rank {}", "position", "source_rank"),
        )
    }


def positions(candidates: pl.DataFrame, seed: int) -> pl.DataFrame:
    """`candidates` with `position` (1 best) in the source's order; equal ranks are ordered by a keyed draw."""
    tied = candidates.filter(pl.len().over("prompt_id", "source_rank") > 1).select("prompt_id", "candidate_id")
    noise = tied.with_columns(pl.Series("_tie", gumbels(seed, "prune", tied["candidate_id"]), dtype=pl.Float64))
    return (
        candidates.join(noise, on=["prompt_id", "candidate_id"], how="left", maintain_order="left")
        .sort("prompt_id", "source_rank", "_tie")
        .with_columns(pl.int_range(1, pl.len() + 1).over("prompt_id").cast(pl.Int32).alias("position"))
        .drop("_tie")
    )


STAGE = Stage(
    name="prune",
    help="Drop ranks of the source's own order.",
    version=2,
    run=each_part(prune),
    writes=("drops",),
    reads=lambda s, u: [*PROMPTS, Part("candidates", "sources"), *prompt_drops(s)],
    columns={
        "prompts": ("prompt_id", "source", "source_row"),
        "candidates": ("prompt_id", "candidate_id", "source_rank", "label"),
        "drops": OF_DROPPED,
    },
    slice=lambda s, u: {**without(s.prune), "seed": s.seed, **asked(s)},
)
