"""Jobs in this process: one, or every stage that is not up to date. Snakemake does the same with processes and workers."""

import importlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from prefdata.recipe.job import Job
from prefdata.recipe.results import Run
from prefdata.recipe.units import Part
from prefdata.tables import atomic, files
from prefdata.tables.locks import lock
from prefdata.tables.views import Frames


def execute(job: Job) -> None:
    """Call the stage's function: a pure one for each part of each shard, the others with the job itself."""
    job.require_current()
    module, _, function = job.stage.function.partition(":")
    call: Any = getattr(importlib.import_module(module), function)
    if job.stage.per != "shard":
        call(job)
        return
    for shard in job.shards:
        with job.writers(shard) as writers:
            for frames in job.parts([shard]):
                made: Frames = call(frames, job)
                job.write(writers, made)


@contextmanager
def locked(job: Job) -> Iterator[None]:
    """Hold the locks of the job's shards, always in order, so that two jobs never wait for each other."""
    with ExitStack() as held:
        for shard in job.shards:
            held.enter_context(lock(job.run.root / "locks" / job.stage.name / job.unit / str(shard)))
        yield


def bring_up(run: Run, stages: Sequence[str], sources: Sequence[Path] = ()) -> None:
    """Run every unit of these stages, in this order, whose files are not there or were made by other settings or from other
    inputs. `sources`: the files that stages without tables to read are made from; another one, or another size or time of
    one, is another input."""
    stamps, kept = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in sources if p.exists()], run.root / "sources.json"
    changed = not kept.exists() or json.loads(kept.read_text(encoding="utf-8")) != stamps
    for name in stages:
        for unit in run.units(name):
            job = Job(run, name, unit)
            with locked(job):
                if not fresh(job) or (changed and not job.reads):
                    execute(job)
    atomic.atomic_text(kept, json.dumps(stamps))


def fresh(job: Job) -> bool:
    """Whether every file of the job is there, as these settings make it from its inputs as they are."""
    for shard in job.shards:
        wanted = job.manifest(shard)
        for table in job.stage.writes:
            path = job.run.table(Part(table, job.stage.name, job.unit), shard)
            if not path.exists():
                return False
            made = files.manifest(path)
            if any(made.get(key) != wanted[key] for key in ("slice", "models", "inputs")):
                return False
    return True
