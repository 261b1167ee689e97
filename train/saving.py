"""Weights on the disk: in shards with an index and hashes; safetensors' own errors as the system's, and files that others may
read as the umask says."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from prefdata.models.identity import INDEX

SHARD = "5GB"
"""The most that a file of weights holds."""


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


def save_model(model: Any, folder: Path) -> None:
    """Write a model's config and weights: model.safetensors, or shards where they are more than SHARD; and the index that says
    which file holds which tensor, in either case, so that a run's outputs have the same names. Raises OSError."""
    with saving(folder):
        model.save_pretrained(folder, max_shard_size=SHARD)
    if not (folder / INDEX).exists():
        _index(folder / "model.safetensors")


def _index(path: Path) -> None:
    """The index of one file, as transformers writes it of several."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    size = max(entry["data_offsets"][1] for entry in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict.fromkeys(tensors, path.name)}
    (path.parent / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def weight_hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file of weights in a folder and those below it, by its place in the folder."""
    hashes = {}
    for path in sorted(folder.rglob("*.safetensors")):
        with path.open("rb") as file:
            hashes[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes
