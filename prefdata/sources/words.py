"""Texts as words, for what compares prompts by wording: near duplicates and overlap with evaluation sets."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The text's words after NFKC, without case and punctuation; a text without any word is one word itself."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return _WORD.findall(plain) or [plain.strip()]


def ngrams(listed: Sequence[str], n: int) -> list[str]:
    """Every run of n words; a shorter text is one run."""
    return [" ".join(listed[i : i + n]) for i in range(max(len(listed) - n + 1, 1))]


def user_text(messages: Iterable[dict[str, str]]) -> str:
    """What the user says in a prompt: a system text that many prompts share makes no duplicates of them."""
    return "\n".join(m["content"] for m in messages if m["role"] == "user")
