"""The Nth write, fsync or rename fails, or is the last thing that happens: the old version or the new one, never a third."""

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefdata.errors import DataError
from prefdata.tables import atomic, files

from .cases import require_error
from .place import Place, owned
from .zygote import OPERATIONS, Zygote, ranks, text

OLD, NEW = 1, 2
TABLES = ("write_table", "table_writer")
RENAMES = ("replace", "exchange")
"""What puts a new version in the old one's place: a file is renamed, a folder exchanged."""
CALLS = [(o, c) for o in OPERATIONS for c in ("fsync", "open", "exchange" if o == "atomic_folder" else "replace")]


@pytest.fixture
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """An older version of what the operation writes."""
    path = tmp_path / "x.out"
    OPERATIONS[request.getfixturevalue("operation")](str(path), OLD)
    return path


def version(operation: str, path: Path) -> int:
    """Which version, whole, the path holds."""
    if operation in TABLES:
        found: int = files.read_table(path, "ranks")["rank"].unique().item()
        assert files.read_table(path, "ranks").equals(ranks(found))
        return found
    if operation == "atomic_folder":
        assert sorted(p.name for p in path.iterdir()) == ["a", "b", "c"]
        versions = {known_text((path / name).read_text()) for name in ("a", "b", "c")}
        assert len(versions) == 1, "files of two versions in one folder"
        return versions.pop()
    return known_text(path.read_text())


def known_text(found: str) -> int:
    return {text(OLD): OLD, text(NEW): NEW}[found]


def is_whole(operation: str, path: Path) -> bool:
    """Whether the path holds the old version or the new one."""
    try:
        return version(operation, path) in (OLD, NEW)
    except (AssertionError, DataError, KeyError):
        return False


def error_of(operation: str, path: Path) -> str | None:
    """The error with which the new version was not written, None where it was."""
    try:
        OPERATIONS[operation](str(path), NEW)
    except DataError as error:
        return str(error)
    return None


def completes(operation: str, path: Path) -> None:
    """A second call succeeds and leaves nothing but the new version."""
    OPERATIONS[operation](str(path), NEW)
    assert version(operation, path) == NEW
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def place_of(call: str) -> tuple[Any, str]:
    """Where a call is looked up."""
    return (atomic, "_exchange") if call == "exchange" else (os, call)


def failing(call: str, nth: int, number: int) -> Callable[..., Any]:
    real, count = getattr(*place_of(call)), 0

    def fails(*arguments: Any, **keys: Any) -> Any:
        nonlocal count
        count += 1
        if count == nth:
            raise OSError(number, os.strerror(number))
        return real(*arguments, **keys)

    return fails


def calls_of(operation: str, call: str, path: Path) -> int:
    """How often the operation makes a call."""
    count, real = 0, getattr(*place_of(call))

    def counted(*arguments: Any, **keys: Any) -> Any:
        nonlocal count
        count += 1
        return real(*arguments, **keys)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*place_of(call), counted)
        OPERATIONS[operation](str(path), OLD)
    assert count
    return count


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
@pytest.mark.parametrize(("operation", "call"), CALLS)
def test_the_nth_call_fails(path: Path, operation: str, call: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """For every N: an error that names the path, a whole version, no temporary file, and a second call that succeeds."""
    mixed = []
    for nth in range(1, calls_of(operation, call, path) + 1):
        OPERATIONS[operation](str(path), OLD)
        with monkeypatch.context() as patch:
            patch.setattr(*place_of(call), failing(call, nth, number))
            said = error_of(operation, path)
        if said is None:  # the call was one of the cleaning up
            assert version(operation, path) == NEW
        else:
            assert re.search(rf"x\.out: cannot write: {os.strerror(number)}; .*run the same command again", said)
            assert call not in RENAMES or version(operation, path) == OLD
        mixed += [nth] * (not is_whole(operation, path))
        assert [p.name for p in path.parent.iterdir()] == [path.name]
        completes(operation, path)
    assert not mixed, f"a third version after the {mixed}th {call}"


@pytest.mark.parametrize(("operation", "call"), [(o, c) for o, c in CALLS if c != "open"])
def test_killed_before_the_nth_call(path: Path, operation: str, call: str, zygote: Zygote) -> None:
    mixed = []
    for nth in range(1, calls_of(operation, call, path) + 1):
        OPERATIONS[operation](str(path), OLD)
        said = zygote.run(path.parent, str(path), NEW, operation=operation, kill=(call, nth))
        assert said["signal"] == 9, said
        mixed += [nth] * (not is_whole(operation, path))
        completes(operation, path)
    assert not mixed, f"a third version after a kill before the {mixed}th {call}"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
def test_the_nth_rename_fails_where_folders_cannot_be_exchanged(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system without renameat2: by way of a third name, of which nothing stays either."""
    monkeypatch.setattr(atomic.ctypes, "CDLL", lambda *arguments, **keys: object())
    path, operation = tmp_path / "x.out", "atomic_folder"
    OPERATIONS[operation](str(path), OLD)
    for nth in range(1, calls_of(operation, "rename", path) + 1):
        OPERATIONS[operation](str(path), OLD)
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", failing("rename", nth, number))
            said = error_of(operation, path)
        assert said is None or re.search(rf"x\.out: cannot write: {os.strerror(number)}; ", said)
        assert is_whole(operation, path), f"after the {nth}th rename"
        completes(operation, path)


def test_a_first_folder_that_cannot_be_renamed_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.out"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing("replace", 1, errno.EIO))
        assert "x.out: cannot write: " in str(error_of("atomic_folder", path))
    assert not list(tmp_path.iterdir())
    completes("atomic_folder", path)


@pytest.mark.parametrize("die", [False, True], ids=["refused", "killed"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_nth_write_is_refused_or_kills(path: Path, operation: str, die: bool, zygote: Zygote) -> None:
    """The system refuses every write past so many bytes, or kills the process there; sizes through the whole file."""
    files_of = [path] if path.is_file() else list(path.iterdir())
    whole = max(p.stat().st_size for p in files_of)
    for size in sorted({0, whole // 2, whole - 9, whole - 1}):
        OPERATIONS[operation](str(path), OLD)
        said = zygote.run(path.parent, str(path), NEW, operation=operation, die=die, limits={"RLIMIT_FSIZE": size})
        if die:
            assert said["signal"] == 25, said
        else:
            assert said["code"] == 1, said
            assert "DataError" in said["err"]
            assert "x.out: cannot write: File too large; " in said["err"]
            assert [p.name for p in path.parent.iterdir()] == [path.name]
        assert version(operation, path) == OLD
        completes(operation, path)


@pytest.mark.parametrize("stage", ["sources", "noise"])
def test_the_tables_of_a_stage_stay_of_one_version(
    before_stage: Callable[[str], Place], changed: Place, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the Nth file of a stage cannot be flushed, all its tables are the old ones or all are the new ones."""
    place = before_stage(stage)
    old, new = (tables_of(p, stage) for p in (place, changed))
    mixed, left = [], []
    for nth in range(1, 2 * len(new) + 1, 2):
        for name, data in old.items():
            (place.root / name).write_bytes(data)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing("fsync", nth, errno.ENOSPC))
            require_error(place.run(stage), "cannot write: No space left")
        found = tables_of(place, stage)
        mixed += [nth] * (any(found[k] != old[k] for k in old) and any(found[k] != new[k] for k in new))
        left += place.leftovers()
    assert not mixed, f"tables of two versions after the {mixed}th fsync"
    assert not left


def tables_of(place: Place, stage: str) -> dict[str, bytes]:
    return {k: v for k, v in owned(place.snapshot(), stage).items() if k.startswith("tables/")}
