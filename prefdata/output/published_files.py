"""The files that are published, built shard by shard from the tables: configs candidates, sets, preference, unpaired where the
recipe makes that set, and two for each online run, its sets and its candidates of all segments.

data/<config>/<split>-<shard>.parquet; a file without rows is not made.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from prefdata.errors import PrefdataError
from prefdata.output.message_columns import Keys, any_extras, column, keys_of, with_json
from prefdata.recipe.job import Job
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.units import Part
from prefdata.tables import atomic, content, schema
from prefdata.tables.messages import answer, prompt_of
from prefdata.tables.views import Frames, fixed_pairs


@dataclass(frozen=True)
class Built:
    """A data file that was made: its content hash, rows, and bytes in memory and on the disk."""

    digest: str
    rows: int
    in_memory: int
    stored: int


@dataclass(frozen=True)
class Group:
    """Configs that are made of the same tables, in one pass: `sets` among the tables."""

    configs: Mapping[str, "Config"]
    parts: Sequence[Part]


def build(job: Job, groups: Sequence[Group], folder: Path) -> dict[str, Built]:
    """Write the data files under `folder`, by their paths in it."""
    return {path: built for group in groups for path, built in _build(job, group, folder).items()}


def _build(job: Job, group: Group, folder: Path) -> dict[str, Built]:
    made: dict[str, Built] = {}
    keys = _message_keys(job, [p for p in group.parts if p.table == "sets"])
    for shard in job.shards:
        writers: dict[str, _Writer] = {}
        try:
            for frames in job.parts([shard], of=group.parts):
                for config, split, rows in configs(group.configs, frames, job.settings, keys):
                    path = f"data/{config}/{split}-{job.shard_name(shard)}.parquet"
                    arrow = with_json(schema.stored(rows).to_arrow(), keys)
                    if path not in writers:
                        writers[path] = _Writer(folder / path, arrow.schema)
                    writers[path].write(arrow)
        except BaseException:
            for writer in writers.values():
                with contextlib.suppress(PrefdataError):
                    writer.close()
            raise
        for writer in writers.values():
            writer.close()
        made |= {path: writer.built() for path, writer in writers.items()}
    return made


def _message_keys(job: Job, sets: Sequence[Part]) -> Keys:
    """What the messages of the whole set say beside role and content."""
    if not any(job.any_table(part, any_extras) for part in sets):
        return {}
    return keys_of(frames["sets"] for frames in job.parts(of=sets))


class _Writer:
    """One published Parquet file, written in parts; each file checks its pages and knows its content hash."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.digest, self.rows, self.in_memory = path, content.ContentHash(schema), 0, 0
        with atomic.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(path, schema, write_page_checksum=True, compression="zstd")

    def write(self, rows: pa.Table) -> None:
        self.digest.update(rows)
        self.rows += rows.num_rows
        self.in_memory += rows.nbytes
        with atomic.writing(self.path):
            self._writer.write_table(rows)

    def close(self) -> None:
        with atomic.writing(self.path):
            self._writer.close()

    def built(self) -> Built:
        return Built(self.digest.hexdigest(), self.rows, self.in_memory, self.path.stat().st_size)


def configs(
    wanted: Mapping[str, "Config"], frames: Frames, settings: Settings, keys: Keys
) -> Iterator[tuple[str, str, pl.DataFrame]]:
    """(config, split, rows) of one part of the prompts, rows that are empty left out."""
    for name, config in wanted.items():
        frame = config.rows(frames, settings, keys)
        for split in frame["split"].unique().sort().to_list():
            part = frame.filter(pl.col("split") == split)
            yield name, split, part if config.shows_split else part.drop("split")


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
