"""The files that are published, built shard by shard from the tables: data/<config>/<split>-<shard>.parquet; one without rows
is not made.

They are laid out for readers that fetch parts of a file: row groups of a few thousand rows, a page index, and pages cut where
the content says so, so that a Hub that stores chunks by content stores what changed.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from prefdata.errors import PrefdataError
from prefdata.output import delta
from prefdata.output.arrow_types import portable
from prefdata.output.message_columns import Keys, holds, keys_of
from prefdata.output.published_configs import ARGUMENTS, Config
from prefdata.progress import processors
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
    """Configs that are made of the same tables, in one pass."""

    configs: Mapping[str, Config]
    parts: Sequence[Part]


def build(job: Job, groups: Sequence[Group], folder: Path) -> dict[str, Built]:
    """Write the data files under `folder`, by their paths in it."""
    return {path: built for group in groups for path, built in _build(job, group, folder).items()}


def _build(job: Job, group: Group, folder: Path) -> dict[str, Built]:
    made: dict[str, Built] = {}
    sets = [part for part in group.parts if part.table == "sets"]
    keys, arguments = _message_keys(job, sets), any(job.any_table(p, partial(holds, name="template_kwargs")) for p in sets)
    for shard in job.shards:
        with Files(folder, job.shard_name(shard), keys, arguments) as files:
            for frames in job.parts([shard], of=group.parts):
                published = delta.without_texts(frames) if job.settings.publish.delta else frames
                files.write(group.configs, published, job.settings)
        made |= files.built
    return made


class Files:
    """The published files of one shard, for a `with` block: each is opened when its first rows come, and closed at the end,
    also where an error came between. `built`: what was made, known when the block has ended.

    `keys`: what the set's messages say beside role and content; `arguments`: whether any prompt of it has arguments of the chat
    template. Where none has, the column is left out, and where a prompt has none, they are {}: TRL takes no null for them.
    """

    def __init__(self, folder: Path, shard: str, keys: Keys, arguments: bool) -> None:
        self.folder, self.shard, self.keys, self.arguments = folder, shard, keys, arguments
        self.as_json = {name for name, plain in keys.items() if not plain}
        self.built: dict[str, Built] = {}
        self._writers: dict[str, _Writer] = {}
        self._threads = ThreadPoolExecutor(processors())
        self._waiting: list[Future[None]] = []

    def __enter__(self) -> "Files":
        return self

    def write(self, wanted: Mapping[str, Config], frames: Frames, settings: Settings) -> None:
        """Append the rows of one part of the prompts: each file by a thread, since hashing and compressing leave Python, and
        while the rows of the next part are made."""
        made = list(configs(wanted, frames, settings, self.keys))
        self._settle()
        self._waiting = [self._threads.submit(self._append, *one) for one in made]

    def _settle(self) -> None:
        """Wait for the part before."""
        for done in self._waiting:
            done.result()
        self._waiting = []

    def _append(self, config: str, split: str, rows: pl.DataFrame) -> None:
        path = f"data/{config}/{split}-{self.shard}.parquet"
        if ARGUMENTS in rows.columns:
            rows = rows.with_columns(pl.col(ARGUMENTS).fill_null("{}")) if self.arguments else rows.drop(ARGUMENTS)
        for arrow in portable(schema.stored(rows).to_arrow(), self.as_json, {ARGUMENTS}):
            if path not in self._writers:
                self._writers[path] = _Writer(self.folder / path, arrow.schema)
            self._writers[path].write(arrow)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._threads.shutdown()
        with contextlib.suppress(PrefdataError) if kind else contextlib.nullcontext(), contextlib.ExitStack() as closing:
            for writer in self._writers.values():  # all of them, whichever fails
                closing.callback(writer.close)
            self._settle()
        self.built = {} if kind else {path: writer.built() for path, writer in self._writers.items()}


def _message_keys(job: Job, sets: Sequence[Part]) -> Keys:
    """What the messages of the whole set say beside role and content."""
    if not any(job.any_table(part, partial(holds, name="extras")) for part in sets):
        return {}
    return keys_of(frames["sets"] for frames in job.parts(of=sets))


ROW_GROUP_ROWS, ROW_GROUP_BYTES = 4096, 2**25
"""A row group has so many rows, but for the last; fewer where rows are so large that this many bytes are held."""


class _Writer:
    """One published Parquet file, written in parts; each file checks its pages and knows its content hash."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.digest, self.rows, self.in_memory = path, content.ContentHash(schema), 0, 0
        self._held: list[pa.Table] = []
        with atomic.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(
                path,
                schema,
                write_page_checksum=True,
                write_page_index=True,
                use_content_defined_chunking=True,
                compression="zstd",
            )

    def write(self, rows: pa.Table) -> None:
        self.digest.update(rows)
        self.rows += rows.num_rows
        held = pa.concat_tables([*self._held, rows])
        while held.num_rows >= ROW_GROUP_ROWS:
            self._flush(held.slice(0, ROW_GROUP_ROWS))
            held = held.slice(ROW_GROUP_ROWS)
        if held.nbytes >= ROW_GROUP_BYTES:
            self._flush(held)
            held = held.slice(held.num_rows)
        self._held = [held]

    def _flush(self, rows: pa.Table) -> None:
        """Write a row group. Whatever parts the rows came in, it begins and ends where the rows say."""
        if rows.num_rows:
            self.in_memory += rows.nbytes
            with atomic.writing(self.path):
                self._writer.write_table(rows, row_group_size=rows.num_rows)

    def close(self) -> None:
        try:
            for rows in self._held:
                self._flush(rows)
            with atomic.writing(self.path):
                self._writer.close()
        finally:
            self._writer.is_open = False  # else it would try to write again when it is collected

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
