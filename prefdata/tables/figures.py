"""Figures of one prompt's candidate set: what the quality report shows and what `sets.filters` may limit."""

import polars as pl

FIGURES = {
    "rejected": "rejected candidates, noise left out",
    "tied": "candidates that tie with the chosen one",
    "copies": "answers merged into another because their texts are equal",
    "chosen_chars": "characters of the chosen answer",
    "length_ratio": "characters of the chosen answer over the mean of the rejected ones",
    "score_gap": "score of the chosen answer less the best rejected score (where the ranking has scores)",
    "reference_margin": "nats per token of the chosen answer less the rejected ones' mean, under the primary reference",
}


def candidates_of(sets: pl.DataFrame) -> pl.DataFrame:
    """One row a candidate of the sets: prompt_id and the candidate's fields, with `chars`, its length."""
    rows = sets.select("prompt_id", "candidates").explode("candidates").unnest("candidates")
    return rows.with_columns(pl.col("response").str.len_chars().alias("chars"))


def per_token(candidates: pl.DataFrame, place: int) -> pl.Expr:
    """Nats per token under the reference at this place of the settings; null where there is none."""
    scored = pl.col("logps").list.get(place, null_on_oob=True)
    tokens = scored.struct.field("num_tokens")
    return pl.when(tokens > 0).then(scored.struct.field("logp") / tokens)


def per_prompt(sets: pl.DataFrame) -> pl.DataFrame:
    """prompt_id and every figure of FIGURES: one row a prompt of the set, in order. Figures that cannot be are null."""
    return figures_of(candidates_of(sets))


def figures_of(rows: pl.DataFrame) -> pl.DataFrame:
    """`per_prompt` of a set's candidates, one row each."""
    rows = rows.with_columns(per_token(rows, 0).alias("_nats"))
    chosen, rejected = pl.col("role") == "chosen", (pl.col("role") == "rejected") & (pl.col("origin") != "noise")

    def first(name: str) -> pl.Expr:
        return pl.col(name).filter(chosen).first()

    return rows.group_by("prompt_id", maintain_order=True).agg(
        rejected.sum().cast(pl.Float64).alias("rejected"),
        (pl.col("role") == "other").sum().cast(pl.Float64).alias("tied"),
        (pl.col("copies") - 1).sum().cast(pl.Float64).alias("copies"),
        first("chars").cast(pl.Float64).alias("chosen_chars"),
        (first("chars") / pl.col("chars").filter(rejected).mean()).alias("length_ratio"),
        (first("score") - pl.col("score").filter(rejected).max()).alias("score_gap"),
        (first("_nats") - pl.col("_nats").filter(rejected).mean()).alias("reference_margin"),
    )
