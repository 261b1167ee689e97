"""The embedded world's judges: exact, and noisy with errors that were planted."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from prefdata.draws import hex_id
from prefdata.judging.judge import Judge, Reading
from prefdata.judging.verify import task_of
from prefdata.models.engines.protocol import Completion, Engine
from prefdata.models.tokens import Message
from prefdata.recipe.job import Run
from prefdata.recipe.settings import JudgeSettings

RUBRIC = hex_id("rubric", "the better score against the exact answer; equal = tie")
PLACES: dict[str, Literal["first", "second", "tie"]] = {"A": "first", "B": "second", "tie": "tie"}


def ask(prompt: Mapping[str, Any], first: str, second: str) -> tuple[Message, ...]:
    """The task is the last user message; answers travel as JSON, so no text can break out of its place."""
    asked = {"task": task_of(prompt["messages"]), "answer": prompt["answer"], "first": first, "second": second}
    return ({"role": "user", "content": json.dumps(asked)},)


def read(reply: Completion) -> Reading:
    said = json.loads(reply.text)
    return Reading(PLACES[said["verdict"]], float(said["margin"]))


def exact(run: Run, settings: JudgeSettings) -> Judge:
    """It knows the answers."""

    @contextmanager
    def engine(spent: float) -> Iterator[Engine]:
        from prefdata.judging.exact import ExactJudge

        yield ExactJudge()

    return Judge(engine, ask, read, RUBRIC, "1")


def noisy(run: Run, settings: JudgeSettings) -> Judge:
    """It knows the answers, and errs as its settings say."""

    @contextmanager
    def engine(spent: float) -> Iterator[Engine]:
        from prefdata.judging.exact import ExactJudge

        yield ExactJudge(settings.noisy, run.settings.seed)

    return Judge(engine, ask, read, RUBRIC, hex_id("noisy", settings.noisy.model_dump_json(), run.settings.seed))
