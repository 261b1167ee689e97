"""Tables and figures in Markdown; every value is escaped."""

from collections.abc import Iterable, Sequence
from typing import Any

from prefdata.output.escape import markdown


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; of no rows an empty one, so that what is not there is seen. `head` is ours and may hold markup."""
    return f"| {' | '.join(head)} |\n|{'---|' * len(head)}\n{rows_of(rows, len(head))}"


def rows_of(rows: Iterable[Sequence[Any]], columns: int = 3) -> str:
    """The rows alone; of no rows an empty one."""
    return "\n".join("| " + " | ".join(markdown(str(v)) for v in row) + " |" for row in rows) or "|" + " |" * columns


def share(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1%}"


def number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"


def counted(counts: dict[str, int]) -> str:
    """train 240, test 60."""
    return ", ".join(f"{name} {n}" for name, n in counts.items())
