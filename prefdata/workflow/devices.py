"""How many GPUs this machine lets us use, without loading a library that takes them."""

import os
import shutil
import subprocess
from pathlib import Path

DRIVER = Path("/proc/driver/nvidia/gpus")


def count() -> int:
    """Those named by CUDA_VISIBLE_DEVICES where it is set, else all that the driver or nvidia-smi knows; 0 without either."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    if DRIVER.is_dir():
        return len(list(DRIVER.iterdir()))
    if shutil.which("nvidia-smi") is None:
        return 0
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False, timeout=60)
    except subprocess.TimeoutExpired:  # a driver in trouble: there is a device, and who runs on it will be told
        return 1
    return len([line for line in listed.stdout.splitlines() if line.startswith("GPU ")])
