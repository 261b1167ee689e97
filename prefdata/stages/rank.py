"""Stage `rank`: ranks by one method, the source's own order or a judge's verdicts.

Rank 1 is best; ranks are dense and ties share. Champion and knock-out give the winner 1 and all others 2. y_0, the chosen, is
fixed here: a keyed draw among those at rank 1, a pure function of the ranks (`chosen`), which later drops never change.
"""

from collections.abc import Sequence

import polars as pl

from prefdata.judging.procedures import PROCEDURES
from prefdata.judging.procedures.verdicts import Rank, contenders, settled
from prefdata.judging.registry import KINDS
from prefdata.recipe.job import Job, each_part
from prefdata.recipe.prompts import PROMPTS
from prefdata.recipe.settings.judging import JudgeSettings
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Slice, Stage
from prefdata.recipe.units import Part, judge_settings, method, method_unit
from prefdata.stages.graph import OF_DROPPED, pool
from prefdata.tables import schema
from prefdata.tables.views import Frames


def rank(frames: Frames, job: Job) -> Frames:
    """candidates (+ verdicts of the unit's judge) -> ranks of the unit's method."""
    kept = schema.alive(frames["candidates"], frames["drops"])
    name = method(job.settings, job.unit)
    if name == "source":
        made = by_source(kept)
    else:
        own = judge_settings(job.settings, job.unit)
        by = by_verdicts if KINDS[own.kind].compares else by_scores
        made = by(kept, frames["verdicts"], own, job.settings.seed)
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


def by_verdicts(candidates: pl.DataFrame, verdicts: pl.DataFrame, settings: JudgeSettings, seed: int) -> pl.DataFrame:
    """Ranks of each judged prompt by the judge's procedure.

    A prompt without any winner (ties, inconsistencies, missing verdicts) has all at 1: no preference, never a random one. A
    lone candidate, which nobody needs to judge, is 1. Answers that the length limit cut stand behind all others, unless they
    were judged too.
    """
    by_prompt = verdicts.partition_by("prompt_id", as_dict=True)
    procedure, made = PROCEDURES[settings.procedure], list[dict[str, object]]()
    for (prompt,), group in candidates.group_by("prompt_id", maintain_order=True):
        compared = contenders(group, settings.truncated)["candidate_id"].to_list()
        if (prompt,) not in by_prompt and len(compared) > 1:
            continue
        known = settled(by_prompt.get((prompt,), verdicts.clear()))
        ranks = procedure.ranks(str(prompt), compared, known, seed) if compared else []
        behind = sorted(set(group["candidate_id"]) - set(compared))
        made += [{"prompt_id": prompt, **vars(r)} for r in [*ranks, *_behind(ranks, behind)]]
    return _frame(made)


def _behind(ranks: Sequence[Rank], cut: Sequence[str]) -> list[Rank]:
    """Cut answers: behind the others; among the losers where the others have a winner and losers only. Where nobody won, all
    share the first place: a cut answer makes no preference among equals."""
    places = {r.rank for r in ranks}
    undecided = not ranks or (len(ranks) > 1 and places == {1})
    only_winner = len(ranks) > 1 and ranks[0].score is None
    last = 1 if undecided else 2 if only_winner else max(places) + 1
    return [Rank(c, last) for c in cut]


def by_scores(candidates: pl.DataFrame, verdicts: pl.DataFrame, settings: JudgeSettings, seed: int) -> pl.DataFrame:
    """Dense ranks by a pointwise judge's scores, higher is better; equal scores share. An unscored candidate has no rank; one
    that the length limit cut stands behind the scored ones, unless it was scored too."""
    scores = verdicts.filter(pl.col("score").is_not_null()).select("prompt_id", pl.col("a").alias("candidate_id"), "score")
    scored = candidates.join(scores, on=["prompt_id", "candidate_id"], maintain_order="left")
    ranked = scored.select(
        "prompt_id",
        "candidate_id",
        pl.col("score").rank("dense", descending=True).over("prompt_id").cast(pl.Int32).alias("rank"),
        "score",
        pl.lit(None, dtype=pl.Float64).alias("win_prob"),
    )
    if settings.truncated == "judged":
        return ranked
    worst = ranked.group_by("prompt_id").agg((pl.col("rank").max() + 1).alias("rank"))
    cut = candidates.filter(pl.col("finish") == "length").select("prompt_id", "candidate_id").join(worst, on="prompt_id")
    return pl.concat([ranked, cut], how="diagonal")


def _frame(rows: Sequence[dict[str, object]]) -> pl.DataFrame:
    columns = {"prompt_id": pl.String, "candidate_id": pl.String, "rank": pl.Int32, "score": pl.Float64, "win_prob": pl.Float64}
    return pl.DataFrame(list(rows), schema=columns)


def _units(settings: Settings) -> list[str]:
    return list(dict.fromkeys(method_unit(settings, m) for m in (settings.sets.sft_method, settings.sets.method)))


def _reads(settings: Settings, unit: str) -> list[Part]:
    parts = [*PROMPTS, *pool(settings, method(settings, unit))]
    return parts if unit == "source" else [*parts, Part("verdicts", "judge", unit)]


def _slice(settings: Settings, unit: str) -> Slice:
    own = None if unit == "source" else judge_settings(settings, unit)
    how = {} if own is None else {"procedure": own.procedure, "truncated": own.truncated, "kind": own.kind}
    return {"method": method(settings, unit), "seed": settings.seed, **how}


STAGE = Stage(
    name="rank",
    help="Turn the source's order or a judge's verdicts into ranks.",
    version=2,
    run=each_part(rank),
    writes=("ranks",),
    units=_units,
    reads=_reads,
    columns={
        "prompts": ("prompt_id",),
        "candidates": ("prompt_id", "candidate_id", "finish", "source_rank", "source_score"),
        "drops": OF_DROPPED,
    },
    slice=_slice,
)
