"""The list of mutants is of code and tests that are there; tests/real/test_mutations.py runs them."""

from pathlib import Path

from tests.mutants import MUTANTS

ROOT = Path(__file__).parents[1]


def test_every_mutant_is_of_code_that_is_there() -> None:
    for file, old, new, test in MUTANTS:
        assert old in (ROOT / file).read_text(), f"{file}: {old}: the code has moved on: mend tests/mutants.py"
        assert old != new
        assert (ROOT / "tests" / test).is_file(), test
