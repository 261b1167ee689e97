"""Trains every run of the recipe in a folder, alone or as a rank of torchrun; SIGKILLs itself at the n-th micro-batch. A third
argument is the room for logits, in bytes."""

import os
import signal
import sys
from pathlib import Path

import torch

from prefdata.models.forward import head
from prefdata.recipe.read import read_recipe
from prefdata.recipe.results import Results
from prefdata.stages.registry import STAGES
from train import processes
from train import run as run_
from train.step import Step


def main(folder: Path, die_at: int) -> None:
    loaded = read_recipe(folder / "recipe.json")
    processes.join()
    values, count = Step.values, 0

    def dying(*args: object, **keys: object) -> object:
        nonlocal count
        count += 1
        if count == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return values(*args, **keys)

    Step.values = dying
    for name in loaded.train.runs:
        run_.train(loaded, name, Results(loaded, STAGES, folder))
    processes.leave()
    print(count)


if __name__ == "__main__":
    torch.set_num_threads(1)
    head.LOGITS_BYTES = int(sys.argv[3]) if len(sys.argv) > 3 else head.LOGITS_BYTES
    main(Path(sys.argv[1]), int(sys.argv[2]))
