"""JUDGES: a judge is an engine plus two pure functions, ask and read.

`ask` makes the messages of one comparison of a prompt (its row), first and second being the answers in the order
shown; `read` turns the reply into a verdict about those places.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

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
    ask: Callable[[Mapping[str, Any], str, str], tuple[Message, ...]]
    read: Callable[[str], Reading]
    rubric: str
    revision: str

    @property
    def rubric_hash(self) -> str:
        return hex_id("rubric", self.rubric)


def _exact_engine() -> Engine:
    from prefdata.engines.exact import ExactJudge

    return ExactJudge()


def _ask_exact(prompt: Mapping[str, Any], first: str, second: str) -> tuple[Message, ...]:
    """The task is the last user message; answers travel as JSON, so no text can break out of its place."""
    task = next((m["content"] for m in reversed(prompt["messages"]) if m["role"] == "user"), "")
    asked = {"task": task, "answer": prompt["answer"], "first": first, "second": second}
    return ({"role": "user", "content": json.dumps(asked)},)


def _read_exact(text: str) -> Reading:
    reply = json.loads(text)
    places: dict[str, Literal["first", "second", "tie"]] = {"A": "first", "B": "second", "tie": "tie"}
    return Reading(places[reply["verdict"]], float(reply["margin"]))


JUDGES: dict[str, Judge] = {
    "exact": Judge(_exact_engine, _ask_exact, _read_exact, "the better score against the exact answer; equal = tie", "1"),
}
