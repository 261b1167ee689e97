"""Files and folders that appear whole or not at all: written beside their place, flushed, renamed, flushed again."""

import contextlib
import ctypes
import glob
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from prefdata.errors import DataError


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a new file, then fsync it, rename it to `path` and fsync the folder.

    Whatever fails, `path` holds the old version or the new one. Raises DataError naming the path on OS errors.
    """
    temporary = beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path)
        write(temporary)
        publish(temporary, path)
    except OSError as error:
        raise os_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def beside(path: Path) -> Path:
    """A new name beside `path` that no other process takes: not by its pid alone, for other machines count from 1 too."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def sweep(path: Path) -> None:
    """Remove what a killed writer of this same file left behind (the stage's lock makes us its only writer)."""
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if stale.is_dir():
            shutil.rmtree(stale, ignore_errors=True)
        else:
            stale.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder and all in it, with one file open at a time: it is called where descriptors are short."""
    with contextlib.suppress(OSError):
        for path in [*sorted(folder.rglob("*"), reverse=True), folder]:
            path.rmdir() if path.is_dir() else path.unlink()


def atomic_text(path: Path, text: str) -> None:
    """`atomic_write` of a text, utf-8."""
    atomic_write(path, lambda p: p.write_text(text, encoding="utf-8"))


def atomic_bytes(path: Path, data: bytes) -> None:
    """`atomic_write` of bytes."""
    atomic_write(path, lambda p: p.write_bytes(data))


def atomic_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a new folder, fsync its files, then put it in `folder`'s place: all files are old or all are new."""
    temporary = beside(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        temporary.mkdir()
        write(temporary)
        for path in [*temporary.rglob("*"), temporary]:
            fsync(path)
        if folder.exists():
            _exchange(temporary, folder)
        else:
            os.replace(temporary, folder)
        fsync(folder.parent)
    except OSError as error:
        raise os_error(error, folder) from error
    finally:
        for _ in range(2):  # what failed once may have been the cleaning
            shutil.rmtree(temporary, ignore_errors=True)


def _exchange(one: Path, other: Path) -> None:
    """Swap two folders in one step where the system can (renameat2), else by way of a third name."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None and renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2) == 0:  # AT_FDCWD, EXCHANGE
        return
    aside = one.with_suffix(".old.tmp")  # a name that sweep knows
    os.rename(other, aside)
    try:
        os.rename(one, other)
    except OSError:
        os.rename(aside, other)
        raise
    shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of the system while something is written, as ours, naming the path."""
    try:
        yield
    except OSError as error:
        raise os_error(error, path) from error


def publish(temporary: Path, path: Path) -> None:
    """fsync `temporary`, rename it to `path`, fsync the folder."""
    fsync(temporary)
    os.replace(temporary, path)
    fsync(path.parent)


def fsync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def os_error(error: OSError, path: Path) -> DataError:
    return DataError(
        f"cannot write: {os.strerror(error.errno) if error.errno else error}",
        str(path),
        "free space or fix the permissions and run the same command again (the previous version is intact)",
    )
