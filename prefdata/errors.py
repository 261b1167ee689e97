"""The four errors a user may see: what went wrong, where (file:row:field) and what to do about it.

The command line prints them as one line and exits with code 2; anything else that escapes is a defect of ours.
"""

import difflib
from collections.abc import Iterable, Sequence


class PrefdataError(Exception):
    """What happened, where, and what to do; `str()` is the one line that is printed.

    Several mistakes found together are a list, one line each. Names from data stand in messages: what does not show
    itself (newlines, terminal codes, bidirectional marks) is written as its code.
    """

    def __init__(self, what: str | Sequence[str], where: str | None = None, do: str | None = None) -> None:
        self.what, self.where, self.do = what, where, do
        lines = [what] if isinstance(what, str) else what
        where, do = f"{where}: " if where else "", f"; {do}" if do else ""
        super().__init__("\n".join(printable(f"{where}{line}{do}") for line in lines))


class ConfigError(PrefdataError):
    """The settings ask for something that cannot be."""


class DataError(PrefdataError):
    """A file, a row or a field is not what it must be."""


class EngineError(PrefdataError):
    """A model or a judge failed more often than the settings allow."""


class PublishError(PrefdataError):
    """The target refused, or must not be written."""


def printable(text: str) -> str:
    """The text with every character that does not show itself as its code."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def snippet(value: object, limit: int = 40) -> str:
    """The first `limit` characters of a value, escaped, for a message about it."""
    text = ascii(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """What a misspelt key may have meant, as the end of a message."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(map(repr, known)) or 'none'})"
