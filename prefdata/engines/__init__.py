"""Engines behind one small protocol: completions and label choices, positions preserved.

A failed item is data with a reason; the stage decides how many are too many. Heavy imports stay inside the engines.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from prefdata.tokens import Message


@dataclass(frozen=True)
class Request:
    """One asking. `id` and `sample` key the random numbers of an engine that is ours."""

    id: str
    messages: tuple[Message, ...]
    temperature: float = 0.0
    sample: int = 0
    max_tokens: int = 512
    tools: str | None = None
    template_kwargs: str | None = None


@dataclass(frozen=True)
class Completion:
    """One answer: text without its end token, tokens generated (the end token counted), why it ended."""

    text: str
    finish: Literal["stop", "length", "error"]
    num_tokens: int
    reason: str | None = None


class Engine(Protocol):
    """What generation and judging need of a model."""

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion a request, in order."""
        ...

    def choose(self, requests: Sequence[Request], labels: Sequence[str]) -> list[list[float]]:
        """For each request the log-prob (nats) of each label as the answer."""
        ...
