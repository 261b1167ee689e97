"""Texts as words, for what compares prompts by wording: near duplicates and overlap with evaluation sets.

Words are those of Unicode (UAX 29, by the `regex` library's properties): letters with their marks, numbers with their point.
Scripts that write no spaces give one word a character. Signs that change what is asked are words too (C++, C#, 7 - 3, 7 + 3,
5!); punctuation and case do not count.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

_SPACELESS = r"\p{Han}\p{Hiragana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_OPERAND = r"(?=\s*(?:\p{N}|\p{L}(?![\p{L}\p{M}\p{N}])))"
_PATTERN = rf"""
  [{_SPACELESS}]\p{{M}}*                                   # one character of a script without spaces
| (?:(?![{_SPACELESS}])[\p{{L}}\p{{M}}\p{{N}}_\u200c\u200d])+  # letters, their marks, digits
  (?: '(?=\p{{L}})(?:(?![{_SPACELESS}])[\p{{L}}\p{{M}}])+ | (?<=\p{{N}})[.,](?=\p{{N}})\p{{N}}+ )*  # don't, 3.5
| [\p{{Sm}}\p{{Sc}}\p{{So}}^%&]                             # + < = $ and pictures
| (?<=[\p{{L}}\p{{N}}])\#                                    # C#, but no heading
| (?<=\p{{N}})!                                            # 5!, but no exclamation
| (?<!\p{{L}}\p{{L}})[-*/]{_OPERAND}                        # 7 - 3, x/y, but no dash or hyphen
"""
_ASCII = re.compile(
    r"[a-z0-9_]+(?:'[a-z]+|(?<=[0-9])[.,][0-9]+)*|[+<=>|~$^%&]|(?<=[a-z0-9])#|(?<=[0-9])!"
    r"|(?<![a-z][a-z])[-*/](?=\s*(?:[0-9]|[a-z](?![a-z0-9])))"
)
"""The same for ASCII, which most texts are, four times as fast; a test compares the two."""
_ALIKE = str.maketrans({"’": "'", "−": "-", "–": "-", "×": "*", "÷": "/"})


@lru_cache(maxsize=1)
def _word() -> Any:
    import regex  # not at the top: every stage is imported at each start

    return regex.compile(_PATTERN, regex.VERBOSE | regex.VERSION1)


def words(text: str) -> list[str]:
    """The text's words after NFKC, without case and punctuation; a text without any word is one word itself."""
    if text.isascii():
        plain = text.lower()
        return _ASCII.findall(plain) or [plain.strip()]
    plain = unicodedata.normalize("NFKC", text).casefold().translate(_ALIKE)
    return _word().findall(plain) or [plain.strip()]


def ngrams(listed: Sequence[str], n: int) -> list[str]:
    """Every run of n words; a shorter text is one run."""
    return [*map(" ".join, zip(*(listed[i:] for i in range(n)), strict=False))] or [" ".join(listed)]


def user_text(messages: Iterable[dict[str, str]]) -> str:
    """What the user says in a prompt: a system text that many prompts share makes no duplicates of them."""
    return "\n".join(m["content"] for m in messages if m["role"] == "user")
