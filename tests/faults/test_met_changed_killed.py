"""FAULTS C, runs that meet others, that find something changed or that were killed: the same command says or completes."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from prefdata.recipe.read import read_recipe
from prefdata.recipe.results import Results
from prefdata.stages.registry import STAGES
from prefdata.tables import files, table_writer
from prefdata.tables.locks import lock, take_lock
from prefdata.workflow import execute, snakefile

from . import tiny
from .cases import Case, Error, as_parameters, require_error
from .place import Place, chain
from .zygote import Zygote

# ---- runs that meet ----


def lasting(place: Place) -> dict[str, bytes]:
    """Tables and what is published, byte by byte; pictures of the report are made anew."""
    return {k: v for k, v in place.snapshot().items() if not k.startswith("report/")}


def test_a_second_stage_on_the_same_shard_stops_and_names_the_holder(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no patience: a stage waits half a minute for a dying holder."""
    monkeypatch.setattr(execute, "lock", partial(lock, wait_s=0))
    held = take_lock(place.root / "locks" / "split" / "all" / "0", 0)
    before = place.snapshot()
    try:
        require_error(place.run("split"), rf"locks/split/all/0: in use by process {os.getpid()}; wait for it or stop it")
    finally:
        os.close(held)
    assert place.snapshot() == before
    assert place.run("split").code == 0


def test_a_second_run_of_the_workflow_stops_and_names_the_holder(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.folder)
    run = Results(read_recipe(Path("recipe.yaml")), STAGES)
    held = take_lock(run.root / ".run", 0)
    try:
        with pytest.raises(
            SystemExit, match=rf"another run is using this results folder: .*\.run: in use by process {os.getpid()}; "
        ):
            snakefile.begin(run)
    finally:
        os.close(held)


def test_stale_locks_and_leftovers_of_the_dead_stop_nobody(place: Place, good: Place) -> None:
    """Lock files with the number of a process that is gone, half files, a spool, a build: the same command goes on."""
    for path in [*(place.root / "locks").rglob("*"), *place.root.glob("chunks/*/*.lock")]:
        if path.is_file():
            path.write_text("4194304")
    (place.root / ".run").write_text("4194304")
    for path in [*(place.root / "tables").rglob("*.parquet"), place.root / "report" / "report.json"]:
        path.with_name(f".{path.name}.4194304.tmp").write_bytes(b"half")
    (place.root / "tables" / ".spool").mkdir()
    (place.root / "tables" / ".spool" / "0").write_text('{"half": ')
    (place.root / "publish" / ".built" / "data").mkdir(parents=True)
    said = place.run(*chain())
    assert said.code == 0, said.err
    assert lasting(place) == lasting(good)
    assert not place.leftovers()


# ---- what changed on resume ----


def changed_settings(place: Place, name: str) -> None:
    place.recipe["prune"] = {"drop_ranks": [3]}


def changed_package(place: Place, name: str) -> None:
    """A table that an earlier version of the stage made."""
    for path in place.paths("splits", "split"):
        frame, manifest = files.read_table(path, "splits"), files.manifest(path)
        manifest["slice"]["version"] = 0
        table_writer.write_table(path, "splits", frame, manifest)


def changed_model(place: Place, name: str) -> None:
    """The model's folder holds other weights than the log-probs were made with."""
    model = place.folder / "model"
    shutil.copytree(place.reference["model"], model)
    place.reference["model"] = "model"
    place.write()
    assert place.run(*chain("noise", "score")).code == 0
    tiny.save(model, initializer_range=0.2)


def changed_seed(place: Place, name: str) -> None:
    place.recipe["seed"] = 2


CHANGED = [
    Case("a setting changed on resume", changed_settings, Error(r"drop_ranks.*\[\].*\[3\]", "rank"), "rank"),
    Case("the seed changed on resume", changed_seed, Error("seed.*1.*2", "rank"), "rank"),
    Case("the package changed on resume", changed_package, Error("version.*0.*[1-9]", "rank"), "rank"),
    Case("the model changed on resume", changed_model, Error("model.*[0-9a-f]{16}.*[0-9a-f]{16}", "sets"), "sets"),
]


@pytest.mark.parametrize("case", as_parameters(CHANGED))
def test_what_changed_on_resume_is_named_with_old_and_new(case: Case, place: Place) -> None:
    case.run(place)


# ---- killed for memory ----

KILLS: dict[str, list[tuple[str, int]]] = {
    "sources": [("replace", 1), ("replace", 3), ("fsync", 2)],
    "rank": [("replace", 1), ("fsync", 1)],
    "sets": [("fsync", 3)],
    "publish": [("replace", 1), ("replace", 4), ("fsync", 9)],
}
"""What a process dies before, time after time, by stage."""


@pytest.mark.parametrize("stage", KILLS)
def test_killed_again_and_again_the_same_command_completes(
    before_stage: Callable[[str], Place], changed: Place, zygote: Zygote, stage: str
) -> None:
    """SIGKILL, as the system sends it when memory is short: before the Nth rename or fsync, and in the midst of a write."""
    place = before_stage(stage)
    for call in KILLS[stage]:
        said = zygote.run(place.folder, stage, kill=call)
        assert said["signal"] == 9, (call, said)
    for size in (300, 700):
        said = zygote.run(place.folder, stage, limits={"RLIMIT_FSIZE": size}, die=True)
        assert said["signal"] == 25, (size, said)
    assert place.run(stage).code == 0
    assert lasting(place) == lasting(changed)
    assert not place.leftovers()


def test_killed_between_chunks_only_the_rest_is_scored_again(place: Place, good: Place) -> None:
    """Three chunks of four prompts; the process dies when the store's log grows past the second."""
    shutil.rmtree(place.root / "chunks")
    with Zygote(preload=("torch", "transformers", "prefdata.stages.score", "prefdata.models.forward.logprob")) as zygote:
        said = zygote.run(place.folder, "score", kill=("commit", 3))
    assert said["signal"] == 9, said
    again = place.run("score")
    assert again.code == 0
    assert "32 of 48 items found, 16 made" in again.err
    assert lasting(place) == lasting(good)
