"""Labelled answers as candidates of the set `unpaired`: pure functions of frames."""

import polars as pl

from prefdata.tables.views import nfc

TEXT = ("prompt_id", "_text", "extras")
"""What makes two answers one: prompt, text after NFC, tool calls and the like."""


def agreeing(candidates: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(one row a text with its role, the answers whose text has both labels), of candidates that all have a label.

    Equal answers merge into the first sample, then the smallest candidate_id; `copies` counts them. A label is no rank: rank,
    score and win_prob are null.
    """
    texts = candidates.with_columns(nfc(candidates["response"]).alias("_text"))
    both = pl.col("label").min().over(TEXT) != pl.col("label").max().over(TEXT)
    texts = texts.with_columns(both.alias("_both"), pl.len().over(TEXT).cast(pl.Int32).alias("copies"))
    kept = (
        texts.filter(~pl.col("_both"))
        .sort("prompt_id", "sample", "candidate_id")
        .unique(TEXT, keep="first", maintain_order=True)
    )
    role = pl.when(pl.col("label")).then(pl.lit("chosen")).otherwise(pl.lit("rejected")).alias("role")
    no_rank = pl.lit(None, dtype=pl.Int32).alias("rank")
    no_score = [pl.lit(None, dtype=pl.Float64).alias(name) for name in ("score", "win_prob")]
    return kept.with_columns(role, no_rank, *no_score), texts.filter("_both")
