"""Stage `sets`: everything joined into one row a prompt.

`preference` holds all candidates with roles, ranks and log-probs: the chosen first, then by (rank, noise last,
candidate_id). `sft` holds prompt and chosen only. Equal texts merge into the best rank's smallest candidate_id (the
chosen keeps its own id); `copies` counts them. `unpaired` holds the labelled answers of a prompt, each for itself: a desirable
one is `chosen`, an undesirable one `rejected`; one of either kind is enough.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from prefdata.errors import DataError
from prefdata.kinds import SplitName
from prefdata.recipe.job import Job, each_part
from prefdata.recipe.prompts import PROMPTS, SPLITS
from prefdata.recipe.settings.data import LimitsSettings
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Slice, Stage, without
from prefdata.recipe.units import Part, reference_unit
from prefdata.stages.graph import UNPAIRED, noise_parts, pool, ranks_of, source_drops
from prefdata.stages.labels import agreeing
from prefdata.stages.segmented import number_of, of_segment
from prefdata.tables import schema
from prefdata.tables.drops import drops_of
from prefdata.tables.figures import per_prompt
from prefdata.tables.views import Frames, chosen, nfc

OF_CANDIDATES = (
    *("prompt_id", "candidate_id", "response", "origin", "producer", "finish", "extras"),
    *("sample", "label"),  # labelled answers go by them
)


def _nobody(job: Job, shard: int) -> bool:
    """Whether no prompt of the shard is in one of the unit's splits."""
    rows = (frames["splits"] for frames in job.parts([shard], of=[SPLITS]))
    return not any(frame["split"].is_in(splits_of(job)).any() for frame in rows)


def splits_of(job: Job) -> list[SplitName]:
    """The splits whose prompts the unit's set has."""
    return job.settings.sets.sft_splits if job.unit == "sft" else job.settings.sets.splits


def make(frames: Frames, job: Job) -> Frames:
    """The unit's set and the drops of what is not in it."""
    mine = frames["splits"].filter(pl.col("split").is_in(splits_of(job))).select("prompt_id", "split")
    alive = of_segment(schema.alive(frames["prompts"], frames["drops"]), job.settings)
    prompts = alive.join(mine, on="prompt_id", maintain_order="left")
    return labelled(prompts, frames, job) if job.unit == UNPAIRED else ranked(prompts, frames, job)


def labelled(prompts: pl.DataFrame, frames: Frames, job: Job) -> Frames:
    """The set `unpaired`: labelled answers in roles, and the drops of those that contradict themselves and of prompts without
    any."""
    alive = schema.alive(frames["candidates"], frames["drops"]).filter(pl.col("label").is_not_null())
    kept, contradicting = agreeing(alive.join(prompts, on="prompt_id", how="semi", maintain_order="left"))
    scored = _with_logps(kept, frames.get("logps"), [r.name for r in job.settings.score.references])
    rows = _nest(prompts.join(kept, on="prompt_id", how="semi", maintain_order="left"), scored)
    without_any = _reasons(prompts.join(kept, on="prompt_id", how="anti"), "unlabelled")
    whose = prompts.select("prompt_id", "source", "source_row")
    dropped = drops_of(contradicting.join(whose, on="prompt_id"), "sets", "contradictory", pl.format("label {}", "label"))
    segment = pl.lit(None, dtype=pl.Int32).alias("segment")
    return {"sets": rows.with_columns(segment), "drops": pl.concat([_drops(prompts, without_any, job.unit), dropped])}


def ranked(prompts: pl.DataFrame, frames: Frames, job: Job) -> Frames:
    """The sets of ranked answers, sft or preference, and the drops of prompts that have none."""
    settings, seed = job.settings.sets, job.settings.seed
    first = chosen(frames["ranks"], seed).rename({"candidate_id": "chosen_id"})
    mine = first.join(prompts.select("prompt_id"), on="prompt_id", how="semi")
    kept = schema.alive(frames["candidates"], frames["drops"]).join(mine, on="prompt_id", maintain_order="left")
    kept = kept.join(frames["ranks"].drop("method"), on=["prompt_id", "candidate_id"], how="left", maintain_order="left")
    kept = kept.filter(pl.col("rank").is_not_null() | (pl.col("origin") == "noise"))
    reasons = _chosen_reasons(prompts, first, kept, frames["drops"])
    if job.unit == "sft":
        merged = kept.filter(pl.col("candidate_id") == pl.col("chosen_id")).with_columns(copies=1, role=pl.lit("chosen"))
        scored = merged.with_columns(pl.lit([], dtype=schema.LOGPS).alias("logps"))
    else:
        merged = with_roles(merge(kept))
        reasons = _first_reason([reasons, _preference_reasons(prompts, kept, merged)])
        names = [r.name for r in job.settings.score.references]
        scored = _with_logps(merged.join(reasons, on="prompt_id", how="anti"), frames.get("logps"), names)
    rows = _nest(prompts.join(reasons, on="prompt_id", how="anti", maintain_order="left"), scored)
    rows = rows.with_columns(pl.lit(number_of(job.settings), dtype=pl.Int32).alias("segment"))
    if job.unit == "preference" and settings.filters:
        filtered = filtered_out(rows, settings.filters)
        rows = rows.join(filtered, on="prompt_id", how="anti", maintain_order="left")
        reasons = pl.concat([reasons, filtered])
    return {"sets": rows, "drops": _drops(prompts, reasons, job.unit)}


def filtered_out(rows: pl.DataFrame, filters: Mapping[str, LimitsSettings]) -> pl.DataFrame:
    """(prompt_id, reason filtered:<figure>) of every row outside a limit; the first figure in the settings' order counts."""
    figures = per_prompt(rows)
    outside = [_outside(name, limits).fill_null(False) for name, limits in filters.items()]
    named = [pl.when(test).then(pl.lit(f"filtered:{name}")) for test, name in zip(outside, filters, strict=True)]
    return _reasons(figures, pl.coalesce(*named)).drop_nulls("reason")


def _outside(name: str, limits: LimitsSettings) -> pl.Expr:
    figure, never = pl.col(name), pl.lit(False)
    low = figure < limits.min if limits.min is not None else never
    high = figure > limits.max if limits.max is not None else never
    return low | high


def _reasons(rows: pl.DataFrame, reason: str | pl.Expr) -> pl.DataFrame:
    """(prompt_id, reason, detail: what is behind it, where that is known)."""
    detail = pl.col("detail") if "detail" in rows.columns else pl.lit(None, dtype=pl.String).alias("detail")
    return rows.select("prompt_id", (pl.lit(reason) if isinstance(reason, str) else reason).alias("reason"), detail)


def _chosen_reasons(prompts: pl.DataFrame, first: pl.DataFrame, kept: pl.DataFrame, drops: pl.DataFrame) -> pl.DataFrame:
    """Prompts without a chosen: none was ranked, or y_0 was dropped later (the next one never moves up), and why."""
    unranked = prompts.join(first, on="prompt_id", how="anti")
    alive = kept.select("prompt_id", "candidate_id", "chosen_id").filter(pl.col("candidate_id") == pl.col("chosen_id"))
    dropped = prompts.join(first, on="prompt_id", how="semi").join(alive, on="prompt_id", how="anti")
    own = drops.filter(pl.col("scope") == "candidate").unique(["prompt_id", "candidate_id"], keep="first", maintain_order=True)
    causes = own.select("prompt_id", pl.col("candidate_id").alias("chosen_id"), pl.col("reason").alias("detail"))
    dropped = dropped.join(first, on="prompt_id").join(causes, on=["prompt_id", "chosen_id"], how="left", maintain_order="left")
    return pl.concat([_reasons(unranked, "unranked"), _reasons(dropped, "chosen_dropped")])


def _preference_reasons(prompts: pl.DataFrame, kept: pl.DataFrame, merged: pl.DataFrame) -> pl.DataFrame:
    """Prompts without a pair: one candidate (need_2), only equal texts (identical), only ties (no_preference)."""
    real = kept.select("prompt_id", "origin").filter(pl.col("origin") != "noise").group_by("prompt_id").len("real")
    after = (
        merged.select("prompt_id", "origin", "role")
        .filter(pl.col("origin") != "noise")
        .group_by("prompt_id")
        .agg(pl.len().alias("texts"), (pl.col("role") == "rejected").sum().alias("rejected"))
    )
    counts = prompts.select("prompt_id").join(real, on="prompt_id", how="left").join(after, on="prompt_id", how="left")
    counts = counts.with_columns(pl.col("real", "texts", "rejected").fill_null(0))
    reason = (
        pl.when(pl.col("real") < 2)
        .then(pl.lit("need_2"))
        .when(pl.col("texts") < 2)
        .then(pl.lit("identical"))
        .when(pl.col("rejected") == 0)
        .then(pl.lit("no_preference"))
    )
    return _reasons(counts, reason).drop_nulls("reason")


def _first_reason(reasons: Sequence[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(reasons).unique("prompt_id", keep="first", maintain_order=True)


def merge(kept: pl.DataFrame) -> pl.DataFrame:
    """One row a (prompt, text after NFC, tool calls and the like): the chosen, else the best rank's smallest candidate_id,
    noise last."""
    best = (pl.col("candidate_id") != pl.col("chosen_id")).alias("_later")
    ordered = kept.with_columns(best, nfc(kept["response"]).alias("_text")).sort(
        "prompt_id", "_later", "rank", "candidate_id", nulls_last=True, maintain_order=True
    )
    same = ("prompt_id", "_text", "extras")
    first = pl.all().exclude(same).first()
    merged = ordered.group_by(same, maintain_order=True).agg(first, pl.len().cast(pl.Int32).alias("copies"))
    return merged.select(*kept.columns, "copies")


def with_roles(merged: pl.DataFrame) -> pl.DataFrame:
    """chosen = y_0; other = ties with it, never trained on; rejected = the rest, noise included."""
    role = (
        pl.when(pl.col("candidate_id") == pl.col("chosen_id"))
        .then(pl.lit("chosen"))
        .when(pl.col("rank") == 1)
        .then(pl.lit("other"))
        .otherwise(pl.lit("rejected"))
    )
    return merged.with_columns(role.alias("role"))


def _with_logps(candidates: pl.DataFrame, logps: pl.DataFrame | None, names: list[str]) -> pl.DataFrame:
    """Attach each candidate's log-probs in the settings' order of references; each must have exactly these."""
    if not names:
        return candidates.with_columns(pl.lit([], dtype=schema.LOGPS).alias("logps"))
    order = pl.Enum(names)
    nested = (
        logps.with_columns(pl.col("reference").cast(order).alias("_order"))  # type: ignore[union-attr]
        .sort("prompt_id", "candidate_id", "_order")
        .group_by("prompt_id", "candidate_id", maintain_order=True)
        .agg(pl.struct("reference", "logp", "num_tokens").alias("logps"))
    )
    joined = candidates.join(nested, on=["prompt_id", "candidate_id"], how="left", maintain_order="left")
    lacking = joined.filter(pl.col("logps").list.len().fill_null(0) != len(names))
    if lacking.height:
        row = lacking.row(0, named=True)
        has = [x["reference"] for x in row["logps"] or []]
        raise DataError(
            f"it has log-probs under {has}, but the settings name the references {names}",
            f"candidate {row['candidate_id']} of prompt {row['prompt_id']}",
            "run the score stage for every reference",
        )
    return joined


def _nest(prompts: pl.DataFrame, candidates: pl.DataFrame) -> pl.DataFrame:
    """One row a prompt with its candidates in order."""
    fields = list(schema.SET_CANDIDATE.to_schema())
    rows = (
        candidates.with_columns(pl.col("role").cast(pl.String))
        .with_columns((pl.col("role") != "chosen").alias("_later"))
        .sort("prompt_id", "_later", "rank", "candidate_id", nulls_last=True)
        .group_by("prompt_id", maintain_order=True)
        .agg(pl.struct(fields).cast(schema.SET_CANDIDATE).alias("candidates"))
    )
    renamed = [pl.col("messages").alias("prompt"), pl.col("extras").alias("prompt_extras")]
    named = prompts.select("prompt_id", "split", "tools", "template_kwargs", "source", *renamed)
    return named.join(rows, on="prompt_id", maintain_order="left")


def _drops(prompts: pl.DataFrame, reasons: pl.DataFrame, unit: str) -> pl.DataFrame:
    return drops_of(prompts.join(reasons, on="prompt_id"), "sets", detail=pl.col("detail").fill_null(pl.lit(unit)))


def reads_of(settings: Settings, unit: str) -> list[Part]:
    """What a set is joined of."""
    if unit == "sft":
        return [*PROMPTS, *pool(settings, settings.sets.sft_method), ranks_of(settings, settings.sets.sft_method)]
    method = settings.sets.method
    parts = [*PROMPTS, *pool(settings, method), *noise_parts(settings), ranks_of(settings, method)]
    if unit == UNPAIRED:
        parts = [*PROMPTS, Part("candidates", "sources"), *source_drops(settings)]  # nobody else labels
    for each in map(reference_unit, settings.score.references):
        parts += [Part("logps", "score", each), Part("drops", "score", each)]
    return parts


def _slice(settings: Settings, unit: str) -> Slice:
    if unit == "sft":
        return {**without(settings.sets, "method", "splits", "origins", "filters", UNPAIRED), "seed": settings.seed}
    names = [r.name for r in settings.score.references]
    if unit == UNPAIRED:
        return {"splits": settings.sets.splits, "references": names}
    return {**without(settings.sets, "sft_method", "sft_splits", UNPAIRED), "seed": settings.seed, "references": names}


def _units(settings: Settings) -> list[str]:
    if settings.segment:
        return ["preference"]
    return ["sft", "preference", *([UNPAIRED] if settings.sets.unpaired else [])]


STAGE = Stage(
    name="sets",
    help="Join everything into the SFT set, the preference set and, where asked for, the set of labelled answers.",
    version=2,
    run=each_part(make, nothing=_nobody),
    writes=("sets", "drops"),
    units=_units,
    reads=reads_of,
    columns={"candidates": OF_CANDIDATES},
    slice=_slice,
)
