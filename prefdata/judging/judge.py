"""A judge that compares: an engine and two pure functions, ask and read (one that scores each answer: pointwise.py).

`ask` makes the messages of one comparison of a prompt (its row), first and second being the answers in the order shown;
`read` turns the reply into a verdict about those places.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

from prefdata.kinds import Message
from prefdata.models.engines.protocol import Completion, Engine


@dataclass(frozen=True)
class Reading:
    """What a reply says about the two places; `margin` > 0 favours the first."""

    outcome: Literal["first", "second", "tie", "missing"]
    margin: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Judge:
    """`rubric_hash` stands in every verdict: another wording is another judge. `revision` goes into its name, `identity` is
    whatever else can change a verdict. `labels`: what it chooses among by log-probs; none: it writes its verdict.

    `engine` is given what earlier verdicts of the same judge have cost.
    """

    engine: Callable[[float], AbstractContextManager[Engine]]
    ask: Callable[[Mapping[str, Any], str, str], tuple[Message, ...]]
    read: Callable[[Completion], Reading]
    rubric_hash: str
    revision: str
    identity: str = ""
    labels: tuple[str, ...] | None = None
    max_tokens: int = 512
