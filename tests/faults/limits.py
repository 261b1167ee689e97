"""What the system refuses: files that grow too long, too many open files, permissions."""

import ctypes
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def few_descriptors(more: int) -> Iterator[None]:
    """So many files, and not one more, can be opened."""
    filling = [os.open(os.devnull, os.O_RDONLY)]
    while filling[-1] < max(int(n) for n in os.listdir("/proc/self/fd")) - 1:
        filling.append(os.open(os.devnull, os.O_RDONLY))
    try:
        with limited(resource.RLIMIT_NOFILE, max(int(n) for n in os.listdir("/proc/self/fd")) + more):
            yield
    finally:
        for descriptor in filling:
            os.close(descriptor)


@contextmanager
def limited(kind: int, soft: int) -> Iterator[None]:
    """A resource limit of this process for a while; the hard limit stays, so that it can be lifted again."""
    old = resource.getrlimit(kind)
    resource.setrlimit(kind, (soft, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, old)


@contextmanager
def as_anybody() -> Iterator[None]:
    """Permissions count for root too: without the capabilities that go past them."""
    if os.geteuid() != 0:
        yield
        return
    header, old = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capget(header, old):
        pytest.skip("root ignores permissions, and its capabilities cannot be read here")
    new = (ctypes.c_uint32 * 6)(*old)
    new[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH of the effective set
    if libc.capset(header, new):
        pytest.skip("root ignores permissions, and its capabilities cannot be laid down here")
    try:
        yield
    finally:
        assert libc.capset(header, old) == 0


@contextmanager
def mode(path: Path, bits: int) -> Iterator[None]:
    old = stat.S_IMODE(path.stat().st_mode)
    path.chmod(bits)
    try:
        yield
    finally:
        path.chmod(old)
