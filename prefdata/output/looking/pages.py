"""Pages of text for a terminal: data stands on them as plain text, never as markup, and nothing in it is hidden."""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefdata.output.escape import visible, visible_lines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text


def console() -> "Console":
    """The terminal, as wide as it is; what its encoding lacks is written as its code."""
    from rich.console import Console

    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    return Console(markup=False, highlight=False, emoji=False)


def line(text: str, style: str = "") -> "Text":
    """One line."""
    from rich.text import Text

    return Text(visible(text), style=style)


KEPT_WIDTH = 24
"""A column of a table is not made narrower, where its cells are as wide."""


@dataclass(frozen=True)
class Block:
    """A text with its lines, which `show` moves in and wraps."""

    text: "Text"
    indent: int = 2


def block(text: str, indent: int = 2) -> Block:
    """A text of the data."""
    from rich.text import Text

    return Block(Text(visible_lines(text)), indent)


def table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None, loose: Sequence[str] = ()
) -> "Table":
    """A table; numbers stand to the right. Where the terminal is narrow, the columns `loose` are cut, then names that are
    long."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    named = None if title is None else Text(title)
    made = Table(title=named, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    shown = [[Text(figure(cell)) for cell in row] for row in rows]
    for place, name in enumerate(columns):
        right = any(isinstance(row[place], int | float) for row in rows)
        least = max((row[place].cell_len for row in shown), default=1)
        width = max(map(len, name.split())) if name in loose else max(min(least, KEPT_WIDTH), *map(len, name.split()))
        made.add_column(
            Text(name), justify="right" if right else "left", overflow="ellipsis", no_wrap=not right, min_width=width
        )
    for row in shown:
        made.add_row(*row)
    return made


def figure(value: object) -> str:
    """A number, a share or a text as it is shown."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return visible(str(value))


def show(page: Sequence[Any]) -> None:
    """Print tables, lines and blocks."""
    from rich.text import Text

    out = console()
    for part in page:
        if not isinstance(part, Block):
            out.print(part)
            continue
        for each in part.text.wrap(out, max(out.width - part.indent, 20)):
            out.print(Text(" " * part.indent) + each, soft_wrap=True)


def as_json(facts: Any) -> str:
    """Facts for programs: ASCII, and null for what is no number."""
    return json.dumps(_finite(facts), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
