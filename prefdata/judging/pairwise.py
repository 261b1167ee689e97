"""A language model that compares two answers by a rubric: by its labels' log-probs, or by the last line of what it writes."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prefdata.errors import ConfigError
from prefdata.judging.judge import Judge, Reading
from prefdata.judging.rubric import Rubric
from prefdata.judging.rubric import load as load_rubric
from prefdata.kinds import Message
from prefdata.models.engines.protocol import Completion, Engine
from prefdata.models.engines.registry import Start, started
from prefdata.recipe.results import Models
from prefdata.recipe.settings.judging import JudgeSettings
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.units import judge_unit

EQUAL_NATS = 1e-9


def pairwise(models: Models, settings: JudgeSettings) -> Judge:
    """The judge of a recipe. Raises ConfigError."""
    model, rubric, mode = settings.model, load_rubric(settings.rubric), settings.verdicts
    assert model is not None  # the settings see to it
    revision = model.made_with(models.revision)

    @contextmanager
    def engine(spent: float) -> Iterator[Engine]:
        path = models.model_path(model.id) if model.files() else model.id
        log = models.server_log("judge", judge_unit(settings))
        start = Start(model, path, f"{settings.name}@{revision}", models.settings.seed, log, spent)
        with started(start) as one:
            yield one

    def ask(prompt: Mapping[str, Any], first: str, second: str) -> tuple[Message, ...]:
        return rubric.messages(prompt, first, second, mode)

    def read(reply: Completion) -> Reading:
        return read_labels(rubric, reply) if mode == "labels" else read_text(rubric, reply)

    limit = settings.max_tokens if mode == "text" else 1
    if mode not in rubric.ask:
        raise ConfigError(f"the rubric has no ask.{mode}", settings.rubric, f"add ask.{mode} to it, or change judge.verdicts")
    tops = model.server.top_logprobs if model.server and mode == "labels" else None
    identity = json.dumps([model.identity(), mode, limit, tops], sort_keys=True)
    labels = tuple(rubric.labels.values()) if mode == "labels" else None
    return Judge(engine, ask, read, rubric.hash, revision, identity, labels, limit)


def read_labels(rubric: Rubric, reply: Completion) -> Reading:
    """The likeliest label; `margin` is the first place's log-prob less the second's (nats, within +-50), also for a tie.

    Equal log-probs are a tie. Log-probs that are none (NaN, above 0, none at all) are a missing verdict.
    """
    logps = dict(zip(rubric.labels, reply.logps or (), strict=False))
    if len(logps) != len(rubric.labels) or not all(v <= EQUAL_NATS for v in logps.values()) or max(logps.values()) == -math.inf:
        return Reading("missing", reason="logprobs")
    first, second = (max(logps[place], max(logps.values()) - 50) for place in ("first", "second"))
    margin = first - second
    if "tie" in logps and logps["tie"] > max(first, second):
        return Reading("tie", margin)
    return Reading("tie" if abs(margin) <= EQUAL_NATS else "first" if margin > 0 else "second", margin)


def read_text(rubric: Rubric, reply: Completion) -> Reading:
    """The verdict on the reply's last line; a cut reply has none."""
    if reply.finish == "length":
        return Reading("missing", reason="truncated")
    place = rubric.place(reply.text)
    return Reading("missing", reason="parse") if place is None else Reading(place)


def problem(settings: JudgeSettings) -> str | None:
    """What is wrong with the settings of such a judge."""
    if settings.model is None:
        return f"the kind {settings.kind} needs its model"
    if settings.swap_margin is not None and settings.verdicts == "text":
        return "swap_margin needs a margin, which only verdicts: labels have"
    return None


def slice_of(settings: Settings, judge: JudgeSettings) -> dict[str, Any]:
    """What can change its verdicts beside its own section: the rubric's words, and how many labels a server tells of."""
    own: dict[str, Any] = {"rubric": load_rubric(judge.rubric).hash}
    if judge.verdicts == "labels" and judge.model and judge.model.server:
        own["top_logprobs"] = judge.model.server.top_logprobs
    return own
