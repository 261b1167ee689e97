"""TRL's shapes: pairs (prompt, chosen, rejected), as texts or as message lists, and unpaired answers with a label.

Conversational pairs may leave the prompt out: it is then what both conversations share before their last message. Unpaired
rows (prompt, completion, label) are grouped by prompt: true = rank 1, false = rank 2; a prompt whose answers are all
labelled false has nothing to prefer and is dropped, no_good_answer.
"""

import json
from dataclasses import replace
from typing import Any

from prefdata.errors import DataError
from prefdata.kinds import Message
from prefdata.sources.rows import Answer, Fields, Shape, Shaped, messages_of, prompt_messages
from prefdata.sources.shapes import binarized


def prompt(row: Fields) -> Shaped:
    """A row's prompt. Raises DataError (file:row:field) where its shape is wrong."""
    if row.has("prompt") or not row.has("chosen"):
        return Shaped(prompt_messages(row.get("prompt", str, list), row.at("prompt")), **_extras(row))
    if isinstance(row.get("chosen", str, list), str):
        raise DataError("text pairs need a prompt of their own", row.at("prompt"), "split prompt and answers apart")
    return replace(binarized.prompt(row), **_extras(row))


def read_pair(row: Fields) -> Shaped:
    """One pair. Raises DataError (file:row:field) where its shape is wrong."""
    shaped = prompt(row)
    text = _completion if row.has("prompt") else lambda row, name: binarized.conversation(row, name)[-1]["content"]
    return replace(shaped, answers=[Answer(text(row, n), rank=r) for n, r in (("chosen", 1.0), ("rejected", 2.0))])


def read_unpaired(row: Fields) -> Shaped:
    """One labelled answer. Raises DataError (file:row:field) where its shape is wrong."""
    rank = 1.0 if row.get("label", bool) else 2.0
    return replace(prompt(row), answers=[Answer(_completion(row, "completion"), rank=rank)])


def _completion(row: Fields, name: str) -> str:
    """A text, or the one assistant message of a list."""
    value = row.get(name, str, list)
    if isinstance(value, str):
        return value
    messages: list[Message] = messages_of(value, row.at(name))
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise DataError(
            "one message of the assistant expected",
            row.at(name),
            "leave prompt out if chosen and rejected are complete conversations",
        )
    return messages[0]["content"]


def _extras(row: Fields) -> dict[str, Any]:
    """The tools and the template's arguments a prompt comes with, as JSON."""
    made = {}
    for ours, name, kinds in (("tools", "tools", (list, str)), ("template_kwargs", "chat_template_kwargs", (dict, str))):
        if row.has(name):
            value = row.get(name, *kinds)
            made[ours] = json.dumps(_json(value, row.at(name)), sort_keys=True, separators=(",", ":"))
    return made


def _json(value: Any, at: str) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise DataError("not JSON", at, "correct the row") from error


_MORE = {"tools": "tools", "chat_template_kwargs": "chat_template_kwargs"}
PAIRS = Shape(prompt, read_pair, {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected", **_MORE})
UNPAIRED = Shape(
    prompt,
    read_unpaired,
    {"prompt": "prompt", "completion": "completion", "label": "label", **_MORE},
    grouped=True,
    needs_first=True,
)
