"""pytest in a fork of a process that has the large libraries loaded: loading them costs more than most mutants' tests."""

import os
import sys
import traceback
from multiprocessing import get_context
from pathlib import Path

# none of them starts a thread before it is used
LIBRARIES = ["torch", "transformers.models.llama.modeling_llama", "polars", "pyarrow.parquet", "datasets"]
LOADED = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
_FORKS = get_context("forkserver")


def run_tests(folder: Path, tests: list[str], said: Path) -> int:
    """pytest's exit code for tests of a folder, whose packages are imported from there; what it said is in a file. Negative:
    the signal that ended it."""
    _FORKS.set_forkserver_preload(LIBRARIES)
    process = _FORKS.Process(target=_run, args=(str(folder), tests, str(said)))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _run(folder: str, tests: list[str], said: str) -> None:
    """In the fork. This module imports nothing of ours, which would be the tree that this process came from."""
    assert not {"prefdata", "train", "tests"} & set(sys.modules)
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.chdir(folder)
    os.environ |= {"PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    here = str(Path(__file__).parent)
    sys.path[:] = [folder, *(p for p in sys.path if p not in (here, folder))]
    code = 99
    try:
        import pytest

        code = int(pytest.main(["-x", "-p", "no:cacheprovider", "-W", LOADED, *tests]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # nothing of the test runner's own is run at the end
