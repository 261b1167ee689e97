"""Rows of a source, one dict at a time in bounded memory: JSON lines, Parquet, or a data set on the Hub."""

import glob
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from math import inf
from pathlib import Path
from typing import Any

from prefdata.draws import hex_id_of_json
from prefdata.errors import ConfigError, DataError, snippet
from prefdata.sources import json_columns, parquet, strict_json
from prefdata.sources.conversations import Columnar
from prefdata.sources.row_json import RowJson
from prefdata.sources.rows import Fields
from prefdata.sources.settings import SourceSettings
from prefdata.sources.shapes import COMMON_FIELDS, SHAPES
from prefdata.tables import ids

Row = dict[str, Any]
MAX_LINE_BYTES = 64 * 2**20
MAX_ARRAY_BYTES = 256 * 2**20
JSON_FILES = (".jsonl", ".json", ".ndjson")
LINES = "write one object a line"


TOY = "toy:"
"""The path of a source that names the embedded world's rows."""


def is_toy(source: SourceSettings) -> bool:
    """Whether the source is the embedded world, whose file lies in the results folder."""
    return source.path == TOY


def files_of(source: SourceSettings) -> list[Path]:
    """The source's local files in order, patterns expanded; none for one on the Hub or made here. Raises ConfigError."""
    if source.path is None or is_toy(source):
        return []
    found: list[Path] = []
    for name in [source.path] if isinstance(source.path, str) else source.path:
        if glob.has_magic(name) and not Path(name).exists():
            found += _matching(os.path.expanduser(name), source.name)
        else:
            found.append(Path(name).expanduser())
    return found


def _matching(pattern: str, name: str) -> list[Path]:
    matches = sorted(Path(p) for p in glob.glob(pattern, recursive=True))
    if not matches:
        raise ConfigError("no file matches", pattern, f"correct sources.sources ({name}).path")
    return matches


def require_distinct(sources: Sequence[SourceSettings], places: Sequence[Sequence[Path]]) -> None:
    """Every source has a name of its own and nothing is read twice. Raises ConfigError."""
    names = Counter(s.name for s in sources)
    hub = [f"{s.dataset}@{s.revision}:{s.config}:{s.hub_split}" for s in sources if s.dataset is not None]
    read = Counter([*hub, *(str(p.resolve()) for paths in places for p in paths)])
    for what in (names, read):
        for value, count in what.items():
            if count > 1:
                raise ConfigError(f"{value} is given {count} times", "sources.sources", "list it once")


def rows(source: SourceSettings, paths: Sequence[Path], every_column: bool = False) -> Iterator[tuple[str, Row]]:
    """Yield ("file:line", row) for every row of the source. Of Parquet files only columns that the source's shape reads are
    decoded, unless `every_column`. Raises DataError or ConfigError at what is no row."""
    if source.dataset is not None:
        yield from _hub(source)
        return
    shape = SHAPES[source.format]
    columns = None if every_column else {*shape.fields.values(), *source.fields.values(), *COMMON_FIELDS, *shape.extras}
    parquet.require_alike([p for p in paths if p.suffix == ".parquet" and p.is_file()], columns)
    for path in paths:
        yield from from_file(path, f"sources.sources ({source.name}).path", shape.arrays, columns)


def from_file(path: Path, key: str, arrays: bool = False, columns: Collection[str] | None = None) -> Iterator[tuple[str, Row]]:
    """The rows of one local file, which the setting `key` names; `arrays`: it may be one JSON array; `columns`: those of a
    Parquet file that are read, None for all.

    Raises ConfigError, DataError.
    """
    if path.is_dir():
        raise ConfigError("a folder, not a file", str(path), "give its files, or a pattern such as folder/*.parquet")
    if not path.is_file():
        raise ConfigError("no such file", str(path), f"correct {key}")
    if not os.access(path, os.R_OK):
        raise DataError("cannot read: permission denied", str(path), "fix the permissions")
    if path.stat().st_size == 0:
        raise DataError("the file is empty", str(path), "give a file with one JSON object a line, or Parquet")
    if path.suffix == ".parquet":
        return parquet.rows(path, columns)
    if path.suffix in JSON_FILES:
        return _json_array(path) if arrays and _first_byte(path) == b"[" else _json_lines(path)
    raise ConfigError(f"unknown kind of file {path.suffix!r}", str(path), "give .jsonl or .parquet")


def _first_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def _json_array(path: Path) -> Iterator[tuple[str, Row]]:
    """Rows of a file that is one JSON array; such files are small, and read whole."""
    if path.stat().st_size > MAX_ARRAY_BYTES:
        raise DataError(f"an array of more than {MAX_ARRAY_BYTES} bytes", str(path), "write one object a line (jq -c '.[]')")
    text = _decode(path.read_bytes().removeprefix(b"\xef\xbb\xbf"), path.name)
    listed = strict_json.parse(text, path.name, LINES)
    if not listed:
        raise DataError("the file has no rows", str(path), "give a file with at least one row")
    for number, row in enumerate(listed):
        where = f"{path.name}:{number}"
        if not isinstance(row, dict):
            raise DataError(f"not a JSON object: {snippet(row)}", where, "correct the row")
        yield where, row


Place = tuple[str, int]
"""The path of a file, and where a line of it begins."""


class Line(Row):
    """A row of a file of JSON lines, which can be read again at its `place`."""

    __slots__ = ("place",)

    def __init__(self, row: Row, place: Place) -> None:
        super().__init__(row)
        self.place = place


def line_at(path: str, start: int) -> Row:
    """The row whose line begins there."""
    with open(path, "rb") as file:
        file.seek(start)
        return parse_object(_text(file.readline(), start == 0, path), path)


def are_json_lines(source: SourceSettings, paths: Sequence[Path]) -> bool:
    """Whether a source is made of files of JSON lines, as far as can be seen without reading them."""
    arrays = SHAPES[source.format].arrays
    return source.dataset is None and all(
        p.suffix in JSON_FILES
        and p.is_file()
        and p.stat().st_size
        and os.access(p, os.R_OK)
        and not (arrays and _first_byte(p) == b"[")
        for p in paths
    )


def _json_lines(path: Path) -> Iterator[tuple[str, Row]]:
    found = None
    for found in lines_of(path):
        yield found
    if found is None:
        raise without_rows(path)


def without_rows(path: Path) -> DataError:
    return DataError("the file has no rows", str(path), "give a file with one JSON object a line")


def lines_of(path: Path, start: int = 0, stop: float = inf, number: int = 1) -> Iterator[tuple[str, Line]]:
    """("file:line", row) of the lines from byte `start`, where line `number` begins, up to byte `stop`. Raises DataError."""
    with path.open("rb") as file:
        file.seek(start)
        while start < stop and (line := file.readline(MAX_LINE_BYTES + 1)):
            where = f"{path.name}:{number}"
            if len(line) > MAX_LINE_BYTES:
                raise DataError(f"a line of more than {MAX_LINE_BYTES} bytes", where, "write one object a line")
            if text := _text(line, number == 1, where):
                yield where, Line(parse_object(text, where), (str(path), start))
            start, number = start + len(line), number + 1


def _text(line: bytes, first: bool, where: str) -> str:
    """A line's text; a file may begin with a mark of its encoding."""
    return _decode(line.removeprefix(b"\xef\xbb\xbf") if first else line, where).strip()


def _decode(line: bytes, where: str) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"not utf-8 at byte {error.start} of the line", where, "re-encode the file as utf-8") from error


def parse_object(text: str, where: str) -> Row:
    """One JSON object, strictly: no NaN or Infinity, no key twice, no absurd numbers or nesting."""
    if text.startswith("["):
        raise DataError("a JSON array, not an object", where, "write one object a line (jq -c '.[]')")
    parsed = strict_json.parse(text, where, LINES)
    if not isinstance(parsed, dict):
        raise DataError(f"not a JSON object: {snippet(text)}", where, "write one object a line")
    return parsed


def _hub(source: SourceSettings) -> Iterator[tuple[str, Row]]:
    import datasets

    try:
        stream = datasets.load_dataset(
            source.dataset,
            source.config,
            split=source.hub_split,
            revision=source.revision,
            streaming=True,
            token=os.environ.get("HF_TOKEN"),
        )
        places = json_columns.places_in(stream.features)
        for number, row in enumerate(stream):
            yield f"{source.dataset}@{source.revision}:{number}", Columnar(json_columns.read(row, places))
    except Exception as error:  # the client raises a dozen kinds; each is about the data set asked for
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise DataError(
            f"cannot read the data set ({reason})",
            f"{source.dataset}@{source.revision}",
            "check dataset, revision, config and HF_TOKEN",
        ) from error


def row_id(fields: Fields, source: SourceSettings, written: RowJson) -> str:
    """What names a row of a source in our tables: the id it has, else a hash of it. Raises DataError."""
    if "id" not in source.fields:
        return hex_id_of_json(written(fields.row))
    value = str(fields.get("id", str, int))
    if not ids.is_text(value):
        raise DataError(f"an id that cannot be stored: {snippet(value)}", fields.at("id"), "correct the row")
    return value


def place_of(wanted: str, source: SourceSettings) -> str | None:
    """file:row of the row of that id, by reading the source again; None where it is not found."""
    names, written = {**SHAPES[source.format].fields, **source.fields}, RowJson()
    for where, row in rows(source, files_of(source)):
        if row_id(Fields(row, names, where), source, written) == wanted:
            return where
    return None
