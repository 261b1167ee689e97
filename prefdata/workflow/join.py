"""A delta joined to the texts of its sources: what the published script cards/join.py does.

The sources are read by the stage `sources` as the recipe read them, in a folder of its own that is removed; then the published
rows are gone through, in the order of prompt_id as the stage's tables are, and written again with their texts.
"""

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import ValidationError

from prefdata.errors import ConfigError, DataError, did_you_mean
from prefdata.output import delta, read_back
from prefdata.output.hub.manifest import CARD, MANIFEST
from prefdata.output.message_columns import Keys, holds, keys_of
from prefdata.output.published_configs import CONFIGS, OF_CANDIDATES, Config
from prefdata.output.published_files import Files
from prefdata.recipe.job import Job
from prefdata.recipe.read import explain, validate_recipe
from prefdata.recipe.results import Results
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.units import Part
from prefdata.sources.settings import SourcesSettings
from prefdata.stages.registry import STAGES
from prefdata.tables import atomic, content, files
from prefdata.tables.files import PromptReader
from prefdata.tables.views import Frames
from prefdata.workflow.execute import execute

NAME = "joined"
CANDIDATES = Config(lambda f, s, k: f["candidates"])
"""Rows that have their split already."""


@dataclass
class Counts:
    """Rows of the delta, and rows that found their texts."""

    published: int = 0
    joined: int = 0


def join(folder: Path, out: Path, places: Iterable[Sequence[str]]) -> str:
    """Write the set of a delta's folder with its texts to a new folder; what became of its rows, in words. `places`: (source's
    name, file). Raises ConfigError, DataError."""
    facts = _facts(folder)
    if out.exists():
        raise ConfigError("it is there already", str(out), "give a folder that is not")
    try:
        counts, hashes = _write(folder, out, facts, places)
        if counts.published and not counts.joined:
            raise DataError("no prompt of the delta is in these sources", str(folder), "give the files that it was made of")
        _write_texts(out, hashes, {key: value for key, value in facts.items() if key != delta.KEY})
    except BaseException:
        atomic.remove_folder(out)
        raise
    return f"{counts.joined} of {counts.published} rows have their texts now: {out}"


def _write(folder: Path, out: Path, facts: dict[str, Any], places: Iterable[Sequence[str]]) -> tuple[Counts, dict[str, str]]:
    """Read the sources and write the data files; how many rows were joined, and the files' hashes by path."""
    counts, hashes = Counts(), dict[str, str]()
    with tempfile.TemporaryDirectory(prefix="prefdata-join-") as scratch:
        results = Results(_recipe(facts, places), STAGES, Path(scratch))
        execute(Job(results, "sources"))
        wanted = {n: c for n, c in CONFIGS.items() if n in facts[delta.KEY]["configs"] and c.texts and c.of == "preference"}
        for config in sorted(folder.glob("data/*")):
            paths = sorted(config.glob("*.parquet"))
            keys = keys_of(f["sets"] for path in paths if _of_sets(path) for f in _parts(path, results))
            for path in paths:
                hashes |= _join(path, out, results, wanted if config.name == "sets" else {}, keys, counts)
    return counts, hashes


def _facts(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        own = facts[delta.KEY]
        named = [s["name"] for s in own["sources"]["sources"]]
        if not isinstance(own["configs"], list) or not {"seed", "origins"} <= facts.keys() or not named:
            raise TypeError("not a delta's")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError("not the manifest of a delta", str(path), "fetch the set again") from error
    return dict(facts)


def _recipe(facts: dict[str, Any], places: Iterable[Sequence[str]]) -> Settings:
    """A recipe that reads the sources as that of the delta did. Raises ConfigError."""
    paths: dict[str, list[str]] = {}
    for name, path in places:
        paths.setdefault(name, []).append(path)
    own = facts[delta.KEY]["sources"]
    local = [s["name"] for s in own["sources"] if s.get("dataset") is None]
    if unknown := sorted(set(paths) - set(local)):
        raise ConfigError(f"no local source is named {unknown[0]!r}{did_you_mean(unknown[0], local)}")
    if lacking := [name for name in local if name not in paths]:
        raise ConfigError(f"where does the source {lacking[0]!r} lie?", do=f"add {lacking[0]}=FILE")
    read = [{**s, "path": paths.get(s["name"])} for s in own["sources"]]
    base = {"name": NAME, "seed": facts["seed"], "dedup": None, "sets": {"origins": facts["origins"]}}
    whole = validate_recipe({**base, "sources": {"sources": [{"name": NAME, "path": NAME}]}}, MANIFEST)
    try:  # not as part of a recipe, which must say who answers prompts that come alone
        return whole.model_copy(update={"sources": SourcesSettings.model_validate({**own, "sources": read})})
    except ValidationError as error:
        raise ConfigError(explain(error, SourcesSettings, MANIFEST)) from error


def _of_sets(path: Path) -> bool:
    with read_back.reading(path):
        return "candidates" in pq.read_schema(path).names


def _join(path: Path, out: Path, results: Results, wanted: dict[str, Config], keys: Keys, counts: Counts) -> dict[str, str]:
    """Write one file of the delta again, and what is made of it. The hashes of what was made, by path."""
    config, shard = path.parent.name, path.stem.partition("-")[2]
    of_sets = _of_sets(path)
    if not of_sets and config != "candidates" and not config.endswith(OF_CANDIDATES):
        return _copied(path, out)
    made = {config: CONFIGS["sets"] if of_sets else CANDIDATES, **wanted}
    with Files(out, shard, keys, _any_arguments(results)) as written:
        for frames in _parts(path, results, counts):
            written.write(made, frames, results.settings)
    return {name: built.digest for name, built in written.built.items()}


def _any_arguments(results: Results) -> bool:
    return holds(results.table(Part("prompts", "sources"), 0), "template_kwargs")


def _copied(path: Path, out: Path) -> dict[str, str]:
    """Rows that never had texts, verdicts, log-probs, drops: the file as it is, if it is whole."""
    with read_back.reading(path):
        table = pq.read_table(path, page_checksum_verification=True)
    name, digest = f"data/{path.parent.name}/{path.name}", content.ContentHash(table.schema)
    digest.update(table)
    atomic.atomic_write(out / name, partial(shutil.copyfile, path))
    return {name: digest.hexdigest()}


def _parts(path: Path, results: Results, counts: Counts | None = None) -> Iterator[Frames]:
    """The rows of one file of `sets` or `candidates` with their texts, in bounded memory."""
    readers = {table: PromptReader(results.table(Part(table, "sources"), 0), table) for table in ("prompts", "candidates")}
    with read_back.reading(path), pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
        files.require_decodable(file, path)
        for batch in file.iter_batches(batch_size=read_back.BATCH_ROWS):
            rows = pl.DataFrame(pl.from_arrow(pa.Table.from_batches([batch], file.schema_arrow)))
            if rows.is_empty():
                continue
            found = {table: reader.until(rows["prompt_id"][-1]) for table, reader in readers.items()}
            joined, of_sets = _filled(rows, delta.texts_of(found["prompts"], found["candidates"]), path)
            if counts is not None:
                counts.published += rows.height
                counts.joined += joined.height
            yield {"sets" if of_sets else "candidates": joined}


def _filled(rows: pl.DataFrame, texts: Frames, path: Path) -> tuple[pl.DataFrame, bool]:
    """The rows with their texts, and whether they are of `sets`."""
    of_sets = "candidates" in rows.columns
    try:
        return (delta.with_texts if of_sets else delta.answers_with_texts)(rows, texts), of_sets
    except pl.exceptions.PolarsError as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"not rows of a delta ({reason})", str(path), "fetch the set again") from error


def _write_texts(out: Path, hashes: dict[str, str], facts: dict[str, Any]) -> None:
    """The manifest, and a card whose header `datasets` reads."""
    configs: dict[str, list[dict[str, str]]] = {}
    for split, config in dict.fromkeys((p.split("/")[2].partition("-")[0], p.split("/")[1]) for p in sorted(hashes)):
        configs.setdefault(config, []).append({"split": split, "path": f"data/{config}/{split}-*.parquet"})
    listed = [{"config_name": config, "data_files": paths} for config, paths in sorted(configs.items())]
    header = yaml.safe_dump({"configs": listed}, sort_keys=False)
    atomic.atomic_text(out / CARD, f"---\n{header}---\nA set joined to the texts of its sources.\n")
    atomic.atomic_text(out / MANIFEST, json.dumps({**facts, "files": hashes}, indent=1, sort_keys=True))
