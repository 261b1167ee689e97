"""Each loss, mask, clip, draw and join broken on purpose, one at a time: some test must fail. A survivor is a missing test.

A sample is run: a keyed tenth, and mutants of files that changed since the base commit (PREFDATA_BASE, else the commit before),
at most MOST of them. `make mutants` runs all, and first what shall catch them, unbroken.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from forked import run_tests

from prefdata.draws import hash64
from tests.mutants import MUTANTS

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[2]

WHOLE = os.environ.get("PREFDATA_PROOFS") == "whole"
MOST = 12


def changed() -> set[str]:
    """Files that differ from the base commit; none where git cannot tell."""
    base = os.environ.get("PREFDATA_BASE", "HEAD~1")
    done = subprocess.run(["git", "diff", "--name-only", base], cwd=ROOT, capture_output=True, text=True, check=False)
    return set(done.stdout.splitlines())


def sample() -> list[tuple[str, str, str, str]]:
    """The mutants of this run."""
    if WHOLE:
        return MUTANTS
    keyed = sorted(MUTANTS, key=lambda m: hash64("mutant", *m[:2]))
    files = changed()
    mine = [m for m in keyed if m[0] in files][:MOST]
    return [m for m in MUTANTS if m in mine or m in keyed[: len(keyed) // 10]]


SAMPLE = sample()


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mutants")
    for name in ("prefdata", "train", "tests", "cards", "rubrics"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def run(copy: Path, *tests: str) -> tuple[int, str]:
    """pytest's exit code and the end of what it said."""
    said = copy / "said"
    code = run_tests(copy, [f"tests/{test}" for test in tests], said)
    return code, said.read_text(errors="replace")[-2000:]


@pytest.mark.skipif(not WHOLE, reason="make test has just run them")
@pytest.mark.parametrize("half", [0, 1])
def test_what_catches_mutants_passes_without_one(copy: Path, half: int) -> None:
    code, said = run(copy, *sorted({m[3] for m in SAMPLE})[half::2])
    assert code == 0, said


@pytest.mark.parametrize(("file", "old", "new", "test"), SAMPLE, ids=[f"{m[0]}:{m[1][:40]}" for m in SAMPLE])
def test_a_mutant_is_caught(copy: Path, file: str, old: str, new: str, test: str) -> None:
    path = copy / file
    whole = path.read_text()
    path.write_text(whole.replace(old, new))
    try:
        code, said = run(copy, test)
    finally:
        path.write_text(whole)
    assert code == 1, f"survived ({code}): {said}"
