"""Messages as the tables hold them: role and content in columns, whatever else a message says as JSON beside them.

`extras` of a prompt is a JSON list, one object a message ({} for an ordinary one); `extras` of an answer is one object. Where
no message says more than role and content, it is null, so that ordinary rows are what they were (ADR 1). A content of null,
which templates may tell from an empty text, is "" in the column and null in the extras.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prefdata.kinds import Message

ACTIONS = ("tool_calls", "function_call", "audio")
"""Keys that make an answer one even where its text is empty."""


def as_json(value: Any) -> str:
    """JSON in the value's own key order: models see tools and calls in the order they were written in."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def split(messages: Sequence[Message]) -> tuple[list[Message], str | None]:
    """(role and content of each message, their extras)."""
    plain = [{"role": m["role"], "content": m["content"] or ""} for m in messages]
    extras = [_extras(m) for m in messages]
    return plain, as_json(extras) if any(extras) else None


def split_answer(message: Message) -> tuple[str, str | None]:
    """(content, extras) of the message that answers."""
    extras = _extras(message)
    return message["content"] or "", as_json(extras) if extras else None


def _extras(message: Message) -> dict[str, Any]:
    own = {k: v for k, v in message.items() if k not in ("role", "content")}
    return {"content": None, **own} if message["content"] is None else own


def joined(messages: Sequence[Message], extras: str | None) -> list[Message]:
    """Messages with their extras, as templates and servers get them."""
    if extras is None:
        return list(messages)
    return [{**m, **more} for m, more in zip(messages, json.loads(extras), strict=True)]


def answer(response: str, extras: str | None) -> Message:
    """An answer as a message."""
    return {"role": "assistant", "content": response, **(json.loads(extras) if extras else {})}


def prompt_of(row: Mapping[str, Any]) -> list[Message]:
    """The messages of a row of `prompts` or `sets`, with their extras."""
    if "messages" in row:
        return joined(row["messages"], row.get("extras"))
    return joined(row["prompt"], row.get("prompt_extras"))


def says_something(response: str, extras: str | None) -> bool:
    """Whether an answer has a text or calls a tool; reasoning alone is no answer."""
    return bool(response.strip()) or any(json.loads(extras or "{}").get(key) for key in ACTIONS)


def texts_in(value: Any) -> Iterator[str]:
    """Every text in a value, keys of objects too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield key
            yield from texts_in(one)
    elif isinstance(value, list):
        for one in value:
            yield from texts_in(one)


def as_text(message: Message) -> str:
    """A message as people and judges read it: its content, then its other keys as JSON."""
    more = {k: v for k, v in message.items() if k not in ("role", "content") and v is not None}
    return "\n".join(filter(None, [message["content"] or "", as_json(more) if more else ""]))
