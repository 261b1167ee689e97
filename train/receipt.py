"""The receipt of a trained model's folder: it names every file that a run wrote there."""

import json
from pathlib import Path

from prefdata.errors import ConfigError
from prefdata.models.identity import RECEIPT


def ours(folder: Path) -> bool:
    """Whether a folder holds what a run wrote there and nothing else: what may be replaced by a new one."""
    try:
        receipt = json.loads((folder / RECEIPT).read_text(encoding="utf-8"))
        return {p.name for p in folder.iterdir()} <= set(receipt["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def request_of(folder: Path) -> str | None:
    """What the finished run in a folder was asked for, where all of its files are there; see train.from_file.request."""
    try:
        receipt = json.loads((folder / RECEIPT).read_text(encoding="utf-8"))
        whole = all((folder / name).exists() for name in receipt["files"])
        return receipt.get("request") if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def require_own(output: Path) -> None:
    """An output folder is replaced by a new one. Raises ConfigError where it holds anything else than a model of ours."""
    if output.exists() and not output.is_dir():
        raise ConfigError("a file, not a folder", str(output), "name another output")
    if output.is_dir() and any(output.iterdir()) and not ours(output):
        raise ConfigError("the folder holds something else than a model made here", str(output), "name another output")
