"""The embedded world's judges: one that knows the answers, and one with planted errors.

Both are an engine that reads two answers out of a request and prefers the better; the noisy one errs as real judges do: by
chance, for the place that is read first, for the longer answer.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from prefdata.draws import hex_id, uniform
from prefdata.judging import verify
from prefdata.judging.judge import Judge, Reading
from prefdata.judging.verify import task_of
from prefdata.kinds import Message
from prefdata.models.engines.protocol import Completion, Engine, Replies, Request
from prefdata.recipe.results import Models
from prefdata.recipe.settings.judging import JudgeSettings, NoisySettings
from prefdata.sources.toy import tasks

RUBRIC = hex_id("rubric", "the better score against the exact answer; equal = tie")
PLACES: dict[str, Literal["first", "second", "tie"]] = {"A": "first", "B": "second", "tie": "tie"}


def score(task: str, final: str | None, response: str) -> float | None:
    """How good an answer is, 0 to 1: by the final answer where the prompt has one, else by degrees as a task of the embedded
    world; None where it is none."""
    return tasks.score(task, response) if final is None else verify.score(final, response)


class ExactJudge:
    """It is asked with a JSON object: task, answer (final, or null), first, second."""

    def __init__(self, noise: NoisySettings | None = None, seed: int = 0) -> None:
        self.noise, self.seed = noise, seed

    def complete(self, requests: Iterable[Request]) -> Replies:
        """Replies {"verdict": "A" | "B" | "tie", "margin": how much A is better}, or an error for no task."""
        for place, request in enumerate(requests):
            yield place, self._one(request)

    def _one(self, request: Request) -> Completion:
        question = json.loads(request.messages[-1]["content"])
        first, second = (score(question["task"], question["answer"], question[k]) for k in ("first", "second"))
        if first is None or second is None:
            return Completion("", "error", 0, "not_a_task")
        margin = first - second + self._error(request.id, question)
        verdict = "tie" if margin == 0 else "A" if margin > 0 else "B"
        return Completion(json.dumps({"verdict": verdict, "margin": margin}), "stop", 0)

    def _error(self, id: str, question: dict[str, str]) -> float:
        if self.noise is None:
            return 0.0
        u = uniform(self.seed, "noisy judge", id, 0, (question["first"], question["second"]))
        longer = len(question["first"]) - len(question["second"])
        chance = self.noise.spread * math.log(u / (1 - u))
        return chance + self.noise.first_place + self.noise.length * math.copysign(bool(longer), longer)

    def choose(self, requests: Iterable[Request], labels: Sequence[str]) -> Replies:
        """0 nats for the label it means, -inf for the others (a tie: log 1/2 each)."""
        for place, reply in self.complete(requests):
            verdict = json.loads(reply.text)["verdict"] if reply.text else None
            tie = verdict == "tie"
            logps = tuple(math.log(0.5) if tie else 0.0 if v == verdict else -math.inf for v in labels)
            yield place, Completion(reply.text, reply.finish, 0, reply.reason, logps)


def ask(prompt: Mapping[str, Any], first: str, second: str) -> tuple[Message, ...]:
    """The task is the last user message; answers travel as JSON, so no text can break out of its place."""
    question = {"task": task_of(prompt["messages"]), "answer": prompt["answer"], "first": first, "second": second}
    return ({"role": "user", "content": json.dumps(question)},)


def read(reply: Completion) -> Reading:
    said = json.loads(reply.text)
    return Reading(PLACES[said["verdict"]], float(said["margin"]))


def exact(models: Models, settings: JudgeSettings) -> Judge:
    """It knows the answers."""

    @contextmanager
    def engine(spent: float) -> Iterator[Engine]:
        yield ExactJudge()

    return Judge(engine, ask, read, RUBRIC, "1")


def noisy(models: Models, settings: JudgeSettings) -> Judge:
    """It knows the answers, and errs as its settings say."""

    @contextmanager
    def engine(spent: float) -> Iterator[Engine]:
        yield ExactJudge(settings.noisy, models.settings.seed)

    return Judge(engine, ask, read, RUBRIC, hex_id("noisy", settings.noisy.model_dump_json(), models.settings.seed))
