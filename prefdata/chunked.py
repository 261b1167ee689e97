"""The frame of every engine stage: fill the chunk store in the global order of prompts, then write the shards from it.

Finished items are never computed again; a model is started only when an item is missing.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from prefdata.chunks import ChunkStore, Value
from prefdata.progress import Progress
from prefdata.run import Frames, Job

Item = TypeVar("Item")


def fill(
    job: Job,
    store: ChunkStore,
    chunk_prompts: int,
    items: Callable[[Frames], Mapping[str, Item]],
    compute: Callable[[Sequence[Item]], Sequence[Value]],
) -> None:
    """Compute and commit every missing item, `chunk_prompts` prompts at a time; batches never cross a chunk."""
    with Progress(f"{job.stage.name} {job.unit}", None) as progress:
        for frames in job.parts(prompts=chunk_prompts):
            wanted = items(frames)
            missing = store.missing(list(wanted))
            if missing:
                store.put(dict(zip(missing, compute([wanted[k] for k in missing]), strict=True)))
            progress.advance(len(wanted))
    told(job, store)


def told(job: Job, store: ChunkStore) -> None:
    """Say how much was found and how much was made."""
    total = store.hits + store.misses
    print(f"{job.stage.name} {job.unit}: {store.hits} of {total} items found, {store.misses} made", file=sys.stderr)


def write(job: Job, rows: Callable[[Frames], Frames]) -> None:
    """Write all shard files of the job from the store's contents."""
    for shard in job.shards:
        with job.writers(shard) as writers:
            for frames in job.parts([shard]):
                job.write(writers, rows(frames))
