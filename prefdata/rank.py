"""Stage `rank`: ranks by one method, the source's own order or a judge's verdicts.

Rank 1 is best; ranks are dense and ties share. Champion gives the winner 1 and all others 2. y_0, the chosen, is fixed
here: a keyed draw among those at rank 1, a pure function of the ranks (`chosen`), which later drops never change.
"""

import polars as pl

from prefdata import champion, tables
from prefdata.draws import choose
from prefdata.parts import method
from prefdata.run import Frames, Job

STAGE_VERSION = 1


def rank(frames: Frames, job: Job) -> Frames:
    """candidates (+ verdicts of the unit's judge) -> ranks of the unit's method."""
    kept = tables.alive(frames["candidates"], frames["drops"])
    name = method(job.settings, job.unit)
    made = by_source(kept) if name == "source" else by_verdicts(kept, frames["verdicts"], job.settings.seed)
    return {"ranks": made.with_columns(pl.lit(name).alias("method"))}


def by_source(candidates: pl.DataFrame) -> pl.DataFrame:
    """Dense ranks of the source's ranks, else of its scores (higher is better): averages and gaps become 1, 2, 3."""
    place = pl.coalesce("source_rank", -pl.col("source_score"))
    return candidates.filter(place.is_not_null()).select(
        "prompt_id",
        "candidate_id",
        place.rank("dense").over("prompt_id").cast(pl.Int32).alias("rank"),
        pl.col("source_score").alias("score"),
        pl.lit(None, dtype=pl.Float64).alias("win_prob"),
    )


def by_verdicts(candidates: pl.DataFrame, verdicts: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Champion ranks: replay the comparisons of each judged prompt; the last champion is 1, all others are 2.

    A prompt without any winner (ties, inconsistencies, missing verdicts) has all at 1: no preference, never a random
    one. A lone candidate, which nobody needs to judge, is 1.
    win_prob is null: champion comparisons do not estimate it.
    """
    asked = verdicts.partition_by("prompt_id", as_dict=True)
    known = pl.col("prompt_id").is_in(verdicts["prompt_id"].unique().to_list())
    judged = candidates.filter(known | (pl.len().over("prompt_id") == 1))
    winners: list[str] = []
    for (prompt,), group in judged.group_by("prompt_id", maintain_order=True):
        outcomes = champion.outcomes(asked.get((prompt,), verdicts.clear()))
        winners += champion.replay(str(prompt), group["candidate_id"].to_list(), outcomes, seed)
    return judged.select(
        "prompt_id",
        "candidate_id",
        pl.when(pl.col("candidate_id").is_in(winners)).then(1).otherwise(2).cast(pl.Int32).alias("rank"),
        pl.lit(None, dtype=pl.Float64).alias("score"),
        pl.lit(None, dtype=pl.Float64).alias("win_prob"),
    )


def chosen(ranks: pl.DataFrame, seed: int) -> pl.DataFrame:
    """y_0 of every ranked prompt, whatever is dropped later: prompt_id, candidate_id."""
    best = ranks.filter(pl.col("rank") == 1).group_by("prompt_id", maintain_order=True).agg("candidate_id")
    # most prompts have one best answer: only ties need a draw
    drawn = [ids[0] if len(ids) == 1 else choose(seed, "chosen", ids) for ids in best["candidate_id"].to_list()]
    return best.select("prompt_id", pl.Series("candidate_id", drawn, dtype=pl.String))
