"""Addresses of examples: from a figure of the quality report to the prompts behind it, in the page of the set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from prefdata.output.escape import visible

PAGE = "../publish/explore.html"
"""As quality.html, which lies in report/, finds it."""
OF_FIGURES = {
    "rejected": "rejected",
    "copies": "copies",
    "chosen_chars": "chars",
    "length_ratio": "ratio",
    "score_gap": "gap",
    "reference_margin": "margin",
}
"""Figures of each prompt (prefdata.tables.figures) that the page filters by: the names of its filters."""
OF_CHECKS = {
    "length": {"problem": "chosen_long"},
    "length_ratio": {"problem": "chosen_long"},
    "reference": {"problem": "reference_against"},
    "same_words": {"problem": "same_words"},
    "ties": {"problem": "tied"},
    "one_rejected": {"problem": "one_rejected"},
    "cut": {"problem": "chosen_cut"},
    "noise": {"origin": "noise"},
    "consistency": {"problem": "orders_differ"},
    "first_place": {"problem": "orders_differ"},
    "missing": {"problem": "no_verdict"},
}
"""What to look at where a check (prefdata.output.checks) is suspicious; keys of PROBLEMS and filters of the page."""


@dataclass(frozen=True)
class Link:
    """A cell of a table that opens its examples; `value`: as a cell without a link."""

    value: Any
    address: str


def address(**filters: str) -> str:
    """The page with these filters set."""
    return f"{PAGE}#{urlencode({key: visible(value) for key, value in filters.items()})}"


def between(figure: str, low: float | None, high: float | None) -> str:
    """The prompts of which a figure is in [low, high); None: no limit."""
    ends = ("" if end is None else repr(float(end)) for end in (low, high))
    return address(**{OF_FIGURES[figure]: "..".join(ends)})


def of_check(check: Mapping[str, Any]) -> Any:
    """The value of a check, with its examples where the page can list them."""
    filters = {"chosenBy": check["about"]} if check["check"] == "one_producer" else OF_CHECKS.get(check["check"])
    return Link(check["value"], address(**filters)) if filters and check["value"] is not None else check["value"]


def of_figure(row: Mapping[str, Any], name: str) -> Any:
    """A number of a figure's line: its 5 % and 95 % open the prompts beyond them."""
    value, figure = row.get(name), row["figure"]
    if value is None or figure not in OF_FIGURES or name not in ("p5", "p95"):
        return value
    return Link(value, between(figure, None, value) if name == "p5" else between(figure, value, None))
