"""Two sets compared by prompt_id and candidate_id: what one has that the other has not, and what changed, field by field.

Both are read side by side in the order of prompt_id. Every column of the set view is compared; the order of the candidates in a
row is not, for it follows from their roles, ranks and ids.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl

from prefdata.errors import DataError
from prefdata.output.escape import visible
from prefdata.output.looking import pages
from prefdata.output.looking.opened import Opened, Row
from prefdata.tables.ranges import ranges
from prefdata.tables.schema import SET_CANDIDATE, TABLES

Facts = dict[str, Any]
KINDS = {
    "prompt_added": "prompts added",
    "prompt_removed": "prompts removed",
    "prompt_changed": "prompts with another split, source or text",
    "candidate_added": "candidates added",
    "candidate_removed": "candidates removed",
    "chosen_changed": "another answer is chosen",
    "role_changed": "candidates with another role",
    "re_ranked": "candidates with another rank",
    "rejudged": "candidates with another score or win probability",
    "logps_changed": "candidates with other log-probs",
    "candidate_changed": "candidates with another text, origin, model, finish or copies",
}
"""What may differ, in the order it is told."""
_FIELDS = {"role": "role_changed", "rank": "re_ranked", "score": "rejudged", "win_prob": "rejudged"}
_OF_PROMPT = [name for name in TABLES["sets"].columns if name not in ("prompt_id", "candidates")]
_OF_CANDIDATE = [f.name for f in SET_CANDIDATE.fields if f.name not in ("candidate_id", "logps")]
TOLERANCE = 1e-4
"""Nats: the same model in another batch gives log-probs as far apart."""
SHOWN_CHARS = 40


@dataclass(frozen=True)
class Change:
    """One field that differs; a and b are its values, None where there is none."""

    kind: str
    prompt_id: str
    candidate_id: str | None
    field: str
    a: Any
    b: Any


@dataclass
class Difference:
    """What is gathered: counts of all, examples of the first `limit` of each kind."""

    limit: int
    in_a: int = 0
    in_b: int = 0
    common: int = 0
    changed: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    prompts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Change]] = field(default_factory=dict)

    def add(self, changes: list[Change]) -> None:
        """Gather the changes of one prompt. A candidate counts once a kind, whatever fields of it changed."""
        self.counts.update(kind for kind, _ in {(c.kind, c.candidate_id) for c in changes})
        self.prompts.update({c.kind for c in changes})
        for change in changes:
            known = self.examples.setdefault(change.kind, [])
            if len(known) < self.limit:
                known.append(change)

    @property
    def equal(self) -> bool:
        return not self.counts

    def facts(self) -> Facts:
        """Everything as JSON."""
        listed = {
            kind: {
                "count": self.counts[kind],
                "prompts": self.prompts[kind],
                "examples": [asdict(c) for c in self.examples.get(kind, [])],
            }
            for kind in KINDS
        }
        known = {"in_a": self.in_a, "in_b": self.in_b, "common": self.common, "changed": self.changed}
        return {"equal": self.equal, "prompts": known, "changes": listed}


def difference(a: Opened, b: Opened, limit: int, tolerance: float = TOLERANCE) -> Difference:
    """What is to be done to `a` to make it `b`. Raises DataError."""
    found = Difference(limit)
    for one, other in ranges([a.parts(), b.parts()], TABLES["sets"].empty()):
        found.in_a += one.height
        found.in_b += other.height
        if one.equals(other):
            found.common += one.height
            continue
        for row, its in _pairs(one, other):
            if row is not None and its is not None:
                found.common += 1
            changes = _changes(row, its, tolerance)
            found.add(changes)
            found.changed += bool(changes) and row is not None and its is not None
    return found


def _pairs(one: pl.DataFrame, other: pl.DataFrame) -> Iterator[tuple[Row | None, Row | None]]:
    ours, theirs = ({row["prompt_id"]: row for row in rows.iter_rows(named=True)} for rows in (one, other))
    for prompt_id in sorted({*ours, *theirs}):
        yield ours.get(prompt_id), theirs.get(prompt_id)


def _changes(a: Row | None, b: Row | None, tolerance: float) -> list[Change]:
    """What differs between two rows of one prompt."""
    if a is None or b is None:
        row: Row = a or b or {}
        kind = "prompt_added" if a is None else "prompt_removed"
        texts = [x and x["prompt"][-1]["content"] if x and x["prompt"] else None for x in (a, b)]
        return [Change(kind, row["prompt_id"], None, "prompt", *texts)]
    own = a["prompt_id"]
    made = [Change("prompt_changed", own, None, n, a[n], b[n]) for n in _OF_PROMPT if not same(a[n], b[n])]
    ours, theirs = _by_id(a), _by_id(b)
    chosen = [next(iter(known)) for known in (ours, theirs)]
    if chosen[0] != chosen[1]:
        made.append(Change("chosen_changed", own, None, "candidate_id", *chosen))
    for each in sorted({*ours, *theirs}):
        if each not in ours or each not in theirs:
            kind = "candidate_added" if each not in ours else "candidate_removed"
            made.append(
                Change(kind, own, each, "response", *(k[each]["response"] if each in k else None for k in (ours, theirs)))
            )
        else:
            made += _of_candidate(own, each, ours[each], theirs[each], tolerance)
    return made


def _by_id(row: Row) -> dict[str, Row]:
    """The candidates of a row, the chosen one first."""
    known = {c["candidate_id"]: c for c in row["candidates"]}
    if len(known) != len(row["candidates"]):
        raise DataError("two candidates with one id", f"prompt {row['prompt_id']}", "publish the set again")
    return known


def _of_candidate(prompt: str, own: str, a: Row, b: Row, tolerance: float) -> list[Change]:
    made = [
        Change(_FIELDS.get(name, "candidate_changed"), prompt, own, name, a[name], b[name])
        for name in _OF_CANDIDATE
        if not same(a[name], b[name])
    ]
    ours, theirs = ({x["reference"]: x for x in c["logps"]} for c in (a, b))
    for name in sorted({*ours, *theirs}):
        for what, near in _LOGP.items():
            x, y = (k[name][what] if name in k else None for k in (ours, theirs))
            if not near(x, y, tolerance):
                made.append(Change("logps_changed", prompt, own, f"{what} under {name}", x, y))
    return made


def same(a: Any, b: Any) -> bool:
    """Whether two values of a field are equal; what is no number equals itself."""
    return bool(a == b) or (isinstance(a, float) and isinstance(b, float) and a != a and b != b)


def _near(a: float | None, b: float | None, tolerance: float) -> bool:
    return a is b or (a is not None and b is not None and abs(a - b) <= tolerance)


_LOGP: Mapping[str, Callable[[Any, Any, float], bool]] = {"logp": _near, "num_tokens": lambda a, b, _: bool(a == b)}


# ---- as text ----


def render(found: Difference, a: str, b: str) -> list[Any]:
    """The page: counts, then examples."""
    known = (
        f"a: {a}, {found.in_a} prompts; b: {b}, {found.in_b} prompts; {found.common} in both, {found.changed} of them changed"
    )
    page: list[Any] = [pages.line(known, "bold")]
    if found.equal:
        return [*page, pages.line("no difference")]
    rows = [(KINDS[k], found.counts[k], found.prompts[k]) for k in KINDS if found.counts[k]]
    page.append(pages.table(("what", "n", "prompts"), rows))
    for kind in KINDS:
        if examples := found.examples.get(kind):
            page.append(pages.line(f"{KINDS[kind]}:", "bold"))
            page += [pages.block(_example(change)) for change in examples]
    return page


def _example(change: Change) -> str:
    where = " ".join(filter(None, [change.prompt_id, change.candidate_id]))
    a, b = _apart(change.a, change.b)
    return f"{where} {change.field}: {a} -> {b}"


def _apart(a: Any, b: Any) -> tuple[str, str]:
    """Both values, of long texts what stands about the first place where they differ."""
    texts = ["-" if x is None else x if isinstance(x, str) else repr(x) for x in (a, b)]
    start = max(0, _shared(*texts) - SHOWN_CHARS // 4) if max(map(len, texts)) > SHOWN_CHARS else 0
    cut = [t[start : start + SHOWN_CHARS] for t in texts]
    return tuple(  # type: ignore[return-value]
        visible(f"{'…' if start else ''}{c}{'…' if start + SHOWN_CHARS < len(t) else ''}")
        for c, t in zip(cut, texts, strict=True)
    )


def _shared(a: str, b: str) -> int:
    """How many characters both begin with."""
    return next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
