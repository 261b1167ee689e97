"""Messages as people's files hold them: role and content, ShareGPT's from and value, content in parts, tool calls, reasoning.

What a message says beside role and content is kept as it is. What cannot be kept (an image, an unknown role) is an error that
names it. The role developer, OpenAI's newer word for it, is read as system, which is what chat templates know.
"""

import json
from collections.abc import Mapping
from typing import Any

from prefdata.errors import DataError, snippet
from prefdata.kinds import Message
from prefdata.tables.messages import ACTIONS
from prefdata.tables.schema import ROLES

SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}
"""ShareGPT's names of who speaks, and the role each is."""
TEXT_PARTS = ("text", "input_text", "output_text")


class Columnar(dict[str, Any]):
    """A row read from columns (Parquet, the Hub): a key that an object lacks reads as null there, and is taken as absent."""


class Exact(dict[str, Any]):
    """An object in a columnar row that has no keys but its own, as JSON has them: those that are null are meant."""


def messages_of(value: Any, at: str, columnar: bool = False) -> list[Message]:
    """A text as one user message, a message, or a list of messages. Raises DataError."""
    if isinstance(value, str):
        _require_no_list(value, at)
        return [{"role": "user", "content": value}]
    listed = [value] if isinstance(value, Mapping) else value
    return [_message(m, i, at, columnar) for i, m in enumerate(listed)]


def text_of(value: str, at: str) -> str:
    """A text, which is no message list written as text. Raises DataError."""
    _require_no_list(value, at)
    return value


def _require_no_list(text: str, at: str) -> None:
    """Raise DataError for a JSON list of messages written as text, as exports by way of CSV have it."""
    if not text.lstrip().startswith("[") or ('"role"' not in text and '"from"' not in text):
        return
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError):
        return
    if isinstance(listed, list) and listed and all(isinstance(m, dict) and {"role", "from"} & m.keys() for m in listed):
        what = f"a JSON list of messages written as text: {snippet(text)}"
        raise DataError(what, at, "write the list itself (json.loads on the field)")


def _message(value: Any, place: int, at: str, columnar: bool) -> Message:
    if not isinstance(value, Mapping):
        raise DataError(f"message {place} is no {{role, content}}: {snippet(value)}", at, "correct the row")
    given = {k: v for k, v in value.items() if v is not None or k == "content"}
    if "from" in given and "role" not in given:
        given = {"role": SPEAKERS.get(str(given["from"]), given["from"]), "content": given.get("value")} | {
            k: v for k, v in given.items() if k not in ("from", "value", "content")
        }
    role = "system" if given.get("role") == "developer" else given.get("role")
    if role not in ROLES:
        what = f"message {place} is no {{role, content}} with a role of {ROLES}: {snippet(dict(value))}"
        raise DataError(what, at, "correct the row")
    more = {k: v for k, v in given.items() if k not in ("role", "content")}
    content = _content(given.get("content"), f"{at}[{place}].content")
    if content is None and not any(more.get(key) for key in ACTIONS):
        raise DataError(f"message {place} has no content: {snippet(dict(value))}", at, "correct the row")
    more = _without_nulls(more) if columnar else more
    # as published sets have them: JSON in a text column
    parsed = {k: json_value(more[k], f"{at}[{place}].{k}") for k in ACTIONS if isinstance(more.get(k), str)}
    return {"role": role, "content": content, **more, **parsed}


def _content(value: Any, at: str) -> str | None:
    """A text; of a list of parts their texts together. Raises DataError for what is no text."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise DataError(
            f"a text or a list of parts expected, not {type(value).__name__}: {snippet(value)}", at, "correct the row"
        )
    return "".join(_part(part, f"{at}[{i}]") for i, part in enumerate(value))


def _part(part: Any, at: str) -> str:
    if isinstance(part, str):
        return part
    kind = (part.get("type") or "text") if isinstance(part, Mapping) else type(part).__name__
    if kind not in TEXT_PARTS or not isinstance(part.get("text"), str):
        raise DataError(f"a part of type {snippet(kind)}: only texts can be kept", at, "leave such rows out")
    return str(part["text"])


def _without_nulls(value: Any) -> Any:
    """The value without null keys, at any depth: columns give every object all keys of the file."""
    if isinstance(value, Exact):
        return value
    if isinstance(value, Mapping):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return [_without_nulls(v) for v in value] if isinstance(value, list) else value


def json_value(value: Any, at: str, columnar: bool = False) -> Any:
    """A value, or the JSON text of one. Raises DataError."""
    try:
        made = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise DataError("not JSON", at, "correct the row") from error
    return _without_nulls(made) if columnar and not isinstance(value, str) else made
