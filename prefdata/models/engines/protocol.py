"""Engines behind one small protocol: completions and label choices, each with the place of its request.

An engine takes requests as it has room for them and gives replies as they finish, so that a finished one can be kept at
once. A failed item is data with a reason; the stage decides how many are too many. Heavy imports stay inside the engines.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol, TypeVar

from prefdata.kinds import Message

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """One asking. `id` and `sample` key the random numbers of an engine that is ours; `seed` is what others get."""

    id: str
    messages: tuple[Message, ...]
    temperature: float = 0.0
    sample: int = 0
    max_tokens: int = 512
    tools: str | None = None
    template_kwargs: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Completion:
    """One answer: text without its end token, tokens generated (the end token counted), why it ended.

    `logps` are the labels' log-probs (nats) of a `choose`; `prompt_tokens` and `cost` (in the settings' currency) where the
    engine knows them; `transient`: the reason of this failure may be gone next time.
    """

    text: str
    finish: Literal["stop", "length", "error"]
    num_tokens: int
    reason: str | None = None
    logps: tuple[float, ...] | None = None
    prompt_tokens: int = 0
    cost: float | None = None
    transient: bool = False


NO_ROOM, REFUSED = "no_room", "refused_by_template"
"""Reasons of replies that are about the prompt: no other sample of it will do."""
Replies = Iterator[tuple[int, Completion]]
"""(place of the request, its reply), as they finish."""


class Engine(Protocol):
    """What generation and judging need of a model."""

    def complete(self, requests: Iterable[Request]) -> Replies:
        """One completion a request."""
        ...

    def choose(self, requests: Iterable[Request], labels: Sequence[str]) -> Replies:
        """For each request the log-prob of each label as the answer, in `logps`; -inf: less likely than the engine tells."""
        ...


def in_order(replies: Replies) -> list[Completion]:
    """All replies, by their requests' places."""
    return [reply for _, reply in sorted(replies, key=lambda pair: pair[0])]


def chosen(labels: Sequence[str], logps: Sequence[float], prompt_tokens: int) -> Completion:
    """The reply of a `choose`: the likeliest label is the text."""
    best = max(range(len(labels)), key=lambda i: logps[i])
    return Completion(labels[best], "stop", 1, logps=tuple(logps), prompt_tokens=prompt_tokens)


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Consecutive lists of at most `size`, taken only when asked for."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
