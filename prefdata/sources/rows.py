"""One row of any source as a prompt, candidates and drops; pure functions, one row at a time.

A shape (prefdata/shapes) says what a row holds as a `Shaped`; everything that is the same for all sources is here: ids,
texts that cannot be kept, ranks, the drops. A row whose shape is wrong is an error that names file, row and field.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from prefdata.errors import DataError, snippet
from prefdata.kinds import Message
from prefdata.sources.conversations import Columnar, messages_of, text_of
from prefdata.sources.transcripts import leaks
from prefdata.tables.drops import drop
from prefdata.tables.ids import candidate_id, is_text, prompt_id
from prefdata.tables.messages import says_something, split, split_answer, texts_in

Record = dict[str, Any]
MAX_RANK = 1e9
UNKNOWN = "unknown"
"""The producer of an answer whose source does not say who wrote it."""


@dataclass(frozen=True)
class Fields:
    """A row (or an object inside it) read by our names; `names` maps ours to theirs, `where` is file:row for messages,
    `lacking` says what to do about a field that is not there: not every reader of files has settings with names."""

    row: Mapping[str, Any]
    names: Mapping[str, str]
    where: str
    lacking: str = "map the field's name under fields: of the source"

    def theirs(self, name: str) -> str:
        return self.names.get(name, name)

    def at(self, name: str) -> str:
        return f"{self.where}:{self.theirs(name)}"

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.row.get(self.theirs(name)) is not None

    def get(self, name: str, *kinds: type) -> Any:
        """The field's value. Raises DataError where it is missing or of another type."""
        theirs = self.theirs(name)
        if theirs not in self.row:
            raise DataError(f"missing (the row has {sorted(self.row)})", self.at(name), self.lacking)
        value = self.row[theirs]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            expected = " or ".join(k.__name__ for k in kinds)
            raise DataError(
                f"{expected} expected, not {type(value).__name__}: {snippet(value)}", self.at(name), "correct the row"
            )
        return value

    @property
    def columnar(self) -> bool:
        return isinstance(self.row, Columnar)

    def text(self, name: str) -> str:
        """A text. Raises DataError, also for a list of messages that was written as text."""
        return text_of(self.get(name, str), self.at(name))

    def messages(self, name: str) -> list[Message]:
        """A text as one user message, one message, or a list of messages. Raises DataError."""
        return messages_of(self.get(name, str, list, dict), self.at(name), self.columnar)

    def prompt(self, name: str) -> list[Message]:
        """`messages` that end before the answer. Raises DataError."""
        messages = self.messages(name)
        if messages and messages[-1]["role"] == "assistant":
            raise DataError("the last message is the assistant's", self.at(name), "end the prompt before the answer")
        return messages

    def number(self, name: str) -> float | None:
        """A finite number, or None where the field is missing or null."""
        if not self.has(name):
            return None
        return finite(self.row[self.theirs(name)], self.at(name))

    def objects(self, name: str) -> list["Fields"]:
        """The objects of a list, each with its own place."""
        made = []
        for i, value in enumerate(self.get(name, list)):
            at = f"{self.at(name)}[{i}]"
            if not isinstance(value, dict):
                raise DataError(f"object expected, not {type(value).__name__}: {snippet(value)}", at, "correct the row")
            made.append(Fields(Columnar(value) if self.columnar else value, self.names, at, self.lacking))
        return made


def finite(value: Any, at: str) -> float:
    """The value as a finite number. Raises DataError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"a number expected, not {type(value).__name__}: {snippet(value)}", at, "correct the row")
    if not abs(value) <= 1e300:  # NaN too, and integers no float holds
        raise DataError(f"a finite number expected, not {snippet(value)}", at, "correct the row")
    return float(value)


def as_rank(value: Any, at: str) -> float:
    """A rank: finite and >= 1; ties, averages and gaps are legal. Raises DataError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"a number expected, not {type(value).__name__}: {snippet(value)}", at, "correct the row")
    if not 1 <= value <= MAX_RANK:
        raise DataError(f"ranks are finite and >= 1, not {snippet(value)}", at, "correct the row; 1 is the best rank")
    return float(value)


class Answer(NamedTuple):
    """One answer of a row. `doubt` is a reason not to keep it, for what the shape itself knows to be wrong; `label`: whether
    the source calls it desirable, where it says so of each answer alone."""

    text: str
    producer: str = UNKNOWN
    rank: float | None = None
    score: float | None = None
    doubt: str | None = None
    extras: str | None = None
    label: bool | None = None

    @staticmethod
    def of(message: Message, rank: float | None = None, score: float | None = None) -> "Answer":
        """The answer that a message is."""
        text, extras = split_answer(message)
        return Answer(text, rank=rank, score=score, extras=extras)


@dataclass(frozen=True)
class Shaped:
    """What a row holds. `problem` is the reason to drop the whole row; `bare`: a prompt without answers is meant."""

    messages: list[Message] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    final: str | None = None
    tools: str | None = None
    template_kwargs: str | None = None
    subsets: tuple[str, ...] = ()
    bare: bool = False
    problem: str | None = None


Join = Callable[[Sequence[Sequence[Record]]], tuple[list[Record], list[str]]]
"""(candidates, one text a contradiction) of the candidates of each row of one prompt; see prefdata/sources/pairs.py."""


@dataclass(frozen=True)
class Shape:
    """How a source's rows are read: the prompt alone and the whole row; its fields (ours: theirs), those it leaves
    aside, how the answers of several rows of one prompt are joined (None: such rows are duplicates), whether a file may be one
    JSON array, whether a prompt needs an answer at rank 1, whether each answer has a label (ranks say no more then)."""

    prompt: Callable[[Fields], Shaped]
    read: Callable[[Fields], Shaped]
    fields: Mapping[str, str]
    extras: tuple[str, ...] = ()
    join: Join | None = None
    arrays: bool = False
    needs_first: bool = False
    labels: bool = False


CONTROLS = bytes(code for code in range(32) if chr(code) not in "\t\n\r")
"""Each is one byte in utf-8, and in no other character."""


@dataclass(frozen=True)
class Limits:
    """What texts are kept: at most `max_chars` characters; C0 controls but tab and newlines only where `controls`."""

    max_chars: int
    controls: bool = False

    def problem(self, text: str) -> str | None:
        """The reason to drop a text, None for a good one."""
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError:
            return "bad_text"
        if not self.controls and len(data.translate(None, CONTROLS)) < len(data):
            return "control_characters"
        return "too_many_chars" if len(text) > self.max_chars else None


@dataclass
class Parsed:
    """What one row became. `prompt` is None where the row is dropped (the drops then say why)."""

    prompt: Record | None = None
    candidates: list[Record] = field(default_factory=list)
    drops: list[Record] = field(default_factory=list)


def parsed(shaped: Shaped, common: Record, limits: Limits, exclude: Iterable[str] = ()) -> Parsed:
    """A row's prompt, candidates and drops. `common`: source, source_row, source_split, license."""
    reason, detail = _row_problem(shaped, limits, exclude)
    if reason:
        return Parsed(drops=[drop("row", "sources", reason, common, detail=detail)])
    messages, extras = split(shaped.messages)
    own = prompt_id(messages, shaped.tools, shaped.template_kwargs, extras)
    made = Parsed(
        {
            **common,
            "prompt_id": own,
            "messages": messages,
            "tools": shaped.tools,
            "template_kwargs": shaped.template_kwargs,
            "answer": shaped.final,
            "extras": extras,
        }
    )
    whose = {**common, "prompt_id": own}
    for number, answer in enumerate(shaped.answers):
        said = texts_in(json.loads(answer.extras)) if answer.extras else ()
        problem = limits.problem(answer.text) or next(filter(None, map(limits.problem, said)), None)
        problem = problem or ("bad_text" if not is_text(answer.producer) else None)
        if problem:
            detail = f"answer {number}: {snippet(answer.text)}"
            made.drops.append(drop("row", "sources", problem, whose, detail=detail))
        else:
            _keep(made, answer, whose)
    if not made.candidates and not shaped.bare:
        made.prompt = None
        detail = f"{len(shaped.answers)} answers, none usable"
        made.drops.append(drop("row", "sources", "no_candidate", whose, detail=detail))
    return made


def _row_problem(shaped: Shaped, limits: Limits, exclude: Iterable[str]) -> tuple[str | None, str | None]:
    messages, extras = split(shaped.messages)
    texts = [*(m["content"] for m in messages), *(texts_in(json.loads(extras)) if extras else ())]
    shown = snippet(texts[-1]) if texts else None
    excluded = sorted(set(shaped.subsets) & set(exclude))
    if excluded:
        return "excluded", excluded[0]
    if shaped.problem:
        return shaped.problem, shown
    whole = Limits(limits.max_chars, controls=True).problem("".join(texts))
    problem = next(filter(None, map(limits.problem, texts)), None) or whole
    if problem:
        return problem, shown
    return ("empty_prompt", shown) if not messages or not messages[-1]["content"].strip() else (None, None)


def _keep(made: Parsed, answer: Answer, whose: Record) -> None:
    candidate: Record = {
        "prompt_id": made.prompt["prompt_id"] if made.prompt else None,
        "response": answer.text,
        "origin": "source",
        "producer": answer.producer,
        "finish": "stop",
        "source_rank": answer.rank,
        "source_score": answer.score,
        "extras": answer.extras,
        "label": answer.label,
    }
    made.candidates.append(candidate)
    empty = not says_something(answer.text, answer.extras)
    reason = "empty_answer" if empty else "role_leakage" if leaks(answer.text) else answer.doubt
    if reason:
        candidate["dropped"] = drop("candidate", "sources", reason, whose, detail=snippet(answer.text))


def finish(candidates: list[Record]) -> tuple[list[Record], list[Record]]:
    """A prompt's candidates numbered, named and ranked: (candidates, drops of scope candidate).

    `sample` counts equal (producer, response) in the order given. Where no answer has a rank, the ranks are the dense
    order of the scores (higher is better); a lone answer without either is its source's first.
    """
    seen: dict[tuple[str, str, str | None], int] = {}
    kept, drops = [], []
    scores = [None if "dropped" in c else c["source_score"] for c in candidates]
    ranks = ranks_of([c["source_rank"] for c in candidates], scores)
    for given, rank in zip(candidates, ranks, strict=True):
        key = (given["producer"], given["response"], given["extras"])
        sample = seen[key] = seen.get(key, -1) + 1
        prompt = given["prompt_id"]
        own = candidate_id(prompt, given["response"], "source", given["producer"], None, sample, key[2])
        candidate = {**given, "candidate_id": own, "sample": sample, "source_rank": rank}
        if dropped := candidate.pop("dropped", None):
            drops.append({**dropped, "prompt_id": prompt, "candidate_id": own})
        kept.append(candidate)
    return kept, drops


def ranks_of(given: list[float | None], scores: list[float | None]) -> list[float | None]:
    """A prompt's ranks: as given, else by the scores, None for an answer that is dropped."""
    if any(r is not None for r in given):
        return given
    if any(s is not None for s in scores):
        order = sorted({s for s in scores if s is not None}, reverse=True)
        return [None if s is None else 1.0 + order.index(s) for s in scores]
    return [1.0] if len(given) == 1 else given
