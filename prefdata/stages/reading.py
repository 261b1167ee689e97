"""Rows of the sources as lines of the spool: by this process or, of large files of JSON lines, by several that share them."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from prefdata.draws import hex_id
from prefdata.errors import DataError, snippet
from prefdata.progress import Progress
from prefdata.sources import readers, rows
from prefdata.sources.rows import Fields, Limits, Record
from prefdata.sources.settings import SourceSettings, SourcesSettings
from prefdata.sources.shapes import COMMON_FIELDS, SHAPES
from prefdata.sources.templated import Templated
from prefdata.stages import shared_reading
from prefdata.stages.joined_rows import HELD_OUT
from prefdata.stages.spool import Spool
from prefdata.tables import schema
from prefdata.tables.drops import reason_of


@dataclass(frozen=True)
class Task:
    """What every reader of rows knows: the sources, and how prompts lie in shards and buckets of shards."""

    settings: SourcesSettings
    num_shards: int
    per_shard: int


@dataclass
class Found:
    """What was counted of the rows: rows, answers and what is bad of them, and texts that carry a template."""

    counts: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    templated: Templated = field(default_factory=Templated)

    def add(self, other: "Found") -> None:
        """What was counted of later rows."""
        self.counts.update(other.counts)
        self.rows += other.rows
        self.templated.add(other.templated)


def read(task: Task, files: Sequence[Sequence[Path]], folder: Path) -> Found:
    """Spool every row of every source under `folder`. Raises DataError (file:row:field) at the first that is wrong."""
    found = Found()
    with Spool(folder / "0") as spooled, Progress("sources", None) as progress:
        for order, (source, paths) in enumerate(zip(task.settings.sources, files, strict=True)):
            pieces = shared_reading.pieces(source, paths)
            if pieces:
                counted = Counter(dict.fromkeys(map(str, paths), 0))
                for piece, some in zip(pieces, shared_reading.read(task, order, pieces, folder), strict=True):
                    counted[piece.path] += some.rows
                    found.add(some)
                    progress.advance(some.rows)
                for path in (p for p in paths if not counted[str(p)]):
                    raise readers.without_rows(path)
            else:
                every = task.settings.unknown_fields == "error"
                found.add(spool_rows(task, order, readers.rows(source, paths, every), spooled, progress))
    return found


def spool_rows(
    task: Task, order: int, rows: Iterable[tuple[str, Record]], spooled: Spool, progress: Progress | None = None
) -> Found:
    """Append these rows of a source, each to its bucket's file as one line. Raises DataError."""
    source, found, seen = task.settings.sources[order], Found(), dict[str, str]()
    for where, row in rows:
        line = {"order": order, **_line(task.settings, source, row, where, seen)}
        _count(found.counts, line)
        found.rows += 1
        found.templated.look(where, line["prompt"], line["candidates"])
        spooled.write(_bucket(line, task.per_shard, task.num_shards), finished(line, source))
        if progress is not None:
            progress.advance()
    return found


def finished(line: Record, source: SourceSettings) -> Record:
    """The line with its candidates named and ranked, where no other row of the prompt can have a say in that."""
    if line["prompt"] is None or SHAPES[source.format].join is not None:
        return line
    candidates, drops = rows.finish(line["candidates"])
    return {**line, "candidates": candidates, "finished": drops}


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
        how = {"row_hash": row_hash(row)}
    return {**how, "prompt": made.prompt, "candidates": made.candidates, "drops": made.drops}


def row_hash(row: Record) -> str:
    """What orders the rows of one prompt."""
    return hex_id(json.dumps(row, sort_keys=True, default=str))


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
