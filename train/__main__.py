"""`python -m train --settings recipe.yaml --run mcpo/default` trains one run of a recipe."""

import argparse
import os
from pathlib import Path

from prefdata import recipe
from prefdata.cli import guarded
from prefdata.errors import did_you_mean
from prefdata.progress import logged
from prefdata.run import Run, lock


def main() -> None:
    """Parse, validate, lock, train."""
    default = Path(os.environ.get("PREFDATA_SETTINGS", "config/demo.yaml"))
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__)
    parser.add_argument("--settings", type=Path, default=default, help="the recipe (YAML)")
    parser.add_argument("--run", help="<objective>/<variant> under train.runs; without it the runs are listed")
    parser.add_argument("--check", action="store_true", help="validate the recipe's runs and stop")
    parser.add_argument("--keys", action="store_true", help="print every key of a run with its default and its reason")
    parser.add_argument("--log", type=Path, help="also write what is said on stderr to this file")
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
    asked = parser.parse_args()
    from train.settings import RunSettings, validate

    if asked.keys:
        recipe.show(RunSettings, "train.runs.<objective>/<variant>.")
        return
    loaded = recipe.load(asked.settings)

    runs = validate(loaded, str(asked.settings))
    if asked.run is None or asked.check:
        for name, run in runs.items():
            length = f"{run.steps} steps" if run.steps else f"{run.epochs} epochs"
            print(f"{name}: {length} from {run.model or 'a fresh model'}")
        return
    if asked.run not in runs:
        parser.error(f"no run {asked.run!r}{did_you_mean(asked.run, runs)}")
    from train.loop import train

    with logged(asked.log), lock(Run(loaded).root / "locks" / f"train-{asked.run.replace('/', '-')}"):
        print(train(loaded, asked.run))


if __name__ == "__main__":
    guarded(main)
