"""FAULTS C, a full disk, permissions, too few file descriptors: an error with a path, and the old files stay."""

import re
import resource
import shutil
from collections.abc import Callable

import pytest

from .cases import require_error
from .limits import as_anybody, few_descriptors, limited, mode
from .place import Place, Said, chain, owned
from .zygote import Zygote

# ---- disk full ----

FULL_DISK = r"error: \S*(results|rows)\S*: .*(File too large|full|disk I/O).*; .*\n"


@pytest.mark.parametrize("stage", chain())
def test_a_full_disk_is_an_error_with_a_path_and_keeps_the_old_files(before_stage: Callable[[str], Place], stage: str) -> None:
    """The system lets no file grow past a limit: the command stops, and without the limit it ends as ever."""
    place = before_stage(stage)
    before, problems = place.snapshot(), []
    for limit in (20, 1000, 3000):
        with limited(resource.RLIMIT_FSIZE, limit):
            said = place.run(stage)
        if said.code == 0:  # it had nothing to write that is longer
            break
        problems += [] if re.fullmatch(FULL_DISK, said.err) else [said.err]
        problems += [f"changed at {limit}"] * (owned(place.snapshot(), stage) != owned(before, stage))
        problems += place.leftovers()
    assert place.run(stage).code == 0, "the same command again"
    assert not problems


def test_a_full_disk_in_a_process_of_its_own(place: Place, zygote: Zygote) -> None:
    """The limit from the start of the process: also a lock file may not be written."""
    for limit in (0, 100):
        said = zygote.run(place.folder, "sources", limits={"RLIMIT_FSIZE": limit})
        require_error(Said("sources", said["code"], "", said["err"]), r"error: \S*results\S*: .*File too large")


# ---- permissions ----

READ_ONLY = {
    "a read-only table folder": ("split", "results/t/tables/splits/split/all"),
    "a read-only folder of tables": ("sources", "results/t/tables"),
    "a read-only lock folder": ("split", "results/t/locks/split/all"),
    "a read-only report folder": ("report", "results/t/report"),
    "a read-only publish folder": ("publish", "results/t/publish"),
    "a read-only data set": ("publish", "results/t/publish/t"),
    "a read-only folder of chunks": ("score", "results/t/chunks/score"),
}


@pytest.mark.parametrize("what", READ_ONLY)
def test_a_read_only_folder_is_an_error_that_names_it(before_stage: Callable[[str], Place], what: str) -> None:
    stage, folder = READ_ONLY[what]
    place = before_stage(stage)
    for lock_file in (place.root / "locks" / "split" / "all").iterdir():
        lock_file.unlink()
    before = place.snapshot()
    with mode(place.folder / folder, 0o555), as_anybody():
        said = place.run(stage)
    require_error(said, rf"error: \S*{folder}\S*: .*([Pp]ermission denied|readonly|unable to open)")
    assert owned(place.snapshot(), stage) == owned(before, stage)


UNREADABLE = {
    "an unreadable source": ("sources", "rows.jsonl"),
    "an unreadable recipe": ("sources", "recipe.yaml"),
    "an unreadable table": ("split", "results/t/tables/prompts/sources/all/00000-of-00001.parquet"),
    "an unreadable report": ("card", "results/t/report/report.json"),
    "an unreadable card": ("publish", "results/t/publish/t/README.md"),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_an_unreadable_file_is_an_error_that_names_it(place: Place, what: str) -> None:
    stage, path = UNREADABLE[what]
    before = place.snapshot()
    with mode(place.folder / path, 0), as_anybody():
        said = place.run(stage)
    require_error(said, rf"error: \S*{path}: .*[Pp]ermission denied")
    assert "delete it" not in said.err, "the file is good: only its permissions are not"
    assert owned(place.snapshot(), stage) == owned(before, stage)


@pytest.mark.parametrize("stage", ["sources", "split", "score", "report", "publish"])
def test_a_file_where_the_results_belong_is_an_error(place: Place, stage: str) -> None:
    """ENOTDIR, which root meets too."""
    shutil.rmtree(place.root)
    place.root.write_text("a file", encoding="utf-8")
    require_error(place.run(stage), r"error: \S*results/t\S*: ")


# ---- file descriptors ----


@pytest.mark.parametrize("stage", ["sources", "rank", "sets", "publish"])
def test_too_few_file_descriptors_are_an_error_with_a_path(before_stage: Callable[[str], Place], stage: str) -> None:
    """EMFILE, a few descriptors later each time; then the same command without the limit."""
    place = before_stage(stage)
    before, failed = place.snapshot(), 0
    for more in (0, 1, 2, 4, 8):
        with few_descriptors(more):
            said = place.run(stage)
        if said.code == 0:
            break
        failed += 1
        require_error(said, r"error: (?!system)\S+: .*(Too many open files|unable to open)")
        assert "delete it" not in said.err, "the file is good"
        assert owned(place.snapshot(), stage) == owned(before, stage)
    assert failed
    assert place.run(stage).code == 0


def test_a_process_with_few_file_descriptors_says_so(place: Place, zygote: Zygote) -> None:
    said = zygote.run(place.folder, "sources", limits={"RLIMIT_NOFILE": 14})
    require_error(Said("sources", said["code"], "", said["err"]), r"error: (?!system)\S+: (cannot write: )?Too many open files")
