"""One order of one pair as a question to a judge: what is asked, under which key its verdict is kept, and what the reply says.

Verdicts are committed as they arrive: a kill repeats what was in flight and nothing else.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

from prefdata.draws import item_key
from prefdata.errors import EngineError
from prefdata.judging.judge import Judge
from prefdata.judging.procedures.verdicts import Pair
from prefdata.models.engines.protocol import Completion, Engine, Request, batches
from prefdata.recipe.settings.judging import JudgeSettings
from prefdata.tables.finished import ChunkStore, Value

KEYS_VERSION = 4
"""In every key: verdicts of another way to ask or to read are other verdicts."""
LOOKED_UP = 32
"""Askings made and looked up together: while more are made, no place of a server's that becomes free is taken."""
Order = Literal["ab", "ba"]


@dataclass(frozen=True)
class Asking:
    """One order of one pair of a prompt."""

    key: str
    pair: Pair
    order: Order
    request: Request


def ask(
    askings: Iterable[Asking],
    judge: Judge,
    engine: Callable[[], Engine],
    store: ChunkStore,
    learn: Callable[[Asking, Value], None],
) -> None:
    """Learn the verdict of each asking: from the store, or from the engine, which is started when one is missing. A verdict
    is committed as it arrives."""
    flying = list[Asking | None]()

    def missing() -> Iterator[Request]:
        for some in batches(askings, LOOKED_UP):
            found = store.get([a.key for a in some])
            for asking in some:
                value = found.get(asking.key)
                if value is not None and not value["transient"]:
                    store.hits += 1
                    learn(asking, value)
                else:
                    flying.append(asking)
                    yield asking.request

    requests = missing()
    if (first := next(requests, None)) is None:
        return
    real, every = engine(), chain([first], requests)
    for place, reply in real.complete(every) if judge.labels is None else real.choose(every, judge.labels):
        asking, flying[place] = flying[place], None
        assert asking is not None
        value = value_of(judge, asking.order, reply)
        store.put({asking.key: value})
        store.misses += 1
        learn(asking, value)


def asking_of(judge: Judge, prompt: Mapping[str, Any], pair: Pair, order: Order, texts: Mapping[str, str]) -> Asking:
    """One order of a pair of candidates, whose texts are given by their ids."""
    first, second = pair if order == "ab" else pair[::-1]
    request = Request(prompt["prompt_id"], judge.ask(prompt, texts[first], texts[second]), max_tokens=judge.max_tokens)
    return Asking(key_of(judge, prompt, pair, order), pair, order, request)


def key_of(judge: Judge, prompt: Mapping[str, Any], pair: Pair, order: str) -> str:
    """A prompt's id says its messages; its final answer is asked with it too."""
    about = (prompt["prompt_id"], prompt["answer"] or "")
    return item_key("pair", KEYS_VERSION, judge.revision, judge.identity, judge.rubric_hash, *about, *pair, order)


def value_of(judge: Judge, order: str, reply: Completion) -> Value:
    """One stored verdict: outcome and margin about candidates a and b, whatever order they were shown in."""
    value = {"margin": None, "tokens": reply.prompt_tokens + reply.num_tokens, "cost": reply.cost, "transient": reply.transient}
    if reply.finish == "error":
        return {**value, "outcome": "missing", "reason": reply.reason, "raw": reply.text}
    reading = judge.read(reply)
    shown = ("a", "b") if order == "ab" else ("b", "a")
    outcome = {"first": shown[0], "second": shown[1]}.get(reading.outcome, reading.outcome)
    margin = reading.margin if reading.margin is None or order == "ab" else -reading.margin
    raw = reply.text
    if judge.labels is not None and reply.logps is not None:
        by_label = {label: v if math.isfinite(v) else None for label, v in zip(judge.labels, reply.logps, strict=True)}
        raw = json.dumps(by_label)
    return {**value, "outcome": outcome, "margin": margin, "reason": reading.reason, "raw": raw}


def require_present(reasons: Counter[str], count: int, settings: JudgeSettings) -> None:
    """Raise EngineError where too many of so many verdicts are missing."""
    if reasons.total() > settings.max_failed * count:
        causes = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common(5))
        raise EngineError(
            f"{reasons.total()} of {count} verdicts are missing ({causes})",
            f"judge {settings.name}",
            "fix the causes listed, or raise judge.max_failed",
        )
