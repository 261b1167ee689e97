"""What identifies prompts and candidates, and which texts a table can hold."""

import json
from collections.abc import Iterable
from math import isfinite

from prefdata.draws import hashed, hex_id, quoted
from prefdata.kinds import Message


def prompt_id(
    messages: Iterable[Message], tools: str | None = None, template_kwargs: str | None = None, extras: str | None = None
) -> str:
    """16 hex of blake2b over the canonical messages, and tools, template_kwargs and extras (JSON) where there are any."""
    canonical = json.dumps([[m["role"], m["content"]] for m in messages], separators=(",", ":"))
    more = [tools or "", template_kwargs or ""] if tools or template_kwargs or extras else []
    return hex_id(canonical, *more, *([_by_name(extras)] if extras else []))


def _by_name(extras: str) -> str:
    """Extras with each message's keys in order: templates ask for them by name. What a key holds stays in its own order."""
    said = json.loads(extras)
    made = [dict(sorted(m.items())) for m in (said if isinstance(said, list) else [said])]
    return json.dumps(made, separators=(",", ":"))


def candidate_id(
    prompt: str,
    response: str,
    origin: str,
    producer: str,
    temperature: float | None,
    sample: int,
    extras: str | None = None,
) -> str:
    """16 hex over prompt_id, response, origin, producer, temperature, sample, and extras where there are any."""
    heat = -1.0 if temperature is None else float(temperature)
    if extras or not isfinite(heat):
        return hex_id(prompt, response, origin, producer, heat, sample, *([_by_name(extras)] if extras else []))
    # the same, written at once: there are as many of these as answers
    key = f"[{quoted(prompt)},{quoted(response)},{quoted(origin)},{quoted(producer)},{heat!r},{sample}]"
    return hashed(key.encode("ascii"))


def is_text(text: str) -> bool:
    """Whether the string can be stored: no lone surrogate."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
