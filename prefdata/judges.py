"""JUDGES: a judge is an engine plus two pure functions, ask and read.

`ask` makes the messages of one comparison, first and second being the answers in the order shown; `read` turns the
reply into a verdict about those places.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from prefdata.draws import hex_id
from prefdata.engines import Engine
from prefdata.tokens import Message


@dataclass(frozen=True)
class Reading:
    """What a reply says about the two places; `margin` > 0 favours the first."""

    outcome: Literal["first", "second", "tie", "missing"]
    margin: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Judge:
    """`rubric` is hashed into every verdict: another wording is another judge. `revision` goes into its name."""

    engine: Callable[[], Engine]
    ask: Callable[[Sequence[Message], str, str], tuple[Message, ...]]
    read: Callable[[str], Reading]
    rubric: str
    revision: str

    @property
    def rubric_hash(self) -> str:
        return hex_id("rubric", self.rubric)


def _exact_engine() -> Engine:
    from prefdata.toy.judge import ExactJudge

    return ExactJudge()


def _ask_exact(messages: Sequence[Message], first: str, second: str) -> tuple[Message, ...]:
    """The task is the last user message; answers travel as JSON, so no text can break out of its place."""
    task = next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")
    return ({"role": "user", "content": json.dumps({"task": task, "first": first, "second": second})},)


def _read_exact(text: str) -> Reading:
    reply = json.loads(text)
    places: dict[str, Literal["first", "second", "tie"]] = {"A": "first", "B": "second", "tie": "tie"}
    return Reading(places[reply["verdict"]], float(reply["margin"]))


JUDGES: dict[str, Judge] = {
    "exact": Judge(_exact_engine, _ask_exact, _read_exact, "the better score against the exact answer; equal = tie", "1"),
}
