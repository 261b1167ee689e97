"""The configs that are published: what rows each has, made of the tables of some prompts, and which a recipe publishes."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from prefdata.output.message_columns import Keys, column
from prefdata.recipe.settings.whole import Settings
from prefdata.tables import schema
from prefdata.tables.messages import answer, prompt_of
from prefdata.tables.views import Frames, fixed_pairs


def _candidates(frames: Frames, settings: Settings, keys: Keys) -> pl.DataFrame:
    """The candidates of the set's prompts that no stage dropped."""
    splits = frames["sets"].select("prompt_id", "split")
    kept = schema.alive(frames["candidates"], frames["drops"]).join(splits, on="prompt_id", maintain_order="left")
    return kept.select("prompt_id", "split", *[c for c in schema.TABLES["candidates"].columns if c != "prompt_id"])


def preference(rows: pl.DataFrame, origins: Sequence[str], keys: Keys | None = None) -> pl.DataFrame:
    """TRL's conversational shape: prompt, chosen, rejected as message lists, tools and the template's arguments as JSON, with
    the ids; plus the split. `keys`: what messages say beside role and content."""
    first = pl.col("candidates").list.first().struct
    picked = rows.join(fixed_pairs(rows, origins), on="prompt_id", maintain_order="left").with_columns(
        first.field("response").alias("_chosen"),
        first.field("candidate_id").alias("chosen_id"),
        first.field("extras").alias("_chosen_extras"),
    )
    if keys:
        prompts = [prompt_of(row) for row in picked.select("prompt", "prompt_extras").iter_rows(named=True)]
        picked = picked.with_columns(
            column("prompt", prompts, keys),
            *[
                column(name, [[answer(text, extras)] for text, extras in said.iter_rows()], keys)
                for name in ("chosen", "rejected")
                for said in [picked.select(f"_{name}", f"_{name}_extras")]
            ],
        )
    else:
        role = pl.lit("assistant").alias("role")
        picked = picked.with_columns(
            pl.concat_list(pl.struct(role, pl.col(f"_{name}").alias("content"))).alias(name) for name in ("chosen", "rejected")
        )
    return picked.select(
        pl.col("split").cast(pl.String),
        "prompt",
        "chosen",
        "rejected",
        "tools",
        pl.col("template_kwargs").alias("chat_template_kwargs"),
        "prompt_id",
        "chosen_id",
        "rejected_id",
    )


def unpaired(rows: pl.DataFrame, keys: Keys | None = None) -> pl.DataFrame:
    """TRL's unpaired shape: one row a labelled answer, prompt and completion as message lists, the label, tools and the
    template's arguments as JSON, with the ids; plus the split. `keys`: what messages say beside role and content."""
    answers = rows.explode("candidates").unnest("candidates")
    if keys:
        prompts = [prompt_of(row) for row in answers.select("prompt", "prompt_extras").iter_rows(named=True)]
        said = [[answer(text, extras)] for text, extras in answers.select("response", "extras").iter_rows()]
        answers = answers.with_columns(column("prompt", prompts, keys), column("completion", said, keys))
    else:
        message = pl.struct(pl.lit("assistant").alias("role"), pl.col("response").alias("content"))
        answers = answers.with_columns(pl.concat_list(message).alias("completion"))
    return answers.select(
        pl.col("split").cast(pl.String),
        "prompt",
        "completion",
        (pl.col("role") == "chosen").alias("label"),
        "tools",
        pl.col("template_kwargs").alias("chat_template_kwargs"),
        "prompt_id",
        "candidate_id",
    )


@dataclass(frozen=True)
class Config:
    """A way to publish the set: rows with their split, made of one part of the tables (and of what the set's messages say
    beside role and content)."""

    rows: Callable[[Frames, Settings, Keys], pl.DataFrame]
    shows_split: bool = True
    """Whether the published rows keep the column; it is the file's name too."""


CONFIGS: dict[str, Config] = {
    "preference": Config(lambda f, s, k: preference(f["sets"], s.sets.origins, k), shows_split=False),
    "sets": Config(lambda f, s, k: f["sets"]),
    "candidates": Config(_candidates),
}
"""The published configs of every recipe, the default one first."""
OF_LABELS: dict[str, Config] = {"unpaired": Config(lambda f, s, k: unpaired(f["sets"], k), shows_split=False)}
"""That of the set `unpaired`, where a recipe makes it."""
ONLINE, OF_CANDIDATES = "online-", ".candidates"
OURS = f"{'|'.join([*CONFIGS, *OF_LABELS])}|{ONLINE}[a-z0-9_-]+(?:{re.escape(OF_CANDIDATES)})?"
"""A pattern of the names of our configs: the card, its header and what publishing may remove go by it."""


def of_online(run: str) -> dict[str, Config]:
    """The configs of an online run: rows of all its segments, and their candidates."""
    name = ONLINE + run.replace("/", "-")
    return {name: CONFIGS["sets"], f"{name}{OF_CANDIDATES}": CONFIGS["candidates"]}


def names(settings: Settings) -> list[str]:
    """The configs that a recipe publishes."""
    runs = dict.fromkeys(s.run for s in settings.segments)
    return [*CONFIGS, *(OF_LABELS if settings.sets.unpaired else ()), *(name for run in runs for name in of_online(run))]
