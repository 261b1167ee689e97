"""Weights on the disk: safetensors' own errors as the system's, and files that others may read as the umask says."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


@contextmanager
def saving(folder: Path) -> Iterator[None]:
    """While safetensors writes into a folder: a full disk is an OSError, and files are not their owner's alone."""
    try:
        yield
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        raise OSError(int(found[1]) if found else 0, str(error)) from error
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o666 & ~umask)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors into one file. Raises OSError."""
    with saving(path.parent):
        save_file(dict(tensors), path)
