"""Rows of a source, one dict at a time in bounded memory: JSON lines, Parquet, or a data set on the Hub."""

import glob
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prefdata.errors import ConfigError, DataError, snippet
from prefdata.sources.settings import SourceSettings
from prefdata.sources.shapes import SHAPES
from prefdata.tables.files import require_bounded, require_decodable

Row = dict[str, Any]
MAX_LINE_BYTES = 64 * 2**20
MAX_ARRAY_BYTES = 256 * 2**20


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


def rows(source: SourceSettings, paths: Sequence[Path]) -> Iterator[tuple[str, Row]]:
    """Yield ("file:line", row) for every row of the source. Raises DataError or ConfigError at what is no row."""
    if source.dataset is not None:
        yield from _hub(source)
        return
    _require_one_schema(paths)
    for path in paths:
        yield from from_file(path, f"sources.sources ({source.name}).path", SHAPES[source.format].arrays)


def from_file(path: Path, key: str, arrays: bool = False) -> Iterator[tuple[str, Row]]:
    """The rows of one local file, which the setting `key` names; `arrays`: it may be one JSON array.

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
        return _parquet(path)
    if path.suffix in (".jsonl", ".json", ".ndjson"):
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
    listed = _strict(text, path.name)
    if not listed:
        raise DataError("the file has no rows", str(path), "give a file with at least one row")
    for number, row in enumerate(listed):
        where = f"{path.name}:{number}"
        if not isinstance(row, dict):
            raise DataError(f"not a JSON object: {snippet(row)}", where, "correct the row")
        yield where, row


def _require_one_schema(paths: Sequence[Path]) -> None:
    """Parquet files of one source have the same columns. Raises DataError naming both files."""
    first: tuple[Path, dict[str, str]] | None = None
    for path in (p for p in paths if p.suffix == ".parquet" and p.is_file() and len(paths) > 1):
        schema = _schema(path)
        if first is None:
            first = path, schema
        elif schema != first[1]:
            unlike = sorted(set(schema.items()) ^ set(first[1].items()))[0]
            raise DataError(
                f"its columns differ from those of {first[0]}: {unlike[0]} ({unlike[1]})", str(path), "convert one of them"
            )


def _schema(path: Path) -> dict[str, str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return {f.name: str(f.type) for f in pq.read_schema(path)}
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, 0, error) from error


def _require_distinct_columns(names: Sequence[str], path: Path) -> None:
    double = [name for name, count in Counter(names).items() if count > 1]
    if double:
        raise DataError("two columns have this name", f"{path.name}:*:{double[0]}", "rename one of them")


def _damaged(path: Path, number: int, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:120]
    return DataError(f"damaged Parquet ({reason})", f"{path.name}:{number}", "fetch the file again")


def _json_lines(path: Path) -> Iterator[tuple[str, Row]]:
    count = 0
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
            where = f"{path.name}:{number}"
            if len(line) > MAX_LINE_BYTES:
                raise DataError(f"a line of more than {MAX_LINE_BYTES} bytes", where, "write one object a line")
            text = _decode(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, where).strip()
            if text:
                count += 1
                yield where, parse_object(text, where)
    if count == 0:
        raise DataError("the file has no rows", str(path), "give a file with one JSON object a line")


def _decode(line: bytes, where: str) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"not utf-8 at byte {error.start} of the line", where, "re-encode the file as utf-8") from error


def parse_object(text: str, where: str) -> Row:
    """One JSON object, strictly: no NaN or Infinity, no key twice, no absurd numbers or nesting."""
    if text.startswith("["):
        raise DataError("a JSON array, not an object", where, "write one object a line (jq -c '.[]')")
    parsed = _strict(text, where)
    if not isinstance(parsed, dict):
        raise DataError(f"not a JSON object: {snippet(text)}", where, "write one object a line")
    return parsed


def _strict(text: str, where: str) -> Any:
    """A JSON value; what our own tables could not hold, or readers disagree about, is an error."""

    def no_constant(name: str) -> None:
        raise DataError(f"{name} is not JSON", where, "write null, or leave the row out")

    def unique(pairs: list[tuple[str, Any]]) -> Row:
        made = dict(pairs)
        if len(made) != len(pairs):
            keys = [k for k, _ in pairs]
            double = next(k for k in keys if keys.count(k) > 1)
            raise DataError("the key stands twice in one object", f"{where}:{snippet(double)}", "leave one of them out")
        return made

    try:
        return json.loads(text, parse_constant=no_constant, object_pairs_hook=unique)
    except RecursionError as error:
        raise DataError("nested too deeply", where, "flatten the row") from error
    except ValueError as error:
        raise DataError(f"not JSON ({str(error)[:80]}): {snippet(text)}", where, "write one object a line") from error


def _parquet(path: Path) -> Iterator[tuple[str, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
            require_decodable(file, path)
            _require_distinct_columns(file.schema_arrow.names, path)
            decoded = 0
            for batch in file.iter_batches(batch_size=256):
                decoded += batch.nbytes
                require_bounded(decoded, path)
                for row in batch.to_pylist():
                    yield f"{path.name}:{number}", row
                    number += 1
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # dates beyond Python's too
        raise _damaged(path, number, error) from error
    if number == 0:
        raise DataError("the file has no rows", str(path), "give a file with at least one row")


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
        for number, row in enumerate(stream):
            yield f"{source.dataset}@{source.revision}:{number}", dict(row)
    except Exception as error:  # the client raises a dozen kinds; each is about the data set asked for
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise DataError(
            f"cannot read the data set ({reason})",
            f"{source.dataset}@{source.revision}",
            "check dataset, revision, config and HF_TOKEN",
        ) from error
