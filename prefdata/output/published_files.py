"""The files that are published, built shard by shard from the tables: configs candidates, sets, preference, unpaired where the
recipe makes that set, and two for each online run, its sets and its candidates of all segments.

data/<config>/<split>-<shard>.parquet; a file without rows is not made.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from prefdata.errors import PrefdataError
from prefdata.output.message_columns import Keys, any_extras, keys_of, with_json
from prefdata.output.published_configs import Config
from prefdata.recipe.job import Job
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.units import Part
from prefdata.tables import atomic, content, schema
from prefdata.tables.views import Frames


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

    configs: Mapping[str, Config]
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
    wanted: Mapping[str, Config], frames: Frames, settings: Settings, keys: Keys
) -> Iterator[tuple[str, str, pl.DataFrame]]:
    """(config, split, rows) of one part of the prompts, rows that are empty left out."""
    for name, config in wanted.items():
        frame = config.rows(frames, settings, keys)
        for split in frame["split"].unique().sort().to_list():
            part = frame.filter(pl.col("split") == split)
            yield name, split, part if config.shows_split else part.drop("split")
