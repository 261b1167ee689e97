"""The first prompts of a set, a line each: by prompt_id, or by one of the figures of the quality report."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from prefdata.output.looking import pages
from prefdata.output.looking.opened import Opened
from prefdata.tables.figures import per_prompt

Facts = dict[str, Any]
SORTS = {"margin": "reference_margin", "length": "chosen_chars", "candidates": "candidates"}
"""By what prompts may be sorted, and the column."""
SHOWN_CHARS = 200


def listing(
    opened: Opened,
    limit: int,
    split: str | None = None,
    source: str | None = None,
    sort: str | None = None,
    least: bool = False,
) -> list[Facts]:
    """The first prompts of a split, of a source (name or name@revision), or of all; sorted, the largest or
    the `least` first, and those that have no such figure last."""
    kept: list[pl.DataFrame] = []
    for part in opened.parts():
        rows = _lines(_of(part, split, source))
        kept = [pl.concat([*kept, rows])]
        if sort is not None:
            kept = [kept[0].sort([SORTS[sort], "prompt_id"], descending=[not least, False], nulls_last=True).head(limit)]
        elif kept[0].height >= limit:
            break
    return kept[0].head(limit).to_dicts() if kept else []


def _of(part: pl.DataFrame, split: str | None, source: str | None) -> pl.DataFrame:
    if split is not None:
        part = part.filter(pl.col("split").cast(pl.String) == split)
    if source is not None:
        part = part.filter((pl.col("source") == source) | (pl.col("source").str.split("@").list.first() == source))
    return part


def _lines(part: pl.DataFrame) -> pl.DataFrame:
    figures = per_prompt(part).select("prompt_id", "chosen_chars", "reference_margin")
    last = pl.col("prompt").list.last().struct.field("content").str.slice(0, SHOWN_CHARS)
    rows = part.select(
        "prompt_id",
        pl.col("split").cast(pl.String),
        "source",
        pl.col("candidates").list.len().cast(pl.Int64).alias("candidates"),
        last.alias("text"),
    ).join(figures, on="prompt_id", maintain_order="left")
    return rows.select(
        "prompt_id", "split", "source", "candidates", pl.col("chosen_chars").cast(pl.Int64), "reference_margin", "text"
    )


def render(found: Sequence[Facts], of: int) -> list[Any]:
    """The page; `of`: how many prompts the whole set has."""
    columns = ("prompt", "split", "source", "answers", "chars", "margin", "the last turn begins")
    title = f"{len(found)} of {of} prompts. chars: of the chosen answer; margin: nats per token under the first reference,"
    title += " the chosen answer less the rejected ones' mean"
    return [pages.line(title), pages.table(columns, [list(row.values()) for row in found], loose=("source", columns[-1]))]
