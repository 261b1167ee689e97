"""Rows of a source, one dict at a time in bounded memory: JSON lines, Parquet, or a data set on the Hub."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefdata.errors import ConfigError, DataError, snippet
from prefdata.settings import SourceSettings

Row = dict[str, Any]
MAX_LINE_BYTES = 64 * 2**20


def rows(source: SourceSettings, path: Path | None) -> Iterator[tuple[str, Row]]:
    """Yield ("file:line", row) for every row of the source. Raises DataError or ConfigError at what is no row."""
    if path is None:
        return _hub(source)
    if not path.is_file():
        raise ConfigError("no such file", str(path), f"correct sources.sources ({source.name}).path")
    if path.stat().st_size == 0:
        raise DataError("the file is empty", str(path), "give a file with one JSON object a line, or Parquet")
    if path.suffix == ".parquet":
        return _parquet(path)
    if path.suffix in (".jsonl", ".json", ".ndjson"):
        return _json_lines(path)
    raise ConfigError(f"unknown kind of file {path.suffix!r}", str(path), "give .jsonl or .parquet")


def _json_lines(path: Path) -> Iterator[tuple[str, Row]]:
    count = 0
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
            where = f"{path.name}:{number}"
            if len(line) > MAX_LINE_BYTES:
                raise DataError(f"a line of more than {MAX_LINE_BYTES} bytes", where)
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

    def no_constant(name: str) -> None:
        raise DataError(f"{name} is not JSON", where, "write null, or leave the row out")

    def unique(pairs: list[tuple[str, Any]]) -> Row:
        made = dict(pairs)
        if len(made) != len(pairs):
            keys = [k for k, _ in pairs]
            double = next(k for k in keys if keys.count(k) > 1)
            raise DataError("the key stands twice in one object", f"{where}:{snippet(double)}")
        return made

    try:
        parsed = json.loads(text, parse_constant=no_constant, object_pairs_hook=unique)
    except RecursionError as error:
        raise DataError("nested too deeply", where) from error
    except ValueError as error:
        raise DataError(f"not JSON ({str(error)[:80]}): {snippet(text)}", where) from error
    if not isinstance(parsed, dict):
        raise DataError(f"not a JSON object: {snippet(text)}", where)
    return parsed


def _parquet(path: Path) -> Iterator[tuple[str, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    yield f"{path.name}:{number}", row
                    number += 1
    except (pa.ArrowException, OSError, UnicodeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"damaged Parquet ({reason})", f"{path.name}:{number}", "fetch the file again") from error
    if number == 0:
        raise DataError("the file has no rows", str(path))


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
