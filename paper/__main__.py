"""python -m paper SIZE: run the papers in miniature, choose learning rates, and write the report.

Sizes are config/paper/{small,paper,full,mrpo,large}.yaml; the last is for a GPU. Everything that is finished stays: the same
command goes on after a kill, and a size runs what another one of the same name has not. Results land in the working folder, the
report in results/<name>/report.md and report.html; of full and mrpo, which share their runs with paper, in a folder below.
"""

import argparse
import contextlib
import os
import platform
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from subprocess import run
from typing import Any

import torch
import yaml

from paper import gradient, report
from paper.cells import Cell, Rates, Size, cells, frame, of_the_grid
from paper.outcomes import Outcomes
from paper.recipes import Recipe, is_main, recipes
from prefdata.errors import EngineError, PrefdataError
from prefdata.progress import processors
from prefdata.tables.atomic import atomic_text

PROCESSORS = 4
"""So many processors a recipe, before two run at once."""


def main() -> None:
    """Plan, run the grid, choose, run the rest, report."""
    parser = argparse.ArgumentParser(prog="python -m paper", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("size", help="small, paper, full, mrpo or large")
    parser.add_argument("--plan", action="store_true", help="say how many runs it makes, and stop")
    arguments = parser.parse_args()
    try:
        reproduce(Size.read(arguments.size), arguments.plan)
    except PrefdataError as error:
        sys.exit(f"error: {error}")


def reproduce(size: Size, plan: bool = False) -> None:
    """Everything of one size. Raises EngineError where a recipe fails."""
    grid = cells(size)
    first_rate = {(c.world, c.row): size.rates[0] for c in grid}  # to count by: any will do
    say(size, grid, cells(size, first_rate))
    if plan:
        return
    started, folder = time.monotonic(), size.folder
    torch.set_num_threads(1)  # as the jobs have it: small models are slower on more
    rates = chosen(size, grid, folder) if len(size.rates) > 1 else first_rate
    every = cells(size, rates)
    second = recipes(size, [*grid, *every])
    workflows(second, folder)
    found = Outcomes(second.values())
    found.keep(folder)
    notes = [f"This call took {(time.monotonic() - started) / 60:.0f} minutes; what was finished before was not run again."]
    shown = [*every, *(of_the_grid(grid) if len(size.rates) > 1 else ())]
    frames = (frame(size, shown), found.shown(), found.runs, found.curves)
    report.write(folder, size.report or size.name, *frames, machine(), f"{date.today()}", notes, gradients(size, every, second))
    print(folder / "report.html")


def gradients(size: Size, every: list[Cell], made: dict[str, Recipe]) -> list[dict[str, Any]]:
    """Of the first run of MC-PO in each world."""
    first = {c.world: c for c in reversed(every) if c.source == ("main", "MC-PO") and c.variant.name == "main"}
    return [
        {"world": world, **row}
        for world, cell in sorted(first.items())
        for row in gradient.of_run(made[cell.recipe(size)], cell.run, size.gradient_prompts)
    ]


def machine() -> str:
    """Processor and cores, as numbers in docs are given."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {processors()} cores"
    return f"{platform.machine()}, {processors()} cores"


def chosen(size: Size, grid: list[Cell], folder: Path) -> Rates:
    """Run the grid; (world, row) -> the learning rate that is best on the prompts of choice."""
    made = recipes(size, grid)
    workflows(made, folder)
    rates = Outcomes(made.values()).chosen_rates(frame(size, grid))
    lines = [f"{world}: {row}: {rate:g}\n" for (world, row), rate in sorted(rates.items())]
    atomic_text(folder / "rates.txt", "".join(lines))
    return rates


def say(size: Size, grid: list[Cell], every: list[Cell]) -> None:
    """How many training runs there will be, before the first."""
    runs = {(c.recipe(size), c.run) for c in every}
    more = {(c.recipe(size), c.run) for c in grid} - runs
    tables = Counter(c.table for c in every)
    print(f"{size.name}: {len(runs) + len(more)} training runs in {len({r for r, _ in runs})} recipes", file=sys.stderr)
    chosen_by = f"{len(grid)} of them choose learning rates" if len(size.rates) > 1 else f"all at the rate {size.rates[0]:g}"
    print(f"  {chosen_by}; rows by table: {dict(tables)}", file=sys.stderr)


def workflows(made: dict[str, Recipe], folder: Path) -> None:
    """Run each recipe by `prefdata run`: those that others take their models from first, several at once where there are
    processors for it, since a recipe has long stretches with one job."""
    first = [name for name in made if is_main(name)]
    for names in (first, [name for name in made if name not in first]):
        at_once = max(1, min(len(names), processors() // PROCESSORS))
        with ThreadPoolExecutor(at_once) as pool:
            for ended in [pool.submit(workflow, name, made[name], folder, processors() // at_once) for name in names]:
                ended.result()


def workflow(name: str, recipe: Recipe, folder: Path, cores: int) -> None:
    """Run one. Raises EngineError where it fails."""
    path = folder / "recipes" / f"{name}.yaml"
    atomic_text(path, yaml.safe_dump(recipe, sort_keys=False))
    print(f"{name}: {len(recipe['train']['runs'])} runs", file=sys.stderr)
    words = [sys.executable, "-P", "-m", "prefdata", "run", str(path), "--quiet", "rules", "--cores", str(cores)]
    if run(words, env={**os.environ, "PREFDATA_NO_SUMMARY": "1"}, check=False).returncode:
        raise EngineError("the recipe failed", str(path), f"see above; then `python -m paper` again, or `prefdata run {path}`")


if __name__ == "__main__":
    main()
