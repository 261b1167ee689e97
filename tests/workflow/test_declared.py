"""A job sees what its stage declares and nothing else: each is run in a folder that holds its declared inputs only, under a
watcher that notes what it opens, and makes the files of the whole run."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from runs import Workflow

from prefdata.models.identity import RECEIPT
from prefdata.recipe import places
from prefdata.recipe.job import Job
from prefdata.recipe.read import validate_recipe
from prefdata.recipe.results import Results
from prefdata.stages.registry import STAGES
from prefdata.tables import files
from prefdata.workflow.execute import execute

OWN = ("chunks", "locks", "logs")
"""Folders of a results folder that are no results: finished items by stage, locks, what was said."""
_watchers: list[set[str]] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _watchers and isinstance(arguments[0], str | Path):
        _watchers[-1].add(str(arguments[0]))


sys.addaudithook(_note)


@contextmanager
def watched() -> Iterator[set[str]]:
    """Every path that Python opens within."""
    opened: set[str] = set()
    _watchers.append(opened)
    try:
        yield opened
    finally:
        _watchers.remove(opened)


def results_of(recipe: dict[str, Any]) -> Results:
    """In the working folder, as a workflow has it."""
    return Results(validate_recipe(recipe, "t"), STAGES)


def take(base: Path, here: Path, results: Results, stage: str, unit: str) -> None:
    """Copy what a job declares; of a model, whose template is a file that not all have, its folder."""
    models = [Path(results.model_path(ref)) for ref, _ in STAGES[stage].models(results.settings, unit)]
    for path in map(Path, [*results.inputs(stage, unit), *results.outside(stage, unit)]):
        (here / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(base / path, here / path)
    for folder in models:
        shutil.copytree(base / folder, here / folder, dirs_exist_ok=True)


def content(path: Path) -> Any:
    """What a file says, whatever the bytes that say it: tables by their hash; a page without its numbers, for the ids of its
    drawings are new each time (its figures are quality.json's, which is compared whole)."""
    if path.suffix == ".parquet":
        return files.manifest(path)["content_hash"]
    if path.suffix == ".html":
        return re.sub(r"\d+", "", path.read_text())
    return path.read_bytes()


@pytest.mark.parametrize("stage", STAGES)
def test_a_job_reads_and_writes_what_its_stage_declares(
    base: Workflow, tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = results_of(base.recipe)
    monkeypatch.chdir(tmp_path)
    for unit in results.units(stage):
        take(base.folder, tmp_path, results, stage, unit)
        before = {p for p in Path().rglob("*") if p.is_file()}
        with watched() as opened:
            execute(Job(results, stage, unit))
        wanted = set(map(Path, results.outputs(stage, unit)))
        for path in wanted:
            assert content(path) == content(base.folder / path), path
        row = STAGES[stage]
        own = [results.root / f for f in (*OWN, *row.folders(results.settings))]
        models = [Path(results.model_path(ref)) for ref, _ in row.models(results.settings, unit)]
        made = {p for p in Path().rglob("*") if p.is_file()} - before
        assert {p for p in made - wanted if not any(p.is_relative_to(o) for o in own)} == set()
        seen = {Path(p).relative_to(tmp_path) if Path(p).is_relative_to(tmp_path) else Path(p) for p in opened}
        inside = {p for p in seen if p.is_relative_to("results") and not p.is_dir() and p.suffix != ".tmp"}
        # a job also looks whether its inputs' models are what they were: their receipts
        inside = {p for p in inside if p.name != RECEIPT}
        declared = wanted | set(map(Path, [*results.inputs(stage, unit), *results.outside(stage, unit)]))
        assert {p for p in inside - declared if not any(p.is_relative_to(o) for o in (*own, *models))} == set()


def test_what_is_not_declared_cannot_be_named(base: Workflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(base.folder)
    results = results_of(base.recipe)
    job = Job(results, "card")
    assert json.loads(job.input(places.REPORT).read_text())["stages"]
    for name in (places.SUMMARY, places.CARD, "settings.json", "../x"):
        with pytest.raises(KeyError, match="card does not declare"):
            job.input(name)
    with pytest.raises(KeyError, match="does not declare"):
        job.output(places.REPORT)
    with pytest.raises(KeyError, match="does not declare the model"):
        job.model_path("run:sft/policy")
    with pytest.raises(KeyError, match="does not declare"):
        job.table(STAGES["sets"].reads(results.settings, "sft")[0])


def test_every_file_has_one_job_that_writes_it(base: Workflow) -> None:
    """And whatever a job reads of the results folder is written by another, or is a model of a training run."""
    results = results_of(base.recipe)
    jobs = [(s, u, g) for s in STAGES for u, g in results.jobs(s)]
    written = [f for job in jobs for f in results.outputs(*job)]
    assert len(written) == len(set(written))
    for job in jobs:
        for path in [*results.inputs(*job), *results.outside(*job[:2])]:
            assert path in written or Path(path).is_relative_to(results.root / "models"), (job, path)
