"""A published set read back: the rows of its config `sets`, and what its log-probs were made with. Anything may lie there."""

import json
import os
from pathlib import Path
from typing import Literal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, TypeAdapter

from prefdata.errors import ConfigError, DataError
from prefdata.kinds import Name, Template
from prefdata.output.targets import MANIFEST
from prefdata.tables import files, schema
from prefdata.tables.schema import TABLES

PATTERN = "data/sets/*.parquet"


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


def fetch(dataset: str, revision: str) -> Path:
    """The folder of a published set on the Hub, at a commit. Raises DataError."""
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            dataset,
            repo_type="dataset",
            revision=revision,
            allow_patterns=[PATTERN, MANIFEST],
            token=os.environ.get("HF_TOKEN"),
        )
    except Exception as error:  # the client raises a dozen kinds; each is about the set asked for
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        where = f"{dataset}@{revision}"
        raise DataError(f"cannot fetch the set ({reason})", where, "check dataset, revision and HF_TOKEN") from error
    return Path(found)


def read(folder: Path) -> tuple[pl.DataFrame, list[Recorded]]:
    """(rows of the table `sets`, the references its log-probs were made with). Raises ConfigError, DataError."""
    paths = sorted(folder.glob(PATTERN))
    if not paths:
        online = sorted(p.name for p in (folder / "data").glob("online-*"))
        what = f"it has online runs alone ({', '.join(online)}), which are not read back" if online else f"it has no {PATTERN}"
        raise ConfigError(f"no published set: {what}", str(folder), "give a folder with the config sets, as publish writes it")
    rows = pl.concat([TABLES["sets"].empty(), *map(_rows, paths)])
    if double := rows.filter(rows["prompt_id"].is_duplicated())["prompt_id"].to_list():
        raise DataError(f"the prompt {double[0]} stands in two files", str(folder), "publish the set again")
    return schema.ordered(rows, TABLES["sets"]), _references(folder)


def _rows(path: Path) -> pl.DataFrame:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
            files.require_decodable(file, path)
            batches, decoded = [], 0
            for batch in file.iter_batches(batch_size=256):
                decoded += batch.nbytes
                files.require_bounded(decoded, path)
                batches.append(batch)
            table = pa.Table.from_batches(batches, file.schema_arrow)
        frame = pl.DataFrame(pl.from_arrow(table))
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"damaged Parquet ({reason})", str(path), "fetch the set again") from error
    return _checked(schema.require(frame, TABLES["sets"], path.name), path)


def _checked(frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Every row has a chosen candidate in the first place, and no other. Raises DataError."""
    roles = pl.col("candidates").list.eval(pl.element().struct.field("role").cast(pl.String) == "chosen")
    good = roles.list.first().fill_null(False) & (roles.list.sum() == 1)
    numbers = pl.col("candidates").list.eval(
        pl.element().struct.field("logps").list.eval(pl.element().struct.field("logp").is_finite()).list.all()
    )
    wrong = frame.with_row_index("_row").filter(~numbers.list.all())
    if wrong.height:
        raise DataError(
            "a log-prob that is no finite number", f"{path.name}:{wrong['_row'][0]}:candidates", "score the set again"
        )
    bad = frame.with_row_index("_row").filter(~good)
    if bad.height:
        raise DataError(
            "a row needs one chosen candidate, the first", f"{path.name}:{bad['_row'][0]}:candidates", "publish the set again"
        )
    return frame


def _references(folder: Path) -> list[Recorded]:
    path = folder / MANIFEST
    try:
        return TypeAdapter(list[Recorded]).validate_python(json.loads(path.read_text(encoding="utf-8"))["references"])
    except (OSError, ValueError, KeyError, TypeError) as error:  # pydantic's error is a ValueError
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"not a manifest of ours ({reason})", str(path), "fetch the set again") from error
