"""A delta: a set published without the texts of its sources, and how the texts come back.

What is published are ids, roles, ranks, scores, log-probs, and the answers that the recipe's own models wrote. Ids are hashes
of what they name, so that whoever reads the same sources finds the same ids beside the texts (cards/join.py).
"""

import json
from pathlib import Path
from typing import Any

import polars as pl

from prefdata.recipe.settings.whole import Settings
from prefdata.tables import schema
from prefdata.tables.views import Frames

SCRIPT = "join.py"
KEY = "delta"
"""In manifest.json: what the script needs to read the sources as the recipe did."""
OF_PROMPT = ("prompt", "tools", "template_kwargs", "prompt_extras")
SAYING = {"sets": OF_PROMPT, "verdicts": ("reason", "raw"), "drops": ("detail",)}
"""Columns, by table, that hold texts of sources or quote them."""
OF_ANSWER = ("response", "extras", "raw")
"""Columns of a candidate that do, where no model of the recipe wrote it."""


def without_texts(frames: Frames) -> Frames:
    """The tables with null in the place of every text that a source may have."""
    return {name: _without(name, frame) for name, frame in frames.items()}


def _without(table: str, rows: pl.DataFrame) -> pl.DataFrame:
    rows = rows.with_columns(pl.lit(None, rows.schema[c]).alias(c) for c in SAYING.get(table, ()))
    if table == "candidates":
        return rows.with_columns(_own_words(pl.col(c), pl.col("origin")) for c in OF_ANSWER)
    if table == "sets":
        own = pl.element().struct
        answers = [_own_words(own.field(c), own.field("origin")).alias(c) for c in OF_ANSWER if c != "raw"]
        return rows.with_columns(pl.col("candidates").list.eval(own.with_fields(answers)))
    return rows


def _own_words(text: pl.Expr, origin: pl.Expr) -> pl.Expr:
    return pl.when(origin.cast(pl.String) == "generated").then(text)


def facts(settings: Settings) -> dict[str, Any]:
    """How the sources are read, without the places where files lie, and the configs that are made when the texts are joined."""
    sources = settings.sources.model_dump(mode="json")
    for source in sources["sources"]:
        del source["path"]
    return {KEY: {"sources": sources, "configs": settings.publish.configs}}


def is_one(folder: Path) -> bool:
    """Whether a published folder is a delta, as far as its manifest can be read."""
    try:
        return KEY in json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


# ---- the way back ----


def texts_of(prompts: pl.DataFrame, candidates: pl.DataFrame) -> Frames:
    """The tables of the sources as `with_texts` and `answers_with_texts` take them."""
    named = prompts.select(
        "prompt_id",
        pl.col("messages").alias("prompt"),
        "tools",
        "template_kwargs",
        pl.col("extras").alias("prompt_extras"),
    )
    return {"prompts": named, "candidates": candidates.select("prompt_id", "candidate_id", *OF_ANSWER)}


def with_texts(rows: pl.DataFrame, texts: Frames) -> pl.DataFrame:
    """Rows of `sets` with their texts, as that table. A candidate without a text (noise) is left out, and a row without its
    prompt, its chosen or any rejected answer."""
    bare = rows.drop(OF_PROMPT).join(texts["prompts"], on="prompt_id", maintain_order="left")
    answers = bare.select("prompt_id", "candidates").explode("candidates").unnest("candidates")
    answers = answers_with_texts(answers, texts)
    fields = list(schema.SET_CANDIDATE.to_schema())
    nested = answers.group_by("prompt_id", maintain_order=True).agg(
        pl.struct(fields).alias("candidates"),
        (pl.col("role").first() == "chosen").alias("_chosen"),
        (pl.col("role") == "rejected").any().alias("_rejected"),
    )
    whole = nested.filter("_chosen", "_rejected").drop("_chosen", "_rejected")
    return schema.ordered(bare.drop("candidates").join(whole, on="prompt_id", maintain_order="left"), schema.TABLES["sets"])


def answers_with_texts(answers: pl.DataFrame, texts: Frames) -> pl.DataFrame:
    """Candidates with their texts, those without one left out."""
    known = texts["candidates"].rename({name: f"_{name}" for name in OF_ANSWER})
    found = answers.join(known, on=["prompt_id", "candidate_id"], how="left", maintain_order="left")
    filled = [pl.coalesce(name, f"_{name}").alias(name) for name in OF_ANSWER if name in answers.columns]
    return found.with_columns(filled).drop_nulls("response").select(answers.columns)
