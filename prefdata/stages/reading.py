"""Rows of the sources as lines of the spool: by this process or, of large files of JSON lines, by several that share them."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from prefdata.draws import hex_id_of_json
from prefdata.errors import DataError, snippet
from prefdata.progress import Progress
from prefdata.sources import readers, rows
from prefdata.sources.plain import is_plain, named
from prefdata.sources.row_json import RowJson
from prefdata.sources.rows import Fields, Limits, Record
from prefdata.sources.settings import SourceSettings, SourcesSettings
from prefdata.sources.shapes import COMMON_FIELDS, SHAPES
from prefdata.sources.templated import Templated
from prefdata.stages import shared_reading
from prefdata.stages.joined_rows import HELD_OUT
from prefdata.stages.plain_rows import PlainRow, columns, leaking
from prefdata.stages.spool import Spool
from prefdata.tables import schema
from prefdata.tables.drops import reason_of
from prefdata.tables.ids import prompt_id

PLAIN_CHARS, ROW_CHARS = 2**25, 2**10
"""So many characters of plain rows are held, a piece of a file at most; what a row takes beside its texts counts as some."""


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
            if shared_reading.pays(source, paths):
                counted = Counter(dict.fromkeys(map(str, paths), 0))
                for piece, some in shared_reading.read(task, order, paths, folder):
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
    """Append these rows of a source to their buckets' files, plain ones together. Raises DataError."""
    found, making = Found(), _Making(task.settings, order)
    plain, chars = list[PlainRow](), 0
    for where, row in rows:
        made = making(row, where)
        found.rows += 1
        if isinstance(made, PlainRow):
            plain.append(made)
            chars += _look(found.templated, made)
        else:
            found.templated.look(where, *_texts(made))
            _put(task, made, spooled, found)
        if chars >= PLAIN_CHARS:
            _put_plain(task, plain, making, spooled, found)
            plain, chars = [], 0
        if progress is not None:
            progress.advance()
    _put_plain(task, plain, making, spooled, found)
    return found


def _look(templated: Templated, row: PlainRow) -> int:
    """Look for templates in the row; its characters, and some for what it takes beside them."""
    asked, said = [m["content"] for m in row.messages], [text for _, text, *_ in row.candidates]
    templated.look(row.fields.where, asked, said)
    return sum(map(len, asked)) + sum(map(len, said)) + ROW_CHARS


def _texts(line: Record) -> tuple[list[str], list[str]]:
    """Those of the prompt and of the answers."""
    asked = line["prompt"]["messages"] if line["prompt"] else ()
    return [m["content"] for m in asked], [c["response"] for c in line["candidates"]]


def _put(task: Task, line: Record, spooled: Spool, found: Found) -> None:
    """Count a line and append it."""
    _count(found.counts, line)
    finished_line = finished(line, task.settings.sources[line["order"]])
    spooled.write(_bucket(line, task.per_shard, task.num_shards), finished_line)


def _put_plain(task: Task, held: Sequence[PlainRow], making: "_Making", spooled: Spool, found: Found) -> None:
    """Count plain rows and append them, all of a bucket together; what is not plain after all as lines."""
    if not held:
        return
    rows = sorted(held, key=attrgetter("prompt_id"))
    batch = columns(rows)
    if leaky := leaking(batch):
        for number in sorted(leaky):
            _put(task, making.line(rows[number].fields), spooled, found)
        _put_plain(task, [row for number, row in enumerate(rows) if number not in leaky], making, spooled, found)
        return
    found.counts["input"] += len(rows) + sum(len(row.candidates) for row in rows)
    start, buckets = 0, (schema.shard_of(row.prompt_id, task.per_shard * task.num_shards) for row in rows)
    for bucket, same in groupby(buckets):
        count = len(list(same))
        spooled.write_columns(bucket, batch.slice(start, count))
        start += count


class _Making:
    """What a row of a source becomes: columns, or a line. Raises DataError (file:row:field) where its shape is wrong."""

    def __init__(self, settings: SourcesSettings, order: int) -> None:
        self._settings, self._order, self._source = settings, order, settings.sources[order]
        self._shape, self._limits = SHAPES[self._source.format], _limits(settings)
        self._names = {**self._shape.fields, **self._source.fields}
        self._alone = self._shape.join is None and self._source.weight >= 1 and not self._shape.needs_first
        self._seen, self._json = dict[str, str](), RowJson()

    def __call__(self, row: Record, where: str) -> PlainRow | Record:
        fields = Fields(row, self._names, where)
        if "id" in self._source.fields:
            self._require_new(fields)
        shaped, whose = _shaped(fields, self._source, self._settings, self._json)
        if self._alone and is_plain(shaped, self._limits, self._source.exclude):
            return self._plain(fields, shaped, whose)
        return self._line(fields, shaped, whose)

    def line(self, fields: Fields) -> Record:
        """A row as a line."""
        return self._line(fields, *_shaped(fields, self._source, self._settings, self._json))

    def _line(self, fields: Fields, shaped: rows.Shaped, whose: Record) -> Record:
        made, place = rows.parsed(shaped, whose, self._limits, self._source.exclude), self._place(fields)
        if place and made.prompt is not None:
            how: Record = {"row_hash": None, "place": place}
        else:
            how = {"row_hash": row_hash(fields.row)}
        return {"order": self._order, **how, "prompt": made.prompt, "candidates": made.candidates, "drops": made.drops}

    def _plain(self, fields: Fields, shaped: rows.Shaped, whose: Record) -> PlainRow:
        own, place = prompt_id(shaped.messages), self._place(fields)
        path, start = (os.fsencode(place[0]), place[1]) if place else (None, None)
        stands = (path, start, None if place else row_hash(fields.row))
        of_source = whose["source_row"], whose["source_split"]
        candidates = named(own, shaped.answers, self._json.quoted)
        return PlainRow(own, self._order, *stands, *of_source, shaped.messages, candidates, fields)

    def _place(self, fields: Fields) -> readers.Place | None:
        """Where the row can be read again, if that is all that other rows of its prompt need."""
        return fields.row.place if isinstance(fields.row, readers.Line) and self._shape.join is None else None

    def _require_new(self, fields: Fields) -> None:
        """Raise DataError where another row has the row's id."""
        value = str(fields.get("id", str, int))
        if value in self._seen:
            raise DataError(f"the row id {value!r} stands at {self._seen[value]} too", fields.at("id"), "make the ids unique")
        self._seen[value] = fields.where


def _limits(settings: SourcesSettings) -> Limits:
    return Limits(settings.max_chars, settings.control_characters == "keep")


def finished(line: Record, source: SourceSettings) -> Record:
    """The line with its candidates named and ranked, where no other row of the prompt can have a say in that."""
    if line["prompt"] is None or SHAPES[source.format].join is not None:
        return line
    candidates, drops = rows.finish(line["candidates"])
    return {**line, "candidates": candidates, "finished": drops}


def row_hash(row: Mapping[str, Any]) -> str:
    """What orders the rows of one prompt."""
    return hex_id_of_json(json.dumps(row, sort_keys=True, default=str))


def parse(row: Record, source: SourceSettings, where: str, settings: SourcesSettings) -> rows.Parsed:
    """One row of a source. Raises DataError (file:row:field) where the row's shape is wrong."""
    fields = Fields(row, {**SHAPES[source.format].fields, **source.fields}, where)
    shaped, whose = _shaped(fields, source, settings, RowJson())
    return rows.parsed(shaped, whose, _limits(settings), source.exclude)


def _shaped(fields: Fields, source: SourceSettings, settings: SourcesSettings, json: RowJson) -> tuple[rows.Shaped, Record]:
    """(what the row holds, what its prompt has of its source). Raises DataError."""
    shape = SHAPES[source.format]
    if settings.unknown_fields == "error":
        known = {*fields.names.values(), *COMMON_FIELDS, *shape.extras}
        if unknown := sorted(set(fields.row) - known):
            raise DataError("unknown field", f"{fields.where}:{unknown[0]}", "map it in fields or set unknown_fields: ignore")
    common = {
        "source": source.revisioned,
        "source_row": readers.row_id(fields, source, json),
        "source_split": _split(fields, source),
        "license": source.license,
    }
    return (replace(shape.prompt(fields), bare=True) if source.prompts_only else shape.read(fields)), common


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
