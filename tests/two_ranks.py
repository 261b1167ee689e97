"""One rank of torchrun: trains every run of the recipe given, in its folder. `--die-at N`: the N-th step is the end."""

import sys
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.errors import record

from prefdata import recipe
from prefdata.run import Run
from train import loop, world


@record
def main(folder: str, die_at: int) -> None:
    loaded = recipe.load(Path(folder) / "recipe.json")
    world.join()
    step, count = loop.one_step, 0

    def dying(*args: object) -> dict[str, object]:
        nonlocal count
        count += 1
        if count == die_at:
            sys.exit(9)
        return step(*args)

    loop.one_step = dying
    for name in loaded.train.runs:
        loop.train(loaded, name, Run(loaded, Path(folder)))
    world.leave()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], int(sys.argv[2]))
