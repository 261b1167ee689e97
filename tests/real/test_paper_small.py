"""`make paper-small` as people call it: both worlds, from nothing to the report, after which nothing is left to run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[2]
WORDS = ("holds", "does not hold", "undecided", "undecided (one seed)")


def said(folder: Path, *words: str) -> str:
    """What a command says on its way."""
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=4800,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stderr + done.stdout


def test_the_small_size_ends_in_its_report_and_leaves_nothing_to_run(tmp_path: Path) -> None:
    assert said(tmp_path, "paper", "small").startswith("paper-small: 20 training runs in 2 recipes")
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

    recipes = sorted((tmp_path / "results" / "paper-small" / "recipes").glob("*.yaml"))
    assert len(recipes) == 2, "a recipe a world"
    for recipe in recipes:  # what the same call would run again
        assert "Nothing to be done" in said(tmp_path, "prefdata", "run", str(recipe), "-n")
