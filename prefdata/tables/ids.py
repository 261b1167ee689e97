"""What identifies prompts and candidates, and which texts a table can hold."""

import json
from collections.abc import Callable, Iterable

from prefdata.draws import hashed, hex_id, hex_id_of_json, quoted
from prefdata.kinds import Message


def prompt_id(
    messages: Iterable[Message], tools: str | None = None, template_kwargs: str | None = None, extras: str | None = None
) -> str:
    """16 hex of blake2b over the canonical messages, and tools, template_kwargs and extras (JSON) where there are any."""
    canonical = ",".join([f"[{quoted(m['role'])},{quoted(m['content'])}]" for m in messages])
    if not (tools or template_kwargs or extras):
        return hex_id_of_json(f"[{canonical}]")
    more = [tools or "", template_kwargs or ""]
    return hex_id(f"[{canonical}]", *more, *([_by_name(extras)] if extras else []))


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
    return hex_id(prompt, response, origin, producer, heat, sample, *([_by_name(extras)] if extras else []))


def source_ids(prompt: str, answers: Iterable[tuple[str, str, int]], quoted: Callable[[str], str] = quoted) -> list[str]:
    """`candidate_id` of a source's answers to one prompt, each (response, producer, sample), without extras. What they share is
    written once: there are as many as answers. `quoted`: a text as JSON in ASCII, from whoever has it."""
    head = f"[{quoted(prompt)},"
    keys = [f'{head}{quoted(text)},"source",{quoted(producer)},-1.0,{sample}]' for text, producer, sample in answers]
    return [hashed(key.encode("ascii")) for key in keys]


def is_text(text: str) -> bool:
    """Whether the string can be stored: no lone surrogate."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
