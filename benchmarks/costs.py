"""The tables of docs/cost.md, by `prefdata cost`: nothing is run.

python benchmarks/costs.py writes them anew; a test fails when they differ.
"""

import json
import re
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from prefdata.workflow import rates
from prefdata.workflow.cli import app

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cost.md"
RECIPES = ("base", "instruct", "online", "mrpo")
COLUMNS = {
    "answers": ("generate", "online"),
    "judging": ("judge", "win_rate"),
    "log-probs": ("score",),
    "training": ("train",),
    "evaluation": ("evaluate", "harness"),
}


def reckoned(recipe: str) -> dict[str, Any]:
    """What `prefdata cost RECIPE --json` prints."""
    made: dict[str, Any] = json.loads(CliRunner().invoke(app, ["cost", recipe, "--json"]).output)
    return made


def costs() -> str:
    """GPU hours of the recipes, a row each."""
    rows = [f"| recipe | {' | '.join(COLUMNS)} | in all | from .. to | measured | money |", "|" + "---|" * (len(COLUMNS) + 5)]
    for recipe in RECIPES:
        found = reckoned(recipe)
        hours = [sum(r["gpu_hours"]["value"] for r in found["rows"] if r["stage"] in stages) for stages in COLUMNS.values()]
        whole, money = found["total"]["gpu_hours"], found["total"]["money"]
        timed = sum(r["gpu_hours"]["value"] for r in found["rows"] if not r["assumed"]) / whole["value"]
        shown = [f"{h:,.1f}" for h in [*hours, whole["value"]]] + [f"{whole['low']:,.0f} .. {whole['high']:,.0f}"]
        rows.append(f"| `{recipe}` | {' | '.join(shown)} | {timed:.0%} | {money:,.0f} |")
    return "\n".join(rows)


def shares() -> str:
    """The rates, a row each."""
    rows = ["| pass | least | reckoned with | most | | where from |", "|---|---|---|---|---|---|"]
    for name, rate in rates.load().shares.items():
        how = "measured" if rate.measured else "**assumed**"
        rows.append(f"| {name} | {rate.low:g} | {rate.value:g} | {rate.high:g} | {how} | {rate.source} |")
    return "\n".join(rows)


def rendered(page: str) -> str:
    """The page with its tables made anew."""
    for name, table in (("costs", costs()), ("shares", shares())):
        page = re.sub(rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", lambda m, t=table: m[1] + t + m[2], page, flags=re.S)
    return page


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text()))
