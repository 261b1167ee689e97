"""The GPUs that this process may use, without loading a library that takes them."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from prefdata.progress import BATCH_SYSTEMS

VISIBLE = "CUDA_VISIBLE_DEVICES"
DRIVER = Path("/proc/driver/nvidia/gpus")
NOTHING = ("", "-1", "NoDevFiles")
"""What stands in CUDA_VISIBLE_DEVICES for no device; CUDA reads it up to there."""


def visible() -> list[str]:
    """Names as CUDA_VISIBLE_DEVICES has them (numbers, UUIDs, MIG ids), in its order where it is set; else the numbers of all
    that the driver or nvidia-smi knows. Empty without either."""
    given = os.environ.get(VISIBLE)
    if given is None:
        return [str(number) for number in range(_installed())]
    names = (name.strip() for name in given.split(","))
    return list(dict.fromkeys(takewhile(lambda name: name not in NOTHING, names)))


def count() -> int:
    """How many devices are visible."""
    return len(visible())


def identities(names: Sequence[str]) -> list[str]:
    """What tells each device from all others of the machine: its UUID where nvidia-smi tells, else the name.

    A number means another device in each job of a batch system that shows a job its own devices only: where there is no UUID
    it is told apart by the job.
    """
    known = _uuids()
    return [_identity(name, known) for name in names]


def _identity(name: str, known: dict[str, str]) -> str:
    if name in known:
        return known[name]
    if name.isdigit():
        return "-".join([*(os.environ[v] for v in BATCH_SYSTEMS if v in os.environ), name])
    whole = [uuid for uuid in known.values() if uuid.startswith(name)]  # CUDA takes the beginning of a UUID too
    return whole[0] if len(whole) == 1 else name


def _installed() -> int:
    if DRIVER.is_dir():
        return len(list(DRIVER.iterdir()))
    try:
        return len([line for line in _asked("--list-gpus") if line.startswith("GPU ")])
    except subprocess.TimeoutExpired:  # a driver in trouble: there is a device, and who runs on it will be told
        return 1


def _uuids() -> dict[str, str]:
    """The devices' UUIDs by their numbers."""
    try:
        rows = [line.split(", ") for line in _asked("--query-gpu=index,uuid", "--format=csv,noheader")]
    except subprocess.TimeoutExpired:
        return {}
    return {row[0]: row[1] for row in rows if len(row) == 2}


def _asked(*words: str) -> list[str]:
    """What nvidia-smi says, by lines; nothing where there is none."""
    if shutil.which("nvidia-smi") is None:
        return []
    done = subprocess.run(["nvidia-smi", *words], capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.splitlines() if done.returncode == 0 else []
