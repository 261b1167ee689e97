"""Stage `sources`: every source read once, in bounded memory, into prompts, candidates and drops.

Rows are spooled by prompt_id into buckets, then each bucket is resolved and written in order: the first source that
has a prompt owns it. Several rows of one prompt make its candidates together where the source's shape says how (pairs,
one answer a row); else the one with the smaller row hash stays.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from prefdata.draws import hex_id, uniform
from prefdata.errors import DataError, PrefdataError, snippet
from prefdata.progress import Progress
from prefdata.recipe import places
from prefdata.recipe.job import Job
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Slice, Stage, without
from prefdata.sources import readers, rows
from prefdata.sources.rows import Fields, Limits, Record
from prefdata.sources.settings import SourceSettings, SourcesSettings
from prefdata.sources.shapes import COMMON_FIELDS, SHAPES
from prefdata.sources.templated import Templated
from prefdata.stages.graph import asked
from prefdata.tables import schema
from prefdata.tables.atomic import writing
from prefdata.tables.drops import drop, reason_of

SPOOL = "tables/.spool"
HELD_OUT = ("test", "validation")
MIN_BUCKETS = 128
"""Memory is that of one bucket: 1/128 of the input, or of a shard where there are more shards than that."""


def run(job: Job) -> None:
    """Read all sources, then write the shards."""
    settings = job.settings.sources
    files = [_files(job, s) for s in settings.sources]
    readers.require_distinct(settings.sources, files)
    spool = job.own_folder(SPOOL)
    shutil.rmtree(spool, ignore_errors=True)
    counts: Counter[str] = Counter()
    try:
        per_shard = -(-MIN_BUCKETS // job.settings.num_shards)
        _spool(job, files, spool, per_shard, counts)
        _require_rate(counts, settings.max_reject_rate)
        for shard in job.shards:
            with job.writers(shard) as writers:
                for bucket in range(shard * per_shard, (shard + 1) * per_shard):
                    job.write(writers, resolve(_load(spool / str(bucket)), job.settings))
    finally:
        shutil.rmtree(spool, ignore_errors=True)


def _files(job: Job, source: SourceSettings) -> list[Path]:
    """The source's files in order; the embedded world's lies in the results folder."""
    return [job.input(places.TOY_SOURCE)] if readers.is_toy(source) else readers.files_of(source)


def _spool(job: Job, files: list[list[Path]], spool: Path, per_shard: int, counts: Counter[str]) -> None:
    """Append every parsed row to its bucket's file as one line."""
    templated = Templated()
    with Spool(spool) as spooled, Progress("sources", None) as progress:
        for order, (source, paths) in enumerate(zip(job.settings.sources.sources, files, strict=True)):
            seen: dict[str, str] = {}
            every = job.settings.sources.unknown_fields == "error"
            for where, row in readers.rows(source, paths, every):
                line = {"order": order, **_line(job.settings.sources, source, row, where, seen)}
                _count(counts, line)
                templated.look(where, line["prompt"], line["candidates"])
                bucket = _bucket(line, per_shard, job.settings.num_shards)
                spooled.write(bucket, json.dumps(line, ensure_ascii=True) + "\n")
                progress.advance()
    if not _rendered(job.settings):
        templated.say()


def _rendered(settings: Settings) -> bool:
    """Whether the recipe says somewhere that its prompts carry the template."""
    templates = [r.template for r in settings.score.references] + [r.get("template") for r in settings.runs.values()]
    return "rendered" in templates


class Spool:
    """One text file a bucket; errors of the disk name the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._files = folder, dict[int, TextIO]()

    def __enter__(self) -> "Spool":
        with writing(self.folder):
            self.folder.mkdir(parents=True)
        return self

    def write(self, bucket: int, line: str) -> None:
        with writing(self.folder):
            if bucket not in self._files:
                self._files[bucket] = (self.folder / str(bucket)).open("w", encoding="utf-8")
            self._files[bucket].write(line)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with writing(self.folder) if kind is None else suppress(OSError), ExitStack() as closing:
            for file in self._files.values():
                closing.callback(file.close)


def _line(settings: SourcesSettings, source: SourceSettings, row: Record, where: str, seen: dict[str, str]) -> Record:
    row_hash = hex_id(json.dumps(row, sort_keys=True, default=str))
    if "id" in source.fields:
        row_id = Fields(row, source.fields, where)
        value = str(row_id.get("id", str, int))
        if value in seen:
            raise DataError(f"the row id {value!r} stands at {seen[value]} too", row_id.at("id"), "make the ids unique")
        seen[value] = where
    made = parse(row, source, where, settings)
    return {"row_hash": row_hash, "prompt": made.prompt, "candidates": made.candidates, "drops": made.drops}


def parse(row: Record, source: SourceSettings, where: str, settings: SourcesSettings) -> rows.Parsed:
    """One row of a source. Raises DataError (file:row:field) where the row's shape is wrong."""
    shape = SHAPES[source.format]
    fields = Fields(row, {**shape.fields, **source.fields}, where)
    known = {*fields.names.values(), *COMMON_FIELDS, *shape.extras}
    if settings.unknown_fields == "error" and (unknown := sorted(set(row) - known)):
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
    names = (n for n in ("test", "validation") if source.dataset is not None and source.hub_split.startswith(n))
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


def _load(path: Path) -> Iterator[Record]:
    if path.exists():
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)


def resolve(lines: Iterable[Record], settings: Settings) -> dict[str, Any]:
    """One bucket: one prompt with all its candidates for each prompt_id, the other rows recorded as drops of scope row."""
    sources = settings.sources.sources
    drops: list[Record] = []
    owned: dict[str, list[Record]] = {}
    held: dict[str, str] = {}
    for line in sorted(lines, key=lambda r: (r["order"], _held(r["prompt"]), r["row_hash"])):
        if line["prompt"] is None:
            drops += line["drops"]
            continue
        if _held(line["prompt"]) < len(HELD_OUT):  # a prompt that any row holds out is held out, whoever owns it
            own = HELD_OUT[_held(line["prompt"])]
            held[line["prompt"]["prompt_id"]] = min(own, held.get(line["prompt"]["prompt_id"], own), key=HELD_OUT.index)
        group = owned.setdefault(line["prompt"]["prompt_id"], [])
        same = not group or group[0]["order"] == line["order"]
        if not group or (same and SHAPES[sources[line["order"]].format].join):
            group.append(line)
        else:
            drops.append(drop("row", "sources", "duplicate_prompt" if same else "other_source", line["prompt"]))
    made = [_prompt(group, sources[group[0]["order"]], settings) for group in owned.values()]
    for one in made:
        if one.prompt and one.prompt["prompt_id"] in held:
            one.prompt["source_split"] = held[one.prompt["prompt_id"]]
    return {
        "prompts": schema.frame("prompts", [m.prompt for m in made if m.prompt]),
        "candidates": schema.frame("candidates", [c for m in made for c in m.candidates]),
        "drops": schema.frame("drops", drops + [d for m in made for d in m.drops]),
    }


def _held(prompt: Mapping[str, Any] | None) -> int:
    """Place among the held-out splits; rows for training come after them."""
    split = prompt["source_split"] if prompt else None
    return HELD_OUT.index(split) if split in HELD_OUT else len(HELD_OUT)


def _prompt(group: list[Record], source: SourceSettings, settings: Settings) -> rows.Parsed:
    """The rows of one prompt as one: the smallest source_row names it."""
    prompt = min((line["prompt"] for line in group), key=lambda p: p["source_row"])
    drops = [d for line in group for d in line["drops"]]
    if source.weight < 1 and uniform(settings.seed, "mixture", prompt["prompt_id"]) >= source.weight:
        return rows.Parsed(drops=[*drops, drop("row", "sources", "not_sampled", prompt)])
    shape, listed = SHAPES[source.format], [line["candidates"] for line in group]
    joined, contradictions = shape.join(listed) if shape.join and len(listed) > 1 else (listed[0], [])
    drops += [drop("row", "sources", "contradictory", prompt, detail=text) for text in contradictions]
    for candidate in joined:
        if "dropped" in candidate and candidate["dropped"]["source_row"] is None:
            candidate["dropped"] |= {"source": prompt["source"], "source_row": prompt["source_row"]}
    candidates, more = rows.finish(joined)
    lost = {d["candidate_id"] for d in more}
    if (
        shape.needs_first
        and not source.prompts_only
        and not any(c["source_rank"] == 1 and c["candidate_id"] not in lost for c in candidates)
    ):
        if (
            shape.labels and settings.sets.unpaired
        ):  # labels without an order: else a bad answer would be the best of its prompt
            return rows.Parsed(prompt, [{**c, "source_rank": None} for c in candidates], drops + more)
        bare = [{**d, "scope": "row", "candidate_id": None} for d in more]  # there is no candidate then
        return rows.Parsed(drops=[*drops, *bare, drop("row", "sources", "no_good_answer", prompt)])
    return rows.Parsed(prompt, candidates, drops + more)


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
