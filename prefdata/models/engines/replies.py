"""What a server sent, read strictly: a chat completion, the log-probs of one token, its usage, how long to wait.

A proxy, another version or an attacker may have written it: whatever is none of these is Unreadable, or data with a reason.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import Any

from prefdata.models.engines.protocol import Completion, chosen
from prefdata.tables.ids import is_text

MOST_TOKENS, LEAST_LOGP = 2**30, -1e4
ALIKE = 8
"""So many equal failures before any answer end the run."""


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
    text = _joined(message.get("content"))
    if text is None and ended == "length":  # a reasoning model that never came to its answer
        return Completion("", "error", 0, "truncated")
    if text is None and (message.get("reasoning_content") or message.get("reasoning")):
        return Completion("", "error", 0, "reasoning without an answer")
    if not isinstance(text, str) or not is_text(text):
        raise Unreadable("no content")
    return Completion(text, "length" if ended == "length" else "stop", 0)


def _joined(content: Any) -> Any:
    """The texts of a content in parts, as some servers send it; anything else as it is."""
    if isinstance(content, list) and content and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        return "".join(p["text"] for p in content if p.get("type", "text") in ("text", "output_text"))
    return content


def message_of(text: str) -> str:
    """What an error of the server says: its message, or the whole of it where it has none."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return text
    error = said.get("error", said) if isinstance(said, dict) else text
    return str(error.get("message", text)) if isinstance(error, dict) else str(error)


class SameFailure(Exception):
    """The first requests all failed in the same way, and none was answered."""


class Alike:
    """Watches whether every request fails alike: no use in sending the rest."""

    def __init__(self, answered: bool = False) -> None:
        self.answered, self.reasons = answered, Counter[str]()

    def add(self, reply: Completion) -> None:
        """Raises SameFailure."""
        if reply.finish != "error":
            self.answered = True
        elif reply.transient and not self.answered:
            self.reasons[str(reply.reason)] += 1
            if self.reasons[str(reply.reason)] >= ALIKE:
                raise SameFailure(f"the first {self.reasons.total()} requests all failed ({reply.reason})")


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
