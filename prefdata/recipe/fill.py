"""The frame of every engine stage: fill the chunk store in the global order of prompts, then write the shards from it.

Finished items are never computed again; a model is started only when an item is missing.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import polars as pl

from prefdata.kinds import SplitName
from prefdata.progress import Progress
from prefdata.recipe.job import Job
from prefdata.recipe.parts import merge
from prefdata.tables.finished import ChunkStore, Value
from prefdata.tables.views import Frames

AT_ONCE = 128
"""Prompts whose finished items are held at once: what was made of a prompt may be many times as large as the prompt."""
Item = TypeVar("Item")


def fill(
    job: Job,
    store: ChunkStore,
    chunk_prompts: int,
    splits: Sequence[SplitName],
    items: Callable[[Frames], Mapping[str, Item]],
    compute: Callable[[dict[str, Item]], Iterator[dict[str, Value]]],
) -> None:
    """Compute every missing item, about `chunk_prompts` prompts of these splits at a time; batches never cross a chunk. What
    `compute` yields is committed together."""
    with Progress(f"{job.stage.name} {job.unit}", None) as progress:
        for frames in chunks(job, chunk_prompts, splits):
            wanted = items(frames)
            missing = store.missing(list(wanted))
            if missing:
                for finished in compute({k: wanted[k] for k in missing}):
                    store.put(finished)
            progress.advance(len(wanted))
    report_found(job, store)


def chunks(job: Job, prompts: int, splits: Sequence[SplitName]) -> Iterator[Frames]:
    """The rows of at least `prompts` prompts of these splits, and of less than twice as many: where few of all prompts are a
    stage's own, a model still gets as many at once. They begin and end with whole parts, so they do not depend on shards."""
    held, count = list[Frames](), 0
    for frames in job.parts(prompts=prompts):
        mine = frames["splits"].filter(pl.col("split").is_in(splits)).select("prompt_id")
        held.append({t: f.join(mine, on="prompt_id", how="semi", maintain_order="left") for t, f in frames.items()})
        count += mine.height
        if count >= prompts:
            yield merge(held)
            held, count = [], 0
    if held:
        yield merge(held)


def whole(compute: Callable[[Sequence[Item]], Sequence[Value]]) -> Callable[[dict[str, Item]], Iterator[dict[str, Value]]]:
    """Commit a chunk's items together, so that a batch is the same one whenever it is made again."""
    return lambda wanted: iter([dict(zip(wanted, compute(list(wanted.values())), strict=True))])


def report_found(job: Job, store: ChunkStore) -> None:
    """Say how much was found and how much was made."""
    total = store.hits + store.misses
    print(f"{job.stage.name} {job.unit}: {store.hits} of {total} items found, {store.misses} made", file=sys.stderr)


def write(job: Job, rows: Callable[[Frames], Frames]) -> None:
    """Write all shard files of the job from the store's contents."""
    for shard in job.shards:
        with job.writers(shard) as writers:
            for frames in job.parts([shard], prompts=AT_ONCE):
                job.write(writers, rows(frames))
