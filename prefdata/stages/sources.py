"""Stage `sources`: every source read once, in bounded memory, into prompts, candidates and drops.

Rows are spooled by prompt_id into buckets, then buckets are resolved and written in order: the first source that
has a prompt owns it. Several rows of one prompt make its candidates together where the source's shape says how (pairs,
one answer a row); else the one with the smaller row hash stays.
"""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from prefdata.draws import hex_id
from prefdata.errors import DataError, PrefdataError, snippet
from prefdata.progress import Progress
from prefdata.recipe import places
from prefdata.recipe.job import Job
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Slice, Stage, without
from prefdata.sources import readers, rows
from prefdata.sources.pairs import together
from prefdata.sources.rows import Fields, Limits, Record
from prefdata.sources.settings import SourceSettings, SourcesSettings
from prefdata.sources.shapes import COMMON_FIELDS, SHAPES
from prefdata.sources.templated import Templated
from prefdata.stages import spool
from prefdata.stages.graph import asked
from prefdata.stages.joined_rows import HELD_OUT, contradicting, resolve
from prefdata.tables import schema
from prefdata.tables.drops import reason_of

SPOOL = "tables/.spool"
MIN_BUCKETS = 128
"""Memory is that of one bucket: 1/128 of the input, or of a shard where there are more shards than that."""


def run(job: Job) -> None:
    """Read all sources, then write the shards."""
    settings = job.settings.sources
    files = [_files(job, s) for s in settings.sources]
    readers.require_distinct(settings.sources, files)
    folder = job.own_folder(SPOOL)
    shutil.rmtree(folder, ignore_errors=True)
    counts: Counter[str] = Counter()
    try:
        per_shard = -(-MIN_BUCKETS // job.settings.num_shards)
        _spool(job, files, folder, per_shard, counts)
        _count_contradictions(job, folder, counts)
        _require_rate(counts, settings.max_reject_rate)
        for shard in job.shards:
            _write(job, shard, folder, range(shard * per_shard, (shard + 1) * per_shard))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(job: Job, shard: int, folder: Path, buckets: range) -> None:
    """Write a shard's tables: while one part of them is checked, hashed and compressed, the next is made."""
    with job.writers(shard) as writers, ThreadPoolExecutor(1) as background:
        waiting = Future[None]()
        waiting.set_result(None)
        for paths in spool.together(folder, buckets):
            made = resolve(_hashed(line for path in paths for line in spool.lines(path)), job.settings)
            waiting.result()
            waiting = background.submit(job.write, writers, made)
        waiting.result()


def _hashed(lines: Iterable[Record]) -> list[Record]:
    """The lines, those of prompts that have several with the hashes of their rows, which few need."""
    listed = list(lines)
    counts = Counter(line["prompt"]["prompt_id"] for line in listed if line["prompt"])
    for line in listed:
        if line["row_hash"] is None and counts[line["prompt"]["prompt_id"]] > 1:
            line["row_hash"] = _row_hash(readers.line_at(*line["place"]))
    return listed


def _row_hash(row: Record) -> str:
    return hex_id(json.dumps(row, sort_keys=True, default=str))


def _files(job: Job, source: SourceSettings) -> list[Path]:
    """The source's files in order; the embedded world's lies in the results folder."""
    return [job.input(places.TOY_SOURCE)] if readers.is_toy(source) else readers.files_of(source)


def _spool(job: Job, files: list[list[Path]], folder: Path, per_shard: int, counts: Counter[str]) -> None:
    """Append every parsed row to its bucket's file as one line."""
    templated = Templated()
    with spool.Spool(folder) as spooled, Progress("sources", None) as progress:
        for order, (source, paths) in enumerate(zip(job.settings.sources.sources, files, strict=True)):
            seen: dict[str, str] = {}
            every = job.settings.sources.unknown_fields == "error"
            for where, row in readers.rows(source, paths, every):
                line = {"order": order, **_line(job.settings.sources, source, row, where, seen)}
                _count(counts, line)
                templated.look(where, line["prompt"], line["candidates"])
                spooled.write(_bucket(line, per_shard, job.settings.num_shards), line)
                progress.advance()
    if not _rendered(job.settings):
        templated.say()


def _rendered(settings: Settings) -> bool:
    """Whether the recipe says somewhere that its prompts carry the template."""
    templates = [r.template for r in settings.score.references] + [r.get("template") for r in settings.runs.values()]
    return "rendered" in templates


def _line(settings: SourcesSettings, source: SourceSettings, row: Record, where: str, seen: dict[str, str]) -> Record:
    if "id" in source.fields:
        row_id = Fields(row, source.fields, where)
        value = str(row_id.get("id", str, int))
        if value in seen:
            raise DataError(f"the row id {value!r} stands at {seen[value]} too", row_id.at("id"), "make the ids unique")
        seen[value] = where
    made = parse(row, source, where, settings)
    if isinstance(row, readers.Line) and made.prompt is not None and SHAPES[source.format].join is None:
        how: Record = {"row_hash": None, "place": row.place}
    else:
        how = {"row_hash": _row_hash(row)}
    return {**how, "prompt": made.prompt, "candidates": made.candidates, "drops": made.drops}


def parse(row: Record, source: SourceSettings, where: str, settings: SourcesSettings) -> rows.Parsed:
    """One row of a source. Raises DataError (file:row:field) where the row's shape is wrong."""
    shape = SHAPES[source.format]
    fields = Fields(row, {**shape.fields, **source.fields}, where)
    if settings.unknown_fields == "error":
        known = {*fields.names.values(), *COMMON_FIELDS, *shape.extras}
        if unknown := sorted(set(row) - known):
            raise DataError("unknown field", f"{where}:{unknown[0]}", "map it in fields or set unknown_fields: ignore")
    common = {
        "source": source.revisioned,
        "source_row": readers.row_id(fields, source),
        "source_split": _split(fields, source),
        "license": source.license,
    }
    shaped = replace(shape.prompt(fields), bare=True) if source.prompts_only else shape.read(fields)
    limits = Limits(settings.max_chars, settings.control_characters == "keep")
    return rows.parsed(shaped, common, limits, source.exclude)


def _split(fields: Fields, source: SourceSettings) -> str | None:
    if source.split is not None or ("split" not in source.fields and not fields.has("split")):
        return source.split or held_out(source)
    value = fields.get("split", str)
    if value not in schema.SPLITS:
        raise DataError(f"{snippet(value)} is none of {list(schema.SPLITS)}", fields.at("split"), "correct the row")
    return str(value)


def held_out(source: SourceSettings) -> str | None:
    """The split that the name of the Hub split tells: test_prefs is test, validation is validation; train is cut by shares."""
    names = (n for n in HELD_OUT if source.dataset is not None and source.hub_split.startswith(n))
    return next(names, None)


def _bucket(line: Record, per_shard: int, num_shards: int) -> int:
    """The bucket of the row's prompt; rows without one go first in a shard of their own hash (null sorts first)."""
    known = [line["prompt"]] if line["prompt"] else [d for d in line["drops"] if d.get("prompt_id")]
    if known:
        return schema.shard_of(known[0]["prompt_id"], per_shard * num_shards)
    return schema.shard_of(line["row_hash"], num_shards) * per_shard


def _count(counts: Counter[str], line: Record) -> None:
    counts["input"] += 1 + len(line["candidates"])
    reasons = [d["reason"] for d in line["drops"]] + [c["dropped"]["reason"] for c in line["candidates"] if "dropped" in c]
    counts.update(r for r in reasons if reason_of(r).found == "rows")


def _require_rate(counts: Counter[str], limit: float) -> None:
    reasons = {k: v for k, v in counts.items() if k != "input"}
    bad = sum(reasons.values())
    if bad > limit * counts["input"]:
        raise DataError(
            f"{bad} of {counts['input']} rows and answers are bad ({bad / counts['input']:.2%} > {limit:.2%}): {reasons}",
            "sources",
            "mend the input, or raise sources.max_reject_rate if this is expected",
        )


def _count_contradictions(job: Job, folder: Path, counts: Counter[str]) -> None:
    """Those between rows of one prompt, which can be seen when all rows are there, and tell of them."""
    if all(SHAPES[s.format].join in (None, together) for s in job.settings.sources.sources):
        return
    found = list[Record]()
    for path in sorted(folder.iterdir()):
        found += contradicting(_hashed(spool.lines(path, spool.repeated(path))), job.settings)
    if found:
        counts["contradictory"] += len(found)
        text = snippet(found[0]["messages"][-1]["content"])
        what = f"contradictions between rows of one prompt: {len(found)}, the first of {text}"
        print(f"warning: sources: {what}; what such pairs say is not believed", file=sys.stderr)


def _local_files(settings: Settings, unit: str) -> list[Path]:
    """Local files of the sources; a missing one is reported by the stage itself, with what to do."""
    found: list[Path] = []
    for source in settings.sources.sources:
        with suppress(PrefdataError):
            found += readers.files_of(source)
    return [p for p in found if p.is_file()]


def _toy_rows(settings: Settings, unit: str) -> list[str]:
    return [places.TOY_SOURCE] if any(readers.is_toy(s) for s in settings.sources.sources) else []


def _slice(settings: Settings, unit: str) -> Slice:
    toy = settings.toy.model_dump() if settings.toy else None
    return {**without(settings.sources), "toy": toy, "seed": settings.seed, **asked(settings)}


STAGE = Stage(
    name="sources",
    help="Read prompts and answers from files or the Hub into tables.",
    version=4,
    run=run,
    per="run",
    writes=("prompts", "candidates", "drops"),
    reads_files=_toy_rows,
    reads_outside=_local_files,
    folders=lambda s: [SPOOL],
    slice=_slice,
)
