"""What several stages ask of the tables, as pure functions of frames."""

from collections.abc import Sequence
from functools import partial
from typing import Any
from unicodedata import is_normalized

import polars as pl

from prefdata.draws import FIRST, NEGATIVE, choose, gumbels
from prefdata.tables import schema

Frames = dict[str, pl.DataFrame]


def prompts_of(frames: Frames, splits: Sequence[str]) -> pl.DataFrame:
    """The prompts that are alive and in one of the splits."""
    alive = schema.alive(frames["prompts"], frames["drops"])
    return alive.join(frames["splits"].filter(pl.col("split").is_in(list(splits))), on="prompt_id", how="semi")


def chosen(ranks: pl.DataFrame, seed: int) -> pl.DataFrame:
    """y_0 of every ranked prompt, whatever is dropped later: prompt_id, candidate_id."""
    best = ranks.filter(pl.col("rank") == 1).group_by("prompt_id", maintain_order=True).agg("candidate_id")
    # most prompts have one best answer: only ties need a draw
    drawn = [ids[0] if len(ids) == 1 else choose(seed, "chosen", ids) for ids in best["candidate_id"].to_list()]
    return best.select("prompt_id", pl.Series("candidate_id", drawn, dtype=pl.String))


def nfc(texts: pl.Series) -> pl.Series:
    """The texts after NFC; those that are so already, nearly all, are only looked at, and ASCII ones not even that."""
    foreign = (texts.str.len_bytes() != texts.str.len_chars()).arg_true()
    other = foreign.filter(~texts.gather(foreign).map_elements(_is_nfc, return_dtype=pl.Boolean))
    return texts.scatter(other, texts.gather(other).str.normalize("NFC")) if other.len() else texts


_is_nfc = partial(is_normalized, "NFC")


def fixed_pair(candidates: Sequence[dict[str, Any]], origins: Sequence[str]) -> tuple[int, int] | None:
    """Indices of the chosen and of the one rejected candidate that DPO trains on and `preference` publishes.

    A draw among the rejected candidates of the pool's origins, keyed by them alone: a property of the set, whoever reads it
    and whatever the seed of a run. None where the pool is empty.
    """
    pool = {c["candidate_id"]: i for i, c in enumerate(candidates) if c["role"] == "rejected" and c["origin"] in origins}
    if not pool:
        return None
    return 0, pool[choose(None, NEGATIVE, sorted(pool), index=FIRST)]


def fixed_pairs(rows: pl.DataFrame, origins: Sequence[str]) -> pl.DataFrame:
    """`fixed_pair` of every prompt of a set at once: prompt_id, and of the rejected answer id, text, model and score; no row
    where the pool is empty."""
    pool = rows.select("prompt_id", "candidates").explode("candidates").unnest("candidates")
    pool = pool.filter((pl.col("role") == "rejected") & pl.col("origin").is_in(origins))
    noise = pl.Series("_noise", gumbels(None, NEGATIVE, pool["candidate_id"], index=FIRST), dtype=pl.Float64)
    best = pool.with_columns(noise).filter(pl.col("_noise") == pl.col("_noise").max().over("prompt_id"))
    first = best.sort("prompt_id", "candidate_id").unique("prompt_id", keep="first")
    return first.select(
        "prompt_id",
        pl.col("candidate_id").alias("rejected_id"),
        pl.col("response").alias("_rejected"),
        pl.col("extras").alias("_rejected_extras"),
        pl.col("producer").alias("rejected_model"),
        pl.col("score").alias("score_rejected"),
    )
