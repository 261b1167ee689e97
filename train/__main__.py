"""Train: one run of a recipe (--settings recipe.yaml --run mcpo/default), or a file of its own (settings.yaml)."""

import argparse
import os
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from prefdata.errors import ConfigError, did_you_mean
from prefdata.progress import logged
from prefdata.recipe.read import print_settings, read_recipe
from prefdata.recipe.results import Run
from prefdata.recipe.settings.whole import Settings
from prefdata.tables.locks import lock
from prefdata.workflow.cli import guarded

EXAMPLE = """
a file of its own needs an objective, a set, a model and where the new one goes:

  objective: mcpo
  data: {path: pairs.jsonl, format: trl_pairs}     # or a folder that prefdata published: format: sets
  model: /models/my-sft-model                      # or a Hub id with its revision
  output: out/mcpo
  epochs: 1
"""


def main() -> None:
    """Parse, validate, lock, train."""
    asked = _arguments()
    if asked.keys:
        _show_keys()
    elif asked.file is not None:
        _alone(asked)
    else:
        _of_recipe(asked)


def _arguments() -> argparse.Namespace:
    default = Path(os.environ.get("PREFDATA_SETTINGS", "config/demo.yaml"))
    parser = argparse.ArgumentParser(
        prog="python -m train", description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, nargs="?", help="a training run's own file (YAML)")
    parser.add_argument("--settings", type=Path, default=default, help="or a recipe (YAML)")
    parser.add_argument("--run", help="<objective>/<variant> under train.runs of the recipe; without it they are listed")
    parser.add_argument("--check", action="store_true", help="validate and stop")
    parser.add_argument("--keys", action="store_true", help="print every key of a run with its default and its reason")
    parser.add_argument("--log", type=Path, help="also write what is said on stderr to this file")
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
    return parser.parse_args()


def _show_keys() -> None:
    from train.alone import AloneSettings

    print("train.runs.<objective>/<variant> of a recipe has all but the last keys (objective to threads).")
    print_settings(AloneSettings)


def _alone(asked: argparse.Namespace) -> None:
    from train import alone

    made = alone.load(asked.file)
    if asked.check:
        _say(made.name, made.recipe)
        return
    os.environ["OMP_NUM_THREADS"] = str(made.recipe.threads)  # before torch is imported
    from train.loop import train

    call = partial(train, made.recipe, made.name, made.run)
    _train(asked, made.run.root / "locks" / "train", call, partial(alone.prepare, made))


def _of_recipe(asked: argparse.Namespace) -> None:
    from train.settings import validate

    loaded = read_recipe(asked.settings)
    runs = validate(loaded, str(asked.settings))
    if asked.run is None or asked.check:
        for name in runs:
            _say(name, loaded)
        return
    if asked.run not in runs:
        raise ConfigError(f"no run {asked.run!r}{did_you_mean(asked.run, runs)}", str(asked.settings))
    from train.loop import train

    _train(asked, Run(loaded).root / "locks" / f"train-{asked.run.replace('/', '-')}", partial(train, loaded, asked.run))


def _train(
    asked: argparse.Namespace, lock_: Path, call: Callable[[], Path], prepare: Callable[[], None] = lambda: None
) -> None:
    """Prepare and train. Of several processes (torchrun) the first one locks, prepares, writes and says where."""
    from train import processes

    here = processes.join()
    try:
        with logged(asked.log if here.first else None), lock(lock_) if here.first else nullcontext():
            if here.first:
                prepare()
            here.any(False)  # wait for the first
            folder = call()
            if here.first:
                print(folder)
    finally:
        processes.leave()


def _say(name: str, loaded: Settings) -> None:
    from train.settings import resolve

    run = resolve(loaded, name)
    length = f"{run.steps} steps" if run.steps else f"{run.epochs} epochs"
    print(f"{name}: {length} from {run.model or 'a fresh model'}")


if __name__ == "__main__":
    guarded(main)
