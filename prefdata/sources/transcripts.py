"""Talks written into one text: "\\n\\nHuman: ... \\n\\nAssistant: ...", as hh-rlhf and Nectar have them, and their relatives.

Line ends may be those of Windows; a marker may stand in Markdown (### Human:, **Assistant:**), behind characters of no width,
or have a wide colon. A marker stands at the start of the text, after an empty line, or behind ### at the start of any line.
"""

import re

from prefdata.kinds import Message

_NO_WIDTH = re.compile("[\u200b-\u200f\u2060\ufeff]")
_WHO = r"(Human|Assistant)[*_]*[ \t]*[:：][*_]*"
_MARK = re.compile(rf"(?:\A\s*|\n[ \t]*\n\s*|\n[ \t]*(?=#))(?:[>#]+[ \t]*)?[*_]*{_WHO}")
ROLES = {"Human": "user", "Assistant": "assistant"}


def _plain(text: str) -> str:
    """The text with line feeds alone, without characters of no width."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
    return lines if lines.isascii() else _NO_WIDTH.sub("", lines)


def is_transcript(text: str) -> bool:
    """Whether a text says who speaks."""
    return ("Human" in text or "Assistant" in text) and _MARK.search(_plain(text)) is not None


def leaks(answer: str) -> bool:
    """Whether an answer goes on to play another turn."""
    return is_transcript(answer)


def talk(text: str) -> list[Message] | None:
    """The messages of a transcript, the user first and roles in turn; the last two may be empty. None where it is broken."""
    head, *pieces = _MARK.split(_plain(text))
    roles = [ROLES[name] for name in pieces[::2]]
    contents = [content.strip() for content in pieces[1::2]]
    if head.strip() or roles != (["user", "assistant"] * len(roles))[: len(roles)] or not all(contents[:-2]):
        return None
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]


def ends_open(text: str) -> bool:
    """Whether a transcript ends where the assistant is to answer."""
    *_, last = _MARK.finditer(_plain(text))
    return last[1] == "Assistant" and not _plain(text)[last.end() :].strip()


def _one_turn(text: str) -> str | None:
    """What is asked in "\\n\\nHuman: ...\\n\\nAssistant:", as nearly all are, without a search for markers; None for others."""
    end = text.rstrip()
    if not (text.startswith(_FIRST) and end.endswith(_LAST) and text.isascii() and "\r" not in text):
        return None
    once = text.count("Human") == 1 and text.count("Assistant") == 1
    return end[len(_FIRST) : -len(_LAST)].strip() if once else None


_FIRST, _LAST = "\n\nHuman: ", "\n\nAssistant:"


def prompt(text: str) -> list[Message] | None:
    """The messages of a text that ends before the answer ("Assistant:" last, with nothing after it); a text without markers is
    one user message. None where it is a broken transcript."""
    if (asked := _one_turn(text)) is not None:
        return [{"role": "user", "content": asked}]
    if not is_transcript(text):
        return [{"role": "user", "content": text}]
    messages = talk(text)
    if not messages or messages[-1]["role"] != "assistant" or messages[-1]["content"]:
        return None
    return messages[:-1]
