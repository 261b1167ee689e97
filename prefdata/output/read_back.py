"""A published set read back: the rows of its config `sets`, and what its log-probs were made with. Anything may lie there."""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, TypeAdapter

from prefdata.errors import ConfigError, DataError
from prefdata.kinds import Name, Template
from prefdata.output import delta
from prefdata.output.hub.manifest import MANIFEST
from prefdata.tables import files, schema
from prefdata.tables.schema import TABLES

PATTERN, OF_CANDIDATES = "data/sets/*.parquet", "data/candidates/*.parquet"
BATCH_ROWS = 256


class Recorded(BaseModel, frozen=True, extra="ignore"):
    """A reference that a set's log-probs were made with, as its manifest tells."""

    name: Name
    model: str
    template: Template
    end: Literal["eos", "none"]
    dtype: str
    max_tokens: int | None = None
    revision_of: dict[str, str]

    @property
    def made_with(self) -> str | None:
        """What identifies its model."""
        return self.revision_of.get(self.model)


def fetch(dataset: str, revision: str, more: Sequence[str] = ()) -> Path:
    """The folder of a published set on the Hub, at a commit; `more`: patterns of other files that are wanted. Raises
    DataError."""
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            dataset,
            repo_type="dataset",
            revision=revision,
            allow_patterns=[PATTERN, MANIFEST, *more],
            endpoint=os.environ.get("HF_ENDPOINT"),
            token=os.environ.get("HF_TOKEN"),
        )
    except Exception as error:  # the client raises a dozen kinds; each is about the set asked for
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        where = f"{dataset}@{revision}"
        raise DataError(f"cannot fetch the set ({reason})", where, "check dataset, revision and HF_TOKEN") from error
    return Path(found)


def read(folder: Path) -> tuple[pl.DataFrame, list[Recorded]]:
    """(rows of the table `sets`, the references its log-probs were made with). Raises ConfigError, DataError."""
    paths = data_files(folder)
    rows = pl.concat([TABLES["sets"].empty(), *map(_rows, paths)])
    if double := rows.filter(rows["prompt_id"].is_duplicated())["prompt_id"].to_list():
        raise DataError(f"the prompt {double[0]} stands in two files", str(folder), "publish the set again")
    return schema.ordered(rows, TABLES["sets"]), _references(folder)


def data_files(folder: Path) -> list[Path]:
    """The files of the config `sets`. Raises ConfigError where there are none."""
    paths = sorted(folder.glob(PATTERN))
    if delta.is_one(folder):
        do = f"join them: python {delta.SCRIPT}, in that folder"
        raise ConfigError("a delta: it has no texts of its sources", str(folder), do)
    if not paths:
        online = sorted(p.name for p in (folder / "data").glob("online-*"))
        what = f"it has online runs alone ({', '.join(online)}), which are not read back" if online else f"it has no {PATTERN}"
        raise ConfigError(f"no published set: {what}", str(folder), "give a folder with the config sets, as publish writes it")
    return paths


def parts(path: Path) -> Iterator[pl.DataFrame]:
    """The rows of one file, checked, in bounded memory. Raises DataError."""
    first = 0
    with reading(path), pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
        kind = file.schema_arrow
        for batch in _batches(file, path):
            frame = pl.DataFrame(pl.from_arrow(pa.Table.from_batches([batch], kind)))
            yield checked(frame, path, first)
            first += frame.height


def _batches(file: pq.ParquetFile, path: Path) -> Iterator[pa.RecordBatch]:
    files.require_decodable(file, path)
    decoded = 0
    for batch in file.iter_batches(batch_size=BATCH_ROWS):
        decoded += batch.nbytes
        files.require_bounded(decoded, path)
        yield batch


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """What goes wrong while a Parquet file is read, as a DataError."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"damaged Parquet ({reason})", str(path), "fetch the set again") from error


def _rows(path: Path) -> pl.DataFrame:
    with reading(path), pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
        table = pa.Table.from_batches(list(_batches(file, path)), file.schema_arrow)
        frame = pl.DataFrame(pl.from_arrow(table))
    return checked(frame, path)


def checked(frame: pl.DataFrame, path: Path, first: int = 0) -> pl.DataFrame:
    """The rows as the table `sets`: each has a chosen candidate in the first place, and no other. `first`: the number of the
    first row in its file. Raises DataError."""
    frame = schema.require(frame, TABLES["sets"], f"{path.name}, from row {first}" if first else path.name)
    roles = pl.col("candidates").list.eval(pl.element().struct.field("role").cast(pl.String) == "chosen")
    good = roles.list.first().fill_null(False) & (roles.list.sum() == 1)
    numbers = pl.col("candidates").list.eval(
        pl.element().struct.field("logps").list.eval(pl.element().struct.field("logp").is_finite()).list.all()
    )
    wrong = frame.with_row_index("_row").filter(~numbers.list.all())
    if wrong.height:
        raise DataError(
            "a log-prob that is no finite number", f"{path.name}:{first + wrong['_row'][0]}:candidates", "score the set again"
        )
    bad = frame.with_row_index("_row").filter(~good)
    if bad.height:
        raise DataError(
            "a row needs one chosen candidate, the first",
            f"{path.name}:{first + bad['_row'][0]}:candidates",
            "publish the set again",
        )
    return frame


def _references(folder: Path) -> list[Recorded]:
    path = folder / MANIFEST
    try:
        return TypeAdapter(list[Recorded]).validate_python(json.loads(path.read_text(encoding="utf-8"))["references"])
    except (OSError, ValueError, KeyError, TypeError) as error:  # pydantic's error is a ValueError
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"not a manifest of ours ({reason})", str(path), "fetch the set again") from error
