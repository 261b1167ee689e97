"""What identifies a model: the pinned commit of a Hub id, or the hash of a folder's content."""

import hashlib
import json
from pathlib import Path

from prefdata.errors import ConfigError
from prefdata.tables import atomic
from prefdata.tables.file_hashes import stamps

INDEX = "model.safetensors.index.json"
"""Which file of weights holds which tensor: transformers' name."""
WEIGHTS = ".safetensors"
RECEIPT = "train.json"
"""What a training run leaves beside its model: what identifies all of it."""
Model = tuple[str, str | None]
"""A reference to a model and its revision."""


def made_here(ref: str) -> bool:
    """Whether a model is made in the run itself."""
    return ref.startswith(("run:", "toy:"))


def is_local(ref: str) -> bool:
    """Whether a model's content can be looked at: made in this run, or a folder."""
    return made_here(ref) or Path(ref).expanduser().is_dir()


def public_name(ref: str) -> str:
    """A reference as strangers may read it: of a folder its last name, for where it lies is nobody's business."""
    folder = Path(ref).expanduser()
    return folder.name if not made_here(ref) and (is_path(ref) or folder.is_dir()) else ref


def is_path(ref: str) -> bool:
    """Whether a reference is no Hub id, which is owner/name."""
    return ref.startswith(("/", "./", "../", "~")) or ref.count("/") > 1


def content_files(folder: Path) -> list[Path]:
    """What makes a local model what it is: weights (sharded or not), config, tokenizer, templates."""
    kinds = (WEIGHTS, ".json", ".jinja", ".model", ".txt")
    return sorted(p for p in folder.iterdir() if p.suffix in kinds and p.name != RECEIPT and not p.name.startswith("."))


def content_revision(folder: Path) -> str:
    """Hash over weights, config and tokenizer of a model folder."""
    digest = hashlib.blake2b(digest_size=8)
    for path in content_files(folder):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def revision_of(path: str, revision: str | None, known: Path | None = None) -> str:
    """What identifies a model's results: the pinned revision of a Hub id, or the content hash of a local folder.

    `known` is a file that keeps the hash for as long as no file's size, times or inode change: a large model is read once.
    """
    folder = Path(path)
    require_place(path)
    if not folder.is_dir():
        if revision is None:
            raise ConfigError("a model on the Hub needs its revision", path, "pin the commit hash under revision:")
        return revision
    receipt = folder / RECEIPT
    if receipt.exists():
        return str(json.loads(receipt.read_text(encoding="utf-8"))["revision"])
    return content_revision(folder) if known is None else _kept_revision(folder, known)


def _kept_revision(folder: Path, known: Path) -> str:
    found = [[p.name, *stamps(p)] for p in content_files(folder)]
    if known.exists():
        kept = json.loads(known.read_text(encoding="utf-8"))
        if kept["stamps"] == found:
            return str(kept["revision"])
    revision = content_revision(folder)
    atomic.atomic_text(known, json.dumps({"stamps": found, "revision": revision}))
    return revision


def require_place(path: str) -> None:
    """Raise ConfigError where a model is a local path and nothing lies there (a Hub id is owner/name)."""
    folder = Path(path)
    if folder.is_dir() and (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise ConfigError(
            "a LoRA adapter, not a model", path, "merge it into its base model (peft: merge_and_unload) and give that folder"
        )
    if is_path(path) and not folder.is_dir():
        raise ConfigError("no such model folder", path, "correct the path, or give a Hub id with its revision")
