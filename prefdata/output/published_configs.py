"""The configs that are published: what rows each has, made of the tables of some prompts, and which a recipe publishes."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from prefdata.errors import did_you_mean
from prefdata.output import message_columns
from prefdata.output.message_columns import Keys
from prefdata.recipe.settings.output import PublishSettings
from prefdata.recipe.settings.whole import Settings
from prefdata.tables import schema
from prefdata.tables.views import Frames, fixed_pairs

Table = Literal["candidates", "drops", "logps", "verdicts"]


@dataclass(frozen=True)
class Config:
    """A way to publish the set: rows with their split, made of one part of the tables (and of what the set's messages say
    beside role and content).

    `of`: whose rows it is made of: the preference set, the SFT set, or what was dropped. `reads`: the tables beside the set.
    `lacking`: why a recipe cannot make it. `texts`: it says nothing without the texts of the sources (publish.delta).
    """

    rows: Callable[[Frames, Settings, Keys], pl.DataFrame]
    shows_split: bool = True
    """Whether the published rows keep the column; it is the file's name too."""
    of: Literal["preference", "sft", "drops"] = "preference"
    reads: tuple[Table, ...] = ()
    lacking: Callable[[Settings], str | None] = lambda settings: None
    texts: bool = False


def pairs(rows: pl.DataFrame, origins: Sequence[str], keys: Keys | None = None) -> pl.DataFrame:
    """One row a pair: the set's columns, and of the chosen and of the rejected answer the message (a list of one), id, model
    and score. `keys`: what messages say beside role and content."""
    first = pl.col("candidates").list.first().struct
    picked = rows.join(fixed_pairs(rows, origins), on="prompt_id", maintain_order="left").with_columns(
        first.field("response").alias("_chosen"),
        first.field("extras").alias("_chosen_extras"),
        first.field("candidate_id").alias("chosen_id"),
        first.field("producer").alias("chosen_model"),
        first.field("score").alias("score_chosen"),
    )
    return picked.with_columns(
        message_columns.prompts(picked, keys or {}),
        message_columns.answers("chosen", picked["_chosen"], picked["_chosen_extras"], keys or {}),
        message_columns.answers("rejected", picked["_rejected"], picked["_rejected_extras"], keys or {}),
    )


ARGUMENTS = "chat_template_kwargs"
"""The chat template's arguments, by the name that TRL has for them."""
OF_THE_PROMPT = (
    pl.col("split").cast(pl.String),
    pl.col("tools"),
    pl.col("template_kwargs").alias(ARGUMENTS),
    pl.col("prompt_id"),
)
OF_THE_PAIR = ("source", "chosen_id", "rejected_id", "chosen_model", "rejected_model", "score_chosen", "score_rejected")


def preference(rows: pl.DataFrame, origins: Sequence[str], keys: Keys | None = None) -> pl.DataFrame:
    """TRL's conversational shape: prompt, chosen, rejected as message lists, tools and the template's arguments as JSON, with
    ids, models and scores; plus the split."""
    return pairs(rows, origins, keys).select("prompt", "chosen", "rejected", *OF_THE_PROMPT, *OF_THE_PAIR)


def preference_full(rows: pl.DataFrame, origins: Sequence[str], keys: Keys | None = None) -> pl.DataFrame:
    """The shape of UltraFeedback-binarized: whole conversations in chosen and rejected, the last user's text as prompt."""
    user = pl.element().filter(pl.element().struct.field("role") == "user").struct.field("content").last()
    return pairs(rows, origins, keys).select(
        pl.col("prompt").list.eval(user).list.first(),
        *[pl.concat_list("prompt", name).alias(name) for name in ("chosen", "rejected")],
        *OF_THE_PROMPT,
        *OF_THE_PAIR,
    )


def ranked(rows: pl.DataFrame, origins: Sequence[str], keys: Keys | None = None) -> pl.DataFrame:
    """All ranked answers of a prompt, the best first, as `completions` of a `context`, each with rank, score, model and id; and
    the pair of `preference` as one message each."""
    told = (
        rows.select("prompt_id", "candidates").explode("candidates").unnest("candidates").filter(pl.col("rank").is_not_null())
    )
    told = told.with_columns(message_columns.answers("completion", told["response"], told["extras"], keys or {}))
    named = pl.struct("rank", "score", "completion", pl.col("producer").alias("model"), "candidate_id")
    listed = told.sort("prompt_id", "rank", maintain_order=True).group_by("prompt_id", maintain_order=True)
    made = pairs(rows, origins, keys).join(listed.agg(named.alias("completions")), on="prompt_id", maintain_order="left")
    one = [pl.col(name).list.first() for name in ("chosen", "rejected")]
    return made.select(pl.col("prompt").alias("context"), "completions", *one, *OF_THE_PROMPT, "source")


def unpaired_pairs(rows: pl.DataFrame, origins: Sequence[str], keys: Keys | None = None) -> pl.DataFrame:
    """TRL's unpaired shape: the two answers of each pair as rows of their own, the chosen one labelled true."""
    made = pairs(rows, origins, keys)
    sides = [
        made.select(
            "prompt",
            pl.col(side).alias("completion"),
            pl.lit(side == "chosen").alias("label"),
            *OF_THE_PROMPT,
            pl.col(f"{side}_id").alias("candidate_id"),
        )
        for side in ("chosen", "rejected")
    ]
    return pl.concat(sides).sort("prompt_id", maintain_order=True)


def unpaired(rows: pl.DataFrame, keys: Keys | None = None) -> pl.DataFrame:
    """TRL's unpaired shape: one row a labelled answer, prompt and completion as message lists, the label, tools and the
    template's arguments as JSON, with the ids; plus the split. `keys`: what messages say beside role and content."""
    told = rows.explode("candidates").unnest("candidates")
    return told.with_columns(
        message_columns.prompts(told, keys or {}),
        message_columns.answers("completion", told["response"], told["extras"], keys or {}),
    ).select("prompt", "completion", (pl.col("role") == "chosen").alias("label"), *OF_THE_PROMPT, "candidate_id")


def sft(rows: pl.DataFrame, keys: Keys | None = None) -> pl.DataFrame:
    """Whole conversations as `messages`, each prompt with its chosen answer."""
    first = rows.with_columns(pl.col("candidates").list.first()).unnest("candidates")
    made = first.with_columns(
        message_columns.prompts(first, keys or {}),
        message_columns.answers("_answer", first["response"], first["extras"], keys or {}),
    )
    return made.select(
        pl.concat_list("prompt", "_answer").alias("messages"),
        *OF_THE_PROMPT,
        "source",
        "candidate_id",
        pl.col("producer").alias("model"),
        "score",
    )


def candidates(frames: Frames) -> pl.DataFrame:
    """The candidates of the set's prompts that no stage dropped."""
    return _of_kept(frames, "candidates")


def _of_kept(frames: Frames, table: Table) -> pl.DataFrame:
    """The rows of a table that are about candidates of the set's prompts that no stage dropped, with the prompt's split."""
    splits = frames["sets"].select("prompt_id", pl.col("split").cast(pl.String))
    kept = schema.alive(frames["candidates"], frames["drops"])
    rows = kept if table == "candidates" else frames[table]
    for name in [n for n in ("candidate_id", "a", "b") if n in rows.columns]:
        known = kept.select("prompt_id", pl.col("candidate_id").alias(name), pl.lit(True).alias("_kept"))
        found = rows.join(known, on=["prompt_id", name], how="left", maintain_order="left")
        rows = found.filter(pl.col("_kept") | pl.col(name).is_null()).drop("_kept")
    rows = rows.join(splits, on="prompt_id", maintain_order="left")
    return rows.select("prompt_id", "split", *[c for c in schema.TABLES[table].columns if c != "prompt_id"])


def dropped(frames: Frames) -> pl.DataFrame:
    """What was left out, why and by which stage. Much of it was left out before it had a split: all is one split, train."""
    return frames["drops"].with_columns(pl.lit("train").alias("split"))


def _without_verdicts(settings: Settings) -> str | None:
    judged = {settings.sets.method, settings.sets.sft_method} != {"source"}
    return None if judged else "no judge ranks the set: name one under judge, and in sets.method"


def _without_logps(settings: Settings) -> str | None:
    return None if settings.score.references else "no reference scores the set: name one under score.references"


CONFIGS: dict[str, Config] = {
    "preference": Config(lambda f, s, k: preference(f["sets"], s.sets.origins, k), shows_split=False, texts=True),
    "preference_full": Config(lambda f, s, k: preference_full(f["sets"], s.sets.origins, k), shows_split=False, texts=True),
    "ranked": Config(lambda f, s, k: ranked(f["sets"], s.sets.origins, k), shows_split=False, texts=True),
    "unpaired": Config(lambda f, s, k: unpaired_pairs(f["sets"], s.sets.origins, k), shows_split=False, texts=True),
    "sft": Config(lambda f, s, k: sft(f["sets"], k), shows_split=False, of="sft", texts=True),
    "sets": Config(lambda f, s, k: f["sets"]),
    "candidates": Config(lambda f, s, k: candidates(f), reads=("candidates", "drops")),
    "verdicts": Config(
        lambda f, s, k: _of_kept(f, "verdicts"), reads=("candidates", "drops", "verdicts"), lacking=_without_verdicts
    ),
    "logps": Config(lambda f, s, k: _of_kept(f, "logps"), reads=("candidates", "drops", "logps"), lacking=_without_logps),
    "drops": Config(lambda f, s, k: dropped(f), shows_split=False, of="drops"),
}
"""The configs that publish.configs may name, the default one first."""
OF_LABELS: dict[str, Config] = {"unpaired": Config(lambda f, s, k: unpaired(f["sets"], k), shows_split=False)}
"""That of the set `unpaired`, where a recipe makes it: it is always published, instead of the pairs' config of this name."""
ONLINE, OF_CANDIDATES = "online-", ".candidates"
OURS = f"{'|'.join([*CONFIGS, *OF_LABELS])}|{ONLINE}[a-z0-9_-]+(?:{re.escape(OF_CANDIDATES)})?"
"""A pattern of the names of our configs: the card, its header and what publishing may remove go by it."""


def of_online(run: str) -> dict[str, Config]:
    """The configs of an online run: rows of all its segments, and their candidates."""
    name = ONLINE + run.replace("/", "-")
    return {name: CONFIGS["sets"], f"{name}{OF_CANDIDATES}": CONFIGS["candidates"]}


def wanted(settings: Settings) -> dict[str, Config]:
    """The configs of publish.configs, in the order of CONFIGS; of a delta those that say something without texts, and always
    `sets`, which the others are made of when the texts are joined."""
    own, labelled = settings.publish, OF_LABELS if settings.sets.unpaired else {}
    if own.delta:
        return {name: c for name, c in CONFIGS.items() if name == "sets" or (name in own.configs and not c.texts)}
    return {name: c for name, c in CONFIGS.items() if name in own.configs and name not in labelled}


def names(settings: Settings) -> list[str]:
    """The configs that a recipe publishes."""
    runs = dict.fromkeys(s.run for s in settings.segments)
    online = (name for run in runs for name in of_online(run))
    return [*wanted(settings), *(OF_LABELS if settings.sets.unpaired else ()), *online]


def problems(settings: Settings) -> list[str]:
    """What is wrong with publish.configs: names that are none, and what the recipe cannot make."""
    own = settings.publish
    found = [f"publish.configs: {n!r} is no config{did_you_mean(n, CONFIGS)}" for n in own.configs if n not in CONFIGS]
    lacking = [(name, config.lacking(settings)) for name, config in wanted(settings).items()]
    found += [f"publish.configs: {name} cannot be made: {why}" for name, why in lacking if why]
    if own.delta and (settings.sets.unpaired or "sft" in own.configs):
        found.append("publish.delta: labelled answers and sft cannot be joined to their texts: leave them out")
    if not settings.answered_once and own.configs != PublishSettings().configs:
        found.append("publish.configs: only online runs answer the prompts, and what they made is published: leave the key out")
    return found
