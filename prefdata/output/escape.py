"""Texts of data and settings as they are shown in cards, pages and terminals: nothing hidden, no markup."""

import html
import re

from prefdata.errors import printable

MARKUP = r"\\`*_\[\]#|{}!"


def markdown(text: str) -> str:
    """One line of plain text in Markdown: no HTML, no markup, no table break, control characters made visible."""
    return re.sub(f"([{MARKUP}<>])", lambda m: "\\" + m[1] if m[1] not in "<>" else html.escape(m[1]), visible(text))


def plain(text: str) -> str:
    """What a reader of Markdown sees of texts that `markdown` escaped."""
    return html.unescape(re.sub(rf"\\([{MARKUP}])", r"\1", text))


def visible(text: str) -> str:
    """One line; what does not show itself (control, bidirectional, zero-width characters) as its code."""
    return printable(" ".join(text.split()))


def visible_lines(text: str) -> str:
    """A text with its lines; all else that does not show itself as its code, a carriage return and U+2028 too."""
    return "\n".join(printable(line.replace("\t", "\\t")) for line in text.split("\n"))


def html_text(text: str) -> str:
    """One line of plain text in HTML, inside an element."""
    return html.escape(visible(text))
