"""A set as the page holds it: columns of all prompts, and their texts in compressed chunks that it opens one by one."""

import base64
import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from prefdata.models.tokens import Encoder
from prefdata.output.escape import visible, visible_lines
from prefdata.output.explore.columns import Columns
from prefdata.output.explore.problems import Known
from prefdata.output.looking import one_prompt, token_view
from prefdata.output.looking.opened import MADE_WITH, Row
from prefdata.tables.figures import per_prompt
from prefdata.tables.messages import answer, as_text
from prefdata.tables.views import Frames

Facts = dict[str, Any]
CHUNK_PROMPTS = 64
MOST_TOKENS = 2_000_000
"""Of all prompts: later ones are in the page without their tokens."""
REPLY_CHARS = 4_000
_TOLD = ("temperature", "seed", "sample", "finish", "copies", "score", "win_prob")


@dataclass
class Gathered:
    """What the page shows. `encoder`: whose tokens it shows."""

    columns: Columns
    encoder: Encoder | None = None
    chunks: list[str] = field(default_factory=list)
    tokens: int = 0
    with_tokens: int = 0
    _open: list[Facts] = field(default_factory=list)

    def add(self, frames: Frames) -> None:
        """Gather some prompts: tables `sets`, `candidates`, `verdicts`, `drops`."""
        figures = {row.pop("prompt_id"): row for row in per_prompt(frames["sets"]).iter_rows(named=True)}
        beside = {name: _by_prompt(frames[name]) for name in ("candidates", "verdicts", "drops")}
        for row in frames["sets"].iter_rows(named=True):
            own = {name: rows.get(row["prompt_id"], []) for name, rows in beside.items()}
            self._add(Known(row, figures[row["prompt_id"]], own["verdicts"], own["drops"], list(self.columns.logps)), own)

    def _add(self, known: Known, beside: dict[str, list[Row]]) -> None:
        made = {c["candidate_id"]: {name: c[name] for name in MADE_WITH} for c in beside["candidates"]}
        found = one_prompt.facts(known.row, made)
        numbers = {c["candidate_id"]: place for place, c in enumerate(found["candidates"])}
        last = found["prompt"][-1]["content"] if found["prompt"] else ""
        self.columns.add(known, found["candidates"], last or "")
        dropped = [_dropped(d, beside["candidates"]) for d in known.drops]
        texts: Facts = {
            "prompt": [{"role": visible(m["role"]), "text": visible_lines(as_text(m))} for m in found["prompt"]],
            "more": {name: visible_lines(found[name]) for name in ("tools", "template_kwargs") if found[name]},
            "candidates": [_candidate(c, numbers) for c in found["candidates"]],
            "dropped": dropped,
            "verdicts": [_verdict(v, numbers) for v in known.verdicts],
        }
        if self.encoder is not None and self.tokens < MOST_TOKENS:
            texts["tokens"] = self._tokens(known.row, found["candidates"], self.encoder)
        self._open.append(texts)
        if len(self._open) == CHUNK_PROMPTS:
            self._close()

    def _tokens(self, row: Row, candidates: Sequence[Row], encoder: Encoder) -> Facts:
        found = token_view.facts(row, candidates, encoder)
        made = {"prompt": _spans(found["prompt"]), "candidates": [], **_said(found)}
        for candidate in found["candidates"]:
            own = candidate["tokens"]
            ended = sum(t["part"] == "end" for t in own)
            made["candidates"].append({**_spans(own), "ended": ended, "loss": bool(own) and own[0]["loss"], **_said(candidate)})
        self.with_tokens += 1
        self.tokens += len(found["prompt"]) + sum(len(c["tokens"]) for c in found["candidates"])
        return made

    def _close(self) -> None:
        if self._open:
            self.chunks.append(packed(self._open))
            self._open = []

    def facts(self) -> Facts:
        """What is not a chunk; the last one is closed."""
        self._close()
        where = None if self.encoder is None else {"tokenizer": visible(self.encoder.where), "prompts": self.with_tokens}
        return {**self.columns.facts(), "chunk": CHUNK_PROMPTS, "chunks": len(self.chunks), "tokens": where}


def gather(parts: Iterable[Frames], columns: Columns, encoder: Encoder | None = None) -> Gathered:
    """All parts of a set."""
    made = Gathered(columns, encoder)
    for frames in parts:
        made.add(frames)
    return made


def packed(value: Any) -> str:
    """JSON, gzip, base64: no text of the data can end the element that holds it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode("ascii"), 6, mtime=0)).decode("ascii")


def unpacked(text: str) -> Any:
    """What `packed` packed."""
    return json.loads(gzip.decompress(base64.b64decode(text, validate=True)))


def _by_prompt(rows: pl.DataFrame) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows.iter_rows(named=True):
        found.setdefault(row["prompt_id"], []).append(row)
    return found


def _candidate(own: Row, numbers: dict[str, int]) -> Facts:
    told = {name: own[name] for name in _TOLD if own.get(name) is not None}
    parent = own.get("parent_id")
    return {
        "id": own["candidate_id"],
        "text": visible_lines(as_text(answer(own["response"], own["extras"]))),
        **told,
        **({} if parent is None else {"parent": parent, "of": numbers.get(parent)}),
    }


def _dropped(drop: Row, candidates: Sequence[Row]) -> Facts:
    """What a stage left out of this prompt's answers, with the text where the tables have it."""
    own = next((c for c in candidates if c["candidate_id"] == drop["candidate_id"]), None)
    told = {name: visible(drop[name]) for name in ("stage", "reason", "detail") if drop[name]}
    if own is None:
        return told
    return {**told, "producer": visible(own["producer"]), "text": visible_lines(own["response"])}


def _verdict(own: Row, numbers: dict[str, int]) -> Facts:
    """`a` and `b`: places among the page's candidates, or the id of one that is not there."""
    told = {name: own[name] for name in ("order", "outcome", "margin", "score") if own[name] is not None}
    said = {name: visible_lines(own[name][:REPLY_CHARS]) for name in ("reason", "raw") if own[name]}
    cut = {"cut": True} if any(own[name] and len(own[name]) > REPLY_CHARS for name in ("reason", "raw")) else {}
    places = {name: numbers.get(own[name], own[name]) for name in ("a", "b") if own[name] is not None}
    return {"judge": visible(own["judge"]), **places, **told, **said, **cut}


def _spans(tokens: Sequence[Facts]) -> Facts:
    return {"ids": [t["id"] for t in tokens], "texts": [token_view.shown(t["text"]) for t in tokens]}


def _said(found: Facts) -> Facts:
    return {name: visible_lines(str(found[name])) for name in ("refused", "gives_back") if name in found}
