"""What a server sent, read strictly: a chat completion, the log-probs of one token, its usage, how long to wait.

A proxy, another version or an attacker may have written it: whatever is none of these is Unreadable, or data with a reason.
"""

import math
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import Any

from prefdata.models.engines.protocol import Completion, chosen
from prefdata.tables.ids import is_text

MOST_TOKENS, LEAST_LOGP = 2**30, -1e4


class Unreadable(Exception):
    """A reply that is not one."""


def usage_of(reply: dict[str, Any]) -> tuple[int, int]:
    """Prompt tokens and generated tokens; 0 where the reply does not say, or says what cannot be."""
    usage = reply.get("usage")
    counts = [usage.get(k) if isinstance(usage, dict) else None for k in ("prompt_tokens", "completion_tokens")]
    prompt, made = (c if type(c) is int and 0 <= c <= MOST_TOKENS else 0 for c in counts)
    return prompt, made


def retry_after(header: str | None, now: float) -> float | None:
    """Seconds to wait by a Retry-After header, which holds seconds or a date; None where it holds neither."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - now
        except ValueError:
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _first(reply: dict[str, Any]) -> dict[str, Any]:
    """The first choice of a reply. Raises Unreadable."""
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Unreadable("no choices")
    return choices[0]


def completion_of(reply: dict[str, Any]) -> Completion:
    """The text of a chat completion; a refusal is its own reason. Raises Unreadable."""
    choice = _first(reply)
    message, ended = choice.get("message"), choice.get("finish_reason")
    if not isinstance(message, dict):
        raise Unreadable("no message")
    if message.get("refusal") or ended == "content_filter":
        return Completion("", "error", 0, "refusal")
    text = message.get("content")
    if text is None and ended == "length":  # a reasoning model that never came to its answer
        return Completion("", "error", 0, "truncated")
    if not isinstance(text, str) or not is_text(text):
        raise Unreadable("no content")
    return Completion(text, "length" if ended == "length" else "stop", 0)


def choice_of(reply: dict[str, Any], labels: Sequence[str]) -> Completion:
    """The labels' log-probs; spellings that differ in white space are one label. Raises Unreadable."""
    logprobs = _first(reply).get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list) or len(content) != 1 or not isinstance(content[0], dict):
        return Completion("", "error", 0, "logprobs: one token's expected (or take verdicts: text)", transient=True)
    listed = content[0].get("top_logprobs")
    shares = dict.fromkeys(labels, 0.0)
    for entry in listed if isinstance(listed, list) else []:
        token, logp = (entry.get(k) if isinstance(entry, dict) else None for k in ("token", "logprob"))
        if not isinstance(token, str) or isinstance(logp, bool) or not isinstance(logp, int | float):
            return Completion("", "error", 0, "logprobs: not a number")
        if not logp <= 1e-6:  # NaN too
            return Completion("", "error", 0, "logprobs: above 0")
        if token.strip() in shares:
            shares[token.strip()] += math.exp(max(logp, LEAST_LOGP))
    if not any(shares.values()):
        return Completion("", "error", 0, "no label among the likeliest tokens")
    logps = [math.log(s) if s > 0 else -math.inf for s in shares.values()]
    return chosen(labels, logps, 0)
