"""Exclusive locks on files, between processes; of several machines where the file system passes flock on (docs/scale.md)."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefdata.errors import DataError
from prefdata.tables import atomic


@contextmanager
def lock(path: Path, wait_s: float = 30.0) -> Iterator[None]:
    """Hold an exclusive lock on `path` (a file); wait for a dying holder, then stop, naming it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = take_lock(path, wait_s)
    try:
        yield
    finally:
        os.close(descriptor)


def take_lock(path: Path, wait_s: float) -> int:
    """Open and flock `path`, write our pid and machine into it; returns the descriptor (not inherited by children)."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 100, 0).decode(errors="replace").strip()
                os.close(descriptor)
                holder = holder.removesuffix(f" on {socket.gethostname()}")
                raise DataError(f"in use by process {holder}", str(path), "wait for it or stop it") from None
            time.sleep(0.1)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} on {socket.gethostname()}".encode(), 0)
    except OSError as error:
        os.close(descriptor)
        raise atomic.os_error(error, path) from error
    return descriptor
