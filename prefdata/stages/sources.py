"""Stage `sources`: every source read once, in bounded memory, into prompts, candidates and drops.

Rows are spooled by prompt_id into buckets, then buckets are resolved and written in order: the first source that
has a prompt owns it. Several rows of one prompt make its candidates together where the source's shape says how (pairs,
one answer a row); else the one with the smaller row hash stays.
"""

import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

import polars as pl

from prefdata.errors import DataError, PrefdataError, snippet
from prefdata.recipe import places
from prefdata.recipe.job import Job
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Slice, Stage, without
from prefdata.sources import readers
from prefdata.sources.pairs import together
from prefdata.sources.rows import Record
from prefdata.sources.settings import SourceSettings
from prefdata.sources.shapes import SHAPES
from prefdata.stages import plain_rows, reading, spool
from prefdata.stages.graph import asked
from prefdata.stages.joined_rows import contradicting, resolve
from prefdata.tables.views import Frames

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
    try:
        per_shard = -(-MIN_BUCKETS // job.settings.num_shards)
        counts = _spool(job, files, folder, per_shard)
        _count_contradictions(job, folder, counts)
        _require_rate(counts, settings.max_reject_rate)
        for shard in job.shards:
            with job.written_behind(shard) as write:
                for paths in spool.together(folder, range(shard * per_shard, (shard + 1) * per_shard)):
                    write(_resolved(job.settings, paths))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _resolved(settings: Settings, paths: Sequence[Path]) -> Frames:
    """The tables of the rows in these files. Plain rows are looked at one by one only where their prompt has other rows."""
    lines, rows = list(spool.lines(paths)), plain_rows.frame(spool.columns(paths, plain_rows.COLUMNS))
    other = [line["prompt"]["prompt_id"] for line in lines if line["prompt"]]
    again = rows["prompt_id"].is_duplicated() | rows["prompt_id"].is_in(other)
    sources = settings.sources.sources
    made = resolve(_hashed([*lines, *plain_rows.records(rows.filter(again), sources)]), settings)
    plain = plain_rows.tables(rows.filter(~again), sources)
    return {table: pl.concat([frame, plain[table]]) if table in plain else frame for table, frame in made.items()}


def _hashed(lines: Iterable[Record]) -> list[Record]:
    """The lines, those of prompts that have several with the hashes of their rows, which few need."""
    listed = list(lines)
    counts = Counter(line["prompt"]["prompt_id"] for line in listed if line["prompt"])
    for line in listed:
        if line["row_hash"] is None and counts[line["prompt"]["prompt_id"]] > 1:
            line["row_hash"] = reading.row_hash(readers.line_at(*line["place"]))
    return listed


def _files(job: Job, source: SourceSettings) -> list[Path]:
    """The source's files in order; the embedded world's lies in the results folder."""
    return [job.input(places.TOY_SOURCE)] if readers.is_toy(source) else readers.files_of(source)


def _spool(job: Job, files: list[list[Path]], folder: Path, per_shard: int) -> Counter[str]:
    """Spool the rows of all sources; what was counted of them."""
    task = reading.Task(job.settings.sources, job.settings.num_shards, per_shard)
    found = reading.read(task, files, folder)
    if not _rendered(job.settings):
        found.templated.say()
    return found.counts


def _rendered(settings: Settings) -> bool:
    """Whether the recipe says somewhere that its prompts carry the template."""
    templates = [r.template for r in settings.score.references] + [r.get("template") for r in settings.runs.values()]
    return "rendered" in templates


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
    for paths in spool.buckets(folder):
        repeated = spool.repeated(paths)
        rows = plain_rows.frame(spool.columns(paths, plain_rows.COLUMNS)) if repeated else plain_rows.frame([])
        same = rows.filter(pl.col("prompt_id").is_in([own.decode() for own in repeated]))
        lines = chain(spool.lines(paths, repeated), plain_rows.records(same, job.settings.sources.sources))
        found += contradicting(_hashed(lines), job.settings)
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
