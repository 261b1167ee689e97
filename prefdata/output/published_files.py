"""The files that are published, built shard by shard from the tables: configs candidates, sets, preference.

data/<config>/<split>-<shard>.parquet; a file without rows is not made.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from prefdata.errors import PrefdataError
from prefdata.recipe.job import Job
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.units import Part
from prefdata.tables import atomic, content, schema
from prefdata.tables.views import Frames, fixed_pairs


def build(job: Job, parts: Sequence[Part], folder: Path) -> dict[str, str]:
    """Write the data files under `folder`; {path: content hash}."""
    hashes: dict[str, str] = {}
    for shard in job.shards:
        writers: dict[str, _Writer] = {}
        try:
            for frames in job.parts([shard], of=parts):
                for config, split, rows in configs(frames, job.settings):
                    path = f"data/{config}/{split}-{job.shard_name(shard)}.parquet"
                    arrow = schema.stored(rows).to_arrow()
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
        hashes |= {path: writer.digest.hexdigest() for path, writer in writers.items()}
    return hashes


class _Writer:
    """One published Parquet file, written in parts; each file checks its pages and knows its content hash."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.digest = path, content.ContentHash(schema)
        with atomic.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(path, schema, write_page_checksum=True, compression="zstd")

    def write(self, rows: pa.Table) -> None:
        self.digest.update(rows)
        with atomic.writing(self.path):
            self._writer.write_table(rows)

    def close(self) -> None:
        with atomic.writing(self.path):
            self._writer.close()


def configs(frames: Frames, settings: Settings) -> Iterator[tuple[str, str, pl.DataFrame]]:
    """(config, split, rows) of one part of the prompts, rows that are empty left out."""
    for name, config in CONFIGS.items():
        frame = config.rows(frames, settings)
        for split in frame["split"].unique().sort().to_list():
            part = frame.filter(pl.col("split") == split)
            yield name, split, part if config.shows_split else part.drop("split")


def _candidates(frames: Frames, settings: Settings) -> pl.DataFrame:
    """The candidates of the set's prompts that no stage dropped."""
    splits = frames["sets"].select("prompt_id", "split")
    kept = schema.alive(frames["candidates"], frames["drops"]).join(splits, on="prompt_id", maintain_order="left")
    return kept.select("prompt_id", "split", *[c for c in schema.TABLES["candidates"].columns if c != "prompt_id"])


def preference(rows: pl.DataFrame, origins: Sequence[str], seed: int) -> pl.DataFrame:
    """TRL's conversational shape: prompt, chosen, rejected as message lists, with the ids; plus the split."""
    picked = rows.join(fixed_pairs(rows, origins, seed), on="prompt_id", maintain_order="left").with_columns(
        pl.col("candidates").list.first().struct.field("response").alias("_chosen"),
        pl.col("candidates").list.first().struct.field("candidate_id").alias("chosen_id"),
    )
    texts = ((pl.col("_chosen"), "chosen"), (pl.col("_rejected"), "rejected"))
    return picked.select(
        pl.col("split").cast(pl.String),
        "prompt",
        *[pl.concat_list(pl.struct(pl.lit("assistant").alias("role"), t.alias("content"))).alias(n) for t, n in texts],
        "prompt_id",
        "chosen_id",
        "rejected_id",
    )


@dataclass(frozen=True)
class Config:
    """A way to publish the set: rows with their split, made of one part of the tables."""

    rows: Callable[[Frames, Settings], pl.DataFrame]
    shows_split: bool = True
    """Whether the published rows keep the column; it is the file's name too."""


CONFIGS: dict[str, Config] = {
    "preference": Config(lambda f, s: preference(f["sets"], s.sets.origins, s.seed), shows_split=False),
    "sets": Config(lambda f, s: f["sets"]),
    "candidates": Config(_candidates),
}
"""The published configs, the default one first. The card, its header and what publishing may remove are made from it."""
