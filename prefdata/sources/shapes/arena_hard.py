"""Arena-Hard's files of answers: one model's answer a row, {uid, model, messages: [user, assistant]}, the answer's content an
object {answer: ...} (version 2), or {question_id, model_id, choices: [{turns: [{content}]}]} (version 0.1).

Version 0.1 names its question by an id alone: add its text as `prompt`. Several models' files together (a list of paths) are
one source: their rows are joined by prompt. There is no order among the answers; a judge makes one.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from prefdata.errors import DataError, snippet
from prefdata.sources.conversations import messages_of
from prefdata.sources.pairs import together
from prefdata.sources.rows import Answer, Fields, Shape, Shaped


def prompt(row: Fields) -> Shaped:
    """A row's prompt. Raises DataError (file:row:field) where its shape is wrong."""
    if row.has("messages"):
        listed = row.get("messages", list)
        return Shaped(messages_of(listed[:-1], row.at("messages"), row.columnar))
    if not row.has("prompt"):
        raise DataError("an answer without the text of its question", row.at("prompt"), "add the question's text to each row")
    return Shaped(row.prompt("prompt"))


def read(row: Fields) -> Shaped:
    """One answer. Raises DataError (file:row:field) where its shape is wrong."""
    shaped = prompt(row)
    if row.has("messages"):
        text, at = _last(row.get("messages", list)), row.at("messages")
    else:
        text, at = _only_turn(row.get("choices", list)), row.at("choices")
    if not isinstance(text, str):
        raise DataError(f"no answer: {snippet(text)}", at, "correct the row")
    return replace(shaped, answers=[Answer(text, row.get("model" if row.has("model") else "model_id", str))])


def _last(messages: list[Any]) -> Any:
    """The answer of the last message: a text, or an object that has it."""
    content = messages[-1].get("content") if messages and isinstance(messages[-1], Mapping) else None
    return content.get("answer") if isinstance(content, Mapping) else content


def _only_turn(choices: list[Any]) -> Any:
    """The one turn of the first choice."""
    turns = choices[0].get("turns") if choices and isinstance(choices[0], Mapping) else None
    turn = turns[0] if isinstance(turns, list) and len(turns) == 1 else None
    return turn.get("content") if isinstance(turn, Mapping) else turn


SHAPE = Shape(
    prompt,
    read,
    {n: n for n in ("prompt", "messages", "choices", "model", "model_id")},
    extras=("uid", "ans_id", "answer_id", "question_id", "tstamp", "metadata"),
    join=together,
)
