"""Stage `sources`: every source read once, in bounded memory, into prompts, candidates and drops.

Rows are spooled by prompt_id into buckets, then each bucket is resolved and written in order: the first source that
has a prompt owns it, and of one source's rows with the same prompt the one with the smaller row hash stays.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from prefdata import nectar, readers, tables
from prefdata.draws import hex_id
from prefdata.errors import ConfigError, DataError
from prefdata.progress import Progress
from prefdata.run import Job
from prefdata.settings import SourceSettings
from prefdata.toy.make import source_path

STAGE_VERSION = 1
MIN_BUCKETS = 128
"""Memory is that of one bucket: 1/128 of the input, or of a shard where there are more shards than that."""

Record = dict[str, Any]


def run(job: Job) -> None:
    """Read all sources, then write the shards."""
    sources = job.settings.sources.sources
    paths = [_path(job, s) for s in sources]
    _require_distinct(sources, paths)
    spool = job.run.root / "tables" / ".spool"
    shutil.rmtree(spool, ignore_errors=True)
    counts: Counter[str] = Counter()
    try:
        per_shard = -(-MIN_BUCKETS // job.settings.num_shards)
        _spool(job, sources, paths, spool, per_shard, counts)
        _require_rate(counts, job.settings.sources.max_reject_rate)
        for shard in job.run.shards:
            with job.writers(shard) as writers:
                for bucket in range(shard * per_shard, (shard + 1) * per_shard):
                    job.write(writers, _resolve(_load(spool / str(bucket))))
    finally:
        shutil.rmtree(spool, ignore_errors=True)


def _path(job: Job, source: SourceSettings) -> Path | None:
    if source.path == "toy:":
        return source_path(job.run.root)
    return None if source.path is None else Path(source.path).expanduser()


def _require_distinct(sources: list[SourceSettings], paths: list[Path | None]) -> None:
    names = Counter(s.name for s in sources)
    places = Counter(
        str(p.resolve()) if p else f"{s.dataset}@{s.revision}:{s.config}:{s.hub_split}"
        for s, p in zip(sources, paths, strict=True)
    )
    for what in (names, places):
        for value, count in what.items():
            if count > 1:
                raise ConfigError(f"{value} is given {count} times", "sources.sources", "list it once")


def _spool(
    job: Job, sources: list[SourceSettings], paths: list[Path | None], spool: Path, per_shard: int, counts: Counter[str]
) -> None:
    """Append every parsed row to its bucket's file as one line."""
    spool.mkdir(parents=True)
    with ExitStack() as stack, Progress("sources", None) as progress:
        files: dict[int, TextIO] = {}
        for order, (source, path) in enumerate(zip(sources, paths, strict=True)):
            seen: dict[str, str] = {}
            for where, row in readers.rows(source, path):
                line = _line(job, source, row, where, order, seen)
                _count(counts, line)
                bucket = _bucket(line, per_shard, job.settings.num_shards)
                if bucket not in files:
                    files[bucket] = stack.enter_context((spool / str(bucket)).open("w", encoding="utf-8"))
                files[bucket].write(json.dumps(line, ensure_ascii=True) + "\n")
                progress.advance()


def _line(job: Job, source: SourceSettings, row: Record, where: str, order: int, seen: dict[str, str]) -> Record:
    limits = job.settings.sources
    parsed = nectar.parse(row, source, where, limits.max_chars, limits.unknown_fields)
    row_hash = hex_id(json.dumps(row, sort_keys=True, default=str))
    if "id" in source.fields:
        row_id = str(row[source.fields["id"]])
        if row_id in seen:
            raise DataError(f"the row id {row_id!r} stands at {seen[row_id]} too", f"{where}:{source.fields['id']}")
        seen[row_id] = where
    return {
        "order": order,
        "row_hash": row_hash,
        "prompt": parsed.prompt,
        "candidates": parsed.candidates,
        "drops": parsed.drops,
    }


def _bucket(line: Record, per_shard: int, num_shards: int) -> int:
    """The bucket of the row's prompt; rows without one go first in a shard of their own hash (null sorts first)."""
    known = [line["prompt"]] if line["prompt"] else [d for d in line["drops"] if d.get("prompt_id")]
    if known:
        return tables.shard_of(known[0]["prompt_id"], per_shard * num_shards)
    return tables.shard_of(line["row_hash"], num_shards) * per_shard


def _count(counts: Counter[str], line: Record) -> None:
    counts["input"] += 1 + len(line["candidates"])
    counts.update(d["reason"] for d in line["drops"])
    counts["bad"] += len(line["drops"])


def _require_rate(counts: Counter[str], limit: float) -> None:
    share = counts["bad"] / max(counts["input"], 1)
    if share > limit:
        reasons = {k: v for k, v in counts.items() if k not in ("input", "bad")}
        raise DataError(
            f"{counts['bad']} of {counts['input']} rows and answers are bad ({share:.2%} > {limit:.2%}): {reasons}",
            "sources",
            "mend the input, or raise sources.max_reject_rate if this is expected",
        )


def _load(path: Path) -> Iterator[Record]:
    if path.exists():
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)


def _resolve(lines: Iterator[Record]) -> dict[str, Any]:
    """One bucket: one row a prompt, the others recorded as drops of scope row."""
    prompts, candidates, drops = [], [], []
    owners: dict[str, int] = {}
    for line in sorted(lines, key=lambda r: (r["order"], r["row_hash"])):
        prompt = line["prompt"]
        if prompt is None:
            drops += line["drops"]
        elif prompt["prompt_id"] in owners:
            drops.append(_duplicate(prompt, same_source=owners[prompt["prompt_id"]] == line["order"]))
        else:
            owners[prompt["prompt_id"]] = line["order"]
            prompts.append(prompt)
            candidates += line["candidates"]
            drops += line["drops"]
    return {
        "prompts": tables.frame("prompts", prompts),
        "candidates": tables.frame("candidates", candidates),
        "drops": tables.frame("drops", drops),
    }


def _duplicate(prompt: Record, same_source: bool) -> Record:
    return {
        "scope": "row",
        "prompt_id": prompt["prompt_id"],
        "source": prompt["source"],
        "source_row": prompt["source_row"],
        "stage": "sources",
        "reason": "duplicate_prompt" if same_source else "other_source",
    }
