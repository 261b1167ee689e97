"""The benchmark of the data path runs whole on a few rows, whatever texts are at hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.real


def test_every_stage_is_measured_and_memory_is_flat() -> None:
    command = [sys.executable, "benchmarks/scale.py", "--prompts", "40", "--shards", "2", "--parts", "stages"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert {"stage_s_sources", "stage_s_sets_preference", "stage_s_publish", "scan_s", "rss_mb"} <= set(lines)
    assert lines["rss_mb"]["holds"]
    assert [name for name, line in lines.items() if line["target"]] == ["rss_mb"], "targets of time are those of Nectar's size"
