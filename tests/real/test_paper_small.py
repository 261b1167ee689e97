"""`make paper-small` as people call it: both worlds, from nothing to the report; the same call again runs nothing twice."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[2]
WORDS = ("holds", "does not hold", "undecided", "undecided (one seed)")


def paper(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "paper", "small"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=4800,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stderr


def test_the_small_size_ends_in_its_report_and_goes_on_where_it_was(tmp_path: Path) -> None:
    said = paper(tmp_path)
    assert said.startswith("paper-small: 20 training runs in 2 recipes")
    text = (tmp_path / "results" / "paper-small" / "report.md").read_text(encoding="utf-8")
    for heading in ("Objectives (MC-PO Table 1)", "Swap noise in the pool (MC-PO Table 2)", "Gradients of the samplers"):
        assert f"## {heading}" in text.replace("\\", "")
    lines = [line for line in text.splitlines() if line.startswith("| MC-PO over DPO |")]
    assert len(lines) >= 2, "a line a metric"
    assert all(sum(f"{word}:" in line for word in WORDS) for line in lines)
    assert len(re.findall(r"^\| (?:DPO|MC-PO|SFT on the chosen|DPO\S*) +\|", text, re.M)) >= 8, "rows of both worlds"
    page = (tmp_path / "results" / "paper-small" / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") >= 4
    assert "http" not in re.sub(r"http://www\.w3\.org/[\w/]+", "", page), "nothing is loaded from elsewhere"

    again = paper(tmp_path)
    assert again.count("Nothing to be done") == 2, "a recipe a world"
    newer = (tmp_path / "results" / "paper-small" / "report.md").read_text(encoding="utf-8")
    assert re.sub(r"This call took \d+ minutes?", "", newer) == re.sub(r"This call took \d+ minutes?", "", text)
