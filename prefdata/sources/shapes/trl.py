"""TRL's shapes: pairs (prompt, chosen, rejected), as texts or as message lists, and unpaired answers with a label.

Conversational pairs may leave the prompt out: it is then what both conversations share before their last message, which they
may also repeat of a prompt that is given. ShareGPT's rows (conversations, chosen, rejected) are pairs too. Several pairs of one
prompt make one candidate set (prefdata/sources/pairs.py). A prompt that is a transcript in one text is read as its turns.
Unpaired rows (prompt, completion, label) are joined by prompt: true = rank 1, false = rank 2; a prompt whose answers are all
labelled false has nothing to prefer: it is dropped, no_good_answer, unless the set `unpaired` is made.
"""

from dataclasses import replace
from typing import Any

from prefdata.errors import DataError
from prefdata.kinds import Message
from prefdata.sources import transcripts
from prefdata.sources.conversations import json_value, text_of
from prefdata.sources.pairs import by_pairs, together
from prefdata.sources.rows import Answer, Fields, Shape, Shaped
from prefdata.sources.shapes import binarized
from prefdata.tables.messages import as_json


def prompt(row: Fields) -> Shaped:
    """A row's prompt. Raises DataError (file:row:field) where its shape is wrong."""
    own = _own_prompt(row)
    if own is not None or not row.has("chosen"):
        value = row.get(own or "prompt", str, list, dict)
        if not isinstance(value, str) or not transcripts.is_transcript(value) or not transcripts.ends_open(value):
            return Shaped(row.prompt(own or "prompt"), **_extras(row))
        messages = transcripts.prompt(value)
        problem = None if messages else "bad_dialogue"
        return Shaped(messages or [{"role": "user", "content": value}], problem=problem, **_extras(row))
    if isinstance(row.get("chosen", str, list, dict), str):
        do = "split prompt and answers apart, or set format: transcript_pairs for Human: ... Assistant: ..."
        raise DataError("text pairs need a prompt of their own", row.at("prompt"), do)
    return replace(binarized.prompt(row), **_extras(row))


def _own_prompt(row: Fields) -> str | None:
    """The field that holds the prompt, None where it is inside the conversations."""
    return next((name for name in ("prompt", "conversations") if row.has(name)), None)


def read_pair(row: Fields) -> Shaped:
    """One pair. Raises DataError (file:row:field) where its shape is wrong."""
    shaped = prompt(row)
    if _own_prompt(row) is None:
        answers = [Answer.of(binarized.conversation(row, n)[-1], rank=r) for n, r in (("chosen", 1.0), ("rejected", 2.0))]
    else:
        answers = [_answer(row, n, shaped.messages, r) for n, r in (("chosen", 1.0), ("rejected", 2.0))]
    return replace(shaped, answers=answers)


def read_unpaired(row: Fields) -> Shaped:
    """One labelled answer. Raises DataError (file:row:field) where its shape is wrong."""
    shaped, label = prompt(row), row.get("label", bool)
    answer = _answer(row, "completion", shaped.messages, 1.0 if label else 2.0)
    return replace(shaped, answers=[answer._replace(label=label)])


def _answer(row: Fields, name: str, prompt: list[Message], rank: float) -> Answer:
    """A text, the assistant's message, or the whole conversation that the prompt begins."""
    value = row.get(name, str, list, dict)
    if isinstance(value, str):
        return Answer(text_of(value, row.at(name)), rank=rank)
    messages = row.messages(name)
    if not messages or messages[-1]["role"] != "assistant" or (len(messages) > 1 and messages[:-1] != prompt):
        raise DataError(
            "one message of the assistant expected, alone or after the prompt's own messages",
            row.at(name),
            "leave prompt out if chosen and rejected are complete conversations",
        )
    return Answer.of(messages[-1], rank=rank)


def _extras(row: Fields) -> dict[str, Any]:
    """The tools and the template's arguments a prompt comes with, as JSON in their own key order."""
    made = {}
    for ours, name, kinds in (("tools", "tools", (list, str)), ("template_kwargs", "chat_template_kwargs", (dict, str))):
        if row.has(name):
            value = json_value(row.get(name, *kinds), row.at(name), row.columnar)
            if value:
                made[ours] = as_json(value)
    return made


_MORE = {"tools": "tools", "chat_template_kwargs": "chat_template_kwargs", "conversations": "conversations"}
PAIRS = Shape(
    prompt,
    read_pair,
    {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected", **_MORE},
    join=by_pairs,
    needs_first=True,
)
UNPAIRED = Shape(
    prompt,
    read_unpaired,
    {"prompt": "prompt", "completion": "completion", "label": "label", **_MORE},
    join=together,
    needs_first=True,
    labels=True,
)
