"""Jobs in this process: one, or every stage that is not up to date. Snakemake does the same with processes and workers."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from prefdata.recipe.job import Job
from prefdata.recipe.results import Results
from prefdata.stages.registry import STAGES
from prefdata.tables import atomic
from prefdata.tables.locks import lock


def execute(job: Job) -> None:
    """Run the stage's code. Raises DataError where an input was made by other settings."""
    job.require_current()
    job.stage.run(job)


def foretell(job: Job) -> None:
    """Say what the stage would change. Raises DataError where an input was made by other settings."""
    assert job.stage.foretell is not None
    job.require_current()
    job.stage.foretell(job)


@contextmanager
def locked(job: Job) -> Iterator[None]:
    """Hold the locks of the job's shards."""
    with ExitStack() as held:
        for path in job.locks():
            held.enter_context(lock(path))
        yield


def bring_up(results: Results, stages: Sequence[str], sources: Sequence[Path] = ()) -> None:
    """Run every unit of these stages, in this order, whose tables are not there or were made by other settings or from other
    inputs. `sources`: the files that stages without tables to read are made from; another one, or another content
    of one, is another input."""
    results = replace(results, stages=STAGES)
    found, kept = [list(map(str, sources)), results.hashes.of(list(sources))], results.path("sources.json")
    changed = not kept.exists() or json.loads(kept.read_text(encoding="utf-8")) != found
    for name in stages:
        for unit in results.units(name):
            job = Job(results, name, unit)
            with locked(job):
                if not job.fresh() or (changed and not job.reads):
                    execute(job)
    atomic.atomic_text(kept, json.dumps(found))
