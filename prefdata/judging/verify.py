"""Whether an answer is right, by the prompt's final answer.

Final answers are compared by math-verify: 0.5 = 1/2 = \\frac{1}{2}, and 9,000 = 9000. Answers are untrusted texts: powers
that a computer algebra system would unfold are not evaluated, and such an answer counts as wrong.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from prefdata.kinds import Message

MARK = "####"
TIMEOUT_S = 5
TAIL_CHARS = 2000
"""An answer's result stands at its end; more is not searched."""
_POWER = re.compile(r"(\^|\*\*)")


def task_of(messages: Sequence[Message]) -> str:
    """The last user message."""
    return next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")


def score(final: str | None, response: str) -> float | None:
    """1 = right, 0 = wrong; None where there is no final answer to check against."""
    return None if final is None else float(same(final, response))


@lru_cache(maxsize=65_536)
def same(final: str, response: str) -> bool:
    """Whether the response's result is the final answer; after "####", where it has that mark, else wherever it ends."""
    from math_verify import parse, verify

    result = response.rpartition(MARK)[2] if MARK in response else response[-TAIL_CHARS:]
    if len(_POWER.findall(result)) > 8 or _explosive(result):
        return False
    gold, found = (_parsed(parse, text) for text in (final, result))
    return bool(found) and bool(verify(gold, found, timeout_seconds=TIMEOUT_S))


def _explosive(text: str) -> bool:
    """Powers with a power or more than three digits in the exponent."""
    return bool(re.search(r"(\^|\*\*)[\s{(\-]*(\d{4,}|[\d.]+[\s})]*(\^|\*\*))", text))


def _parsed(parse: Any, text: str) -> Any:
    return parse(text, parsing_timeout=TIMEOUT_S, raise_on_error=False)
