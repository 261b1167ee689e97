"""A set to look at: a folder that prefdata published, the results folder of a recipe, or a Hub revision.

Rows come in the order of prompt_id, in bounded memory: a published split is sorted over its files, as a table is over its
shards, and splits are merged while they are read.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from prefdata.errors import ConfigError, DataError, snippet
from prefdata.kinds import Commit
from prefdata.output import read_back
from prefdata.recipe import places
from prefdata.tables import files
from prefdata.tables.ranges import ascending, ranges
from prefdata.tables.schema import TABLES, ordered

Row = dict[str, Any]
OF_SET = "tables/sets/sets/preference"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
SHARD = re.compile(r"\d{5}-of-(\d{5})\.parquet")
MADE_WITH = ("temperature", "seed", "sample", "parent_id")
"""What the set does not say of a candidate and the table `candidates` does."""
NAMED = 5


@dataclass(frozen=True)
class Opened:
    """A set's files in `folder`. `streams`: those that follow one another; `tables`: they are a recipe's own, with
    manifests."""

    name: str
    streams: Sequence[Sequence[Path]]
    candidates: Sequence[Path] = ()
    drops: Sequence[Path] = field(default=())
    tables: bool = False
    verdicts: Sequence[Path] = ()
    folder: Path = Path()

    def parts(self) -> Iterator[pl.DataFrame]:
        """The rows of the table `sets`, in the order of prompt_id. Raises DataError."""
        empty = TABLES["sets"].empty()
        for frames in ranges([self._stream(paths) for paths in self.streams], empty):
            rows = ordered(pl.concat(frames), TABLES["sets"])
            if (double := rows["prompt_id"].is_duplicated()).any():
                raise _twice(rows.filter(double)["prompt_id"][0], self.name)
            yield rows

    def _stream(self, paths: Sequence[Path]) -> Iterator[pl.DataFrame]:
        def frames() -> Iterator[pl.DataFrame]:
            for path in paths:
                yield from files.iter_table(path, "sets") if self.tables else read_back.parts(path)

        return ascending(frames(), self.name)

    @property
    def _files(self) -> list[Path]:
        return [path for stream in self.streams for path in stream]

    def ids(self) -> Iterator[str]:
        """Every prompt_id, file by file. Raises DataError."""
        for path in self._files:
            yield from (own for own, _ in _ids(path))

    def prompts(self) -> int:
        """How many prompts the set has, by the footers of its files. Raises DataError."""
        count = 0
        for path in self._files:
            with read_back.reading(path):
                count += pq.read_metadata(path).num_rows
        return count

    def find(self, prefix: str) -> Row:
        """The row of the only prompt whose id begins so. Raises ConfigError, DataError."""
        wanted = prefix.lower()
        if not re.fullmatch(r"[0-9a-f]{1,16}", wanted):
            raise ConfigError(
                f"{snippet(prefix)} is no prompt_id, nor the beginning of one", self.name, "give up to 16 hex digits"
            )
        found = sorted((own, path, group) for path in self._files for own, group in _ids(path) if own.startswith(wanted))
        if not found:
            raise ConfigError(f"no prompt's id begins with {wanted}", self.name, "`prefdata show` without an id lists them")
        if len(ids := list(dict.fromkeys(own for own, _, _ in found))) > 1:
            more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
            raise ConfigError(f"{wanted} may be {', '.join(ids[:NAMED])}{more}", self.name, "give more digits")
        if len(found) > 1:
            raise _twice(ids[0], self.name)
        return _row(*found[0])

    def made_with(self, prompt_id: str) -> dict[str, Row]:
        """MADE_WITH of the candidates of a prompt, by candidate_id, as far as the set's files tell. Raises DataError."""
        told: dict[str, Row] = {}
        for path in self.candidates:
            with read_back.reading(path):
                known = pq.read_schema(path).names
                columns = [c for c in ("candidate_id", *MADE_WITH) if c in known]
                if not {"prompt_id", "candidate_id"} <= set(known):
                    continue
                rows = pq.read_table(
                    path, columns=columns, filters=[("prompt_id", "==", prompt_id)], page_checksum_verification=True
                )
                told |= {str(row.pop("candidate_id")): row for row in rows.to_pylist()}
        return told

    def dropped(self) -> list[Row]:
        """What the recipe's stages dropped, by stage, unit and reason; nothing where the set is no results folder."""
        counts: Counter[tuple[str, str, str]] = Counter()
        for path in self.drops:
            told = files.manifest(path)
            counts.update({(str(told["stage"]), str(told["unit"]), reason): n for reason, n in told["reasons"].items()})
        return [{"stage": s, "unit": u, "reason": reason, "rows": n} for (s, u, reason), n in sorted(counts.items())]


def _twice(prompt_id: str, where: str) -> DataError:
    return DataError(f"the prompt {prompt_id} stands in two files", where, "publish the set again")


def _ids(path: Path) -> Iterator[tuple[str, int]]:
    """(prompt_id, row group) of every row of a file."""
    with read_back.reading(path), pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
        files.require_decodable(file, path)
        column = file.schema_arrow.field("prompt_id") if "prompt_id" in file.schema_arrow.names else None
        if column is None or not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise DataError("not a sets table: no texts in prompt_id", str(path), "publish the set again")
        for group in range(file.num_row_groups):
            for own in file.read_row_group(group, columns=["prompt_id"])["prompt_id"].to_pylist():
                yield str(own), group


def _row(prompt_id: str, path: Path, group: int) -> Row:
    with read_back.reading(path), pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=read_back.BATCH_ROWS, row_groups=[group]):
            frame = pl.DataFrame(pl.from_arrow(pa.Table.from_batches([batch], file.schema_arrow)))
            mine = frame.filter(pl.col("prompt_id") == prompt_id)
            if mine.height:
                return read_back.checked(mine, path).row(0, named=True)
    raise DataError(f"the prompt {prompt_id} is gone", str(path), "call again")


# ---- where it is ----


def open_set(name: str, revision: str | None = None, candidates: bool = False) -> Opened:
    """The set of this name: a folder, or owner/name on the Hub, with its commit after @ or as `revision`. `candidates`: fetch
    what tells how its candidates were made too. Raises ConfigError, DataError."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ConfigError("a folder has no revision", name, "leave --revision out")
        own = folder / places.publish_of(folder.resolve().name)
        if (folder / "tables").is_dir() and ((folder / OF_SET).is_dir() or not own.is_dir()):
            return _of_recipe(folder, name)
        return _published(own if (folder / "tables").is_dir() else folder, name)
    dataset, _, pinned = name.partition("@")
    if folder.exists() or not HUB_NAME.fullmatch(dataset):
        raise ConfigError("no folder of a set, nor owner/name on the Hub", name, "give what `prefdata run` made or published")
    try:
        commit = TypeAdapter(Commit).validate_python(pinned or revision)
    except ValidationError as error:
        do = "give --revision, a commit hash of 40 hex digits: data under a name can change"
        raise ConfigError("no such folder here; a set on the Hub needs its revision", name, do) from error
    return _published(read_back.fetch(dataset, commit, [read_back.OF_CANDIDATES] if candidates else []), f"{dataset}@{commit}")


def _published(folder: Path, name: str) -> Opened:
    splits: dict[str, list[Path]] = {}
    for path in read_back.data_files(folder):
        splits.setdefault(path.name.partition("-")[0], []).append(path)
    return Opened(name, list(splits.values()), sorted(folder.glob(read_back.OF_CANDIDATES)), folder=folder)


def _of_recipe(folder: Path, name: str) -> Opened:
    """The set's tables in a results folder, as it stands now, published or not."""
    number, shards = _shards(folder, name)
    ours = f"*-of-{number:05d}.parquet"
    made = [p for p in folder.glob(f"tables/candidates/*/*/{ours}") if p.parts[-3] != "evaluate"]
    drops = [p for p in folder.glob(f"tables/drops/*/*/{ours}") if p.parts[-3] != "evaluate"]
    verdicts = sorted(folder.glob(f"tables/verdicts/judge/*/{ours}"))
    return Opened(name, [shards], sorted(made), sorted(drops), tables=True, verdicts=verdicts, folder=folder)


def _shards(folder: Path, name: str) -> tuple[int, list[Path]]:
    """(how many shards the set has, their files): those of the recipe's last run where older ones lie beside them."""
    by_number: dict[int, list[Path]] = {}
    for path in sorted((folder / OF_SET).glob("*.parquet")):
        if found := SHARD.fullmatch(path.name):
            by_number.setdefault(int(found[1]), []).append(path)
    number = _number(folder) if len(by_number) > 1 else next(iter(by_number), None)
    if number is None or number not in by_number:
        raise ConfigError(f"no set: it has no {OF_SET} of one number of shards", name, "run the recipe as far as its set")
    if len(by_number[number]) != number:
        raise DataError(f"{len(by_number[number])} of {number} shards of the set are there", name, "run the stage sets")
    return number, by_number[number]


def _number(folder: Path) -> int | None:
    try:
        settings: Mapping[str, Any] = json.loads((folder / places.SETTINGS).read_text(encoding="utf-8"))
        return int(settings["num_shards"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
