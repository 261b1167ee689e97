"""What every case of bad input is: a name (what it breaks), a fault and the outcome.

A fault makes the good input faulty; the outcome is what docs call E (an error), Q (a counted drop) or H (handled as
said). The stages run through the real entry of the command line.
"""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import polars as pl
import pytest

from prefdata.tables import files

from .place import Place, Said, chain, good_row, owned

Fault = Callable[[Place, str], object]
"""Makes the place faulty; the second argument is the case's name."""


class Outcome(Protocol):
    def check(self, name: str, place: Place, said: Said, before: dict[str, bytes]) -> None: ...


@dataclass(frozen=True)
class Case:
    """`first` and `last`: the stages to run."""

    breaks: str
    fault: Fault
    outcome: Outcome
    first: str = "sources"
    last: str = "publish"

    def run(self, place: Place) -> None:
        before = place.snapshot()
        self.fault(place, self.breaks)
        place.write()
        if not isinstance(self.outcome, Error):
            shutil.rmtree(place.root)
        said = place.run(*chain(self.first if isinstance(self.outcome, Error) else "sources", self.last))
        self.outcome.check(self.breaks, place, said, before)

    def check(self, place: Place) -> None:
        """The outcome in a place where this fault, among others, has gone through all stages."""
        assert not isinstance(self.outcome, Error)
        self.outcome.check(self.breaks, place, Said("publish", 0, "", ""), {})


HINT = re.compile(r"; \S")
"""What to do stands after a semicolon."""


def as_parameters(cases: Sequence[Case]) -> list[Any]:
    """For pytest.mark.parametrize: ids named after what breaks."""
    assert len({c.breaks for c in cases}) == len(cases)
    return [pytest.param(c, id=c.breaks) for c in cases]


@dataclass(frozen=True)
class Error:
    """E: one line with `says` (a regular expression) and what to do; code 2, nothing published, the earlier output intact.

    `stage`: which may be the one that stops (alternatives apart by |).
    """

    says: str
    stage: str = "sources"

    def check(self, name: str, place: Place, said: Said, before: dict[str, bytes]) -> None:
        require_error(said, self.says)
        assert HINT.search(said.err), said.err
        assert said.stage in self.stage.split("|")
        assert owned(place.snapshot(), said.stage) == owned(before, said.stage), "the earlier output changed"
        assert not place.leftovers()


def require_error(said: Said, says: str) -> None:
    """Exit code 2 and one line `error: where: what`."""
    assert said.code == 2, said
    assert "Traceback" not in said.err
    assert re.fullmatch(r"error: [^\n]*\n", said.err), said.err
    assert all(c.isprintable() for c in said.err[:-1]), f"characters that a terminal or a log obeys: {said.err!r}"
    assert re.search(says, said.err), said.err


@dataclass(frozen=True)
class Dropped:
    """Q: a row of `drops` with the reason, counted in that table's manifest and on the published card."""

    reason: str
    stage: str = "sources"
    scope: str = "row"
    count: int = 1
    unit: str = "*"

    def check(self, name: str, place: Place, said: Said, before: dict[str, bytes]) -> None:
        assert said.code == 0, said.err
        mine = (pl.col("source_row") == name) & (pl.col("reason") == self.reason)
        found = place.table("drops", self.stage, self.unit).filter(mine)
        assert found.height == self.count, place.table("drops", self.stage, self.unit).filter(pl.col("source_row") == name)
        assert set(found["scope"]) == {self.scope}
        for path in place.paths("drops", self.stage, self.unit):
            require_counted(place, path, self.reason)


def require_counted(place: Place, path: Path, reason: str) -> None:
    """The manifest of a drops file counts its rows, and the card says the same."""
    count = files.read_table(path, "drops").filter(pl.col("reason") == reason).height
    assert files.manifest(path)["reasons"].get(reason, 0) == count
    card = (place.dataset / "README.md").read_text(encoding="utf-8").replace("\\", "")
    stage, unit = path.parts[-3:-1]
    named = rf"{re.escape(stage)}(?: {re.escape(unit)})?"  # the unit too, where the stage has several
    assert count == 0 or re.search(rf"^\| {named} \| {re.escape(reason)} \| {count} \|$", card, re.M), card


@dataclass(frozen=True)
class Handled:
    """H: no error, and what `shows` asserts of the place afterwards."""

    shows: Callable[[Place, str], object]

    def check(self, name: str, place: Place, said: Said, before: dict[str, bytes]) -> None:
        assert said.code == 0, said.err
        self.shows(place, name)


# ---- faults ----


def add(prompt: Any = None, answers: Any = None, **extra: Any) -> Fault:
    """One more row, whose id is the case's name."""
    return lambda place, name: place.rows.append(good_row(name, prompt, answers, **extra))


def change(**fields: Any) -> Fault:
    """Other fields in the fourth row (line 4 of the file)."""
    return lambda place, name: place.rows[3].update(fields)


def without(field_name: str) -> Fault:
    return lambda place, name: place.rows[3].pop(field_name)


def change_answer(**fields: Any) -> Fault:
    """Other fields in the second answer of the fourth row."""
    return lambda place, name: place.rows[3]["answers"][1].update(fields)


def without_in_answer(field_name: str) -> Fault:
    return lambda place, name: place.rows[3]["answers"][1].pop(field_name)


def set_text(text: str | bytes) -> Fault:
    """The whole input file."""

    def fault(place: Place, name: str) -> None:
        place.text = text

    return fault


def set_line(line: str) -> Fault:
    """The good rows with the fourth line replaced as it is."""

    def fault(place: Place, name: str) -> None:
        lines = [json.dumps(r) for r in place.rows]
        place.text = "\n".join([*lines[:3], line, *lines[4:]]) + "\n"

    return fault


def policy(**keys: Any) -> Fault:
    """Other keys in the section `sources` of the recipe."""
    return lambda place, name: place.recipe["sources"].update(keys)


def both(*faults: Fault) -> Fault:
    """Several faults, one after the other."""
    return lambda place, name: [fault(place, name) for fault in faults]


def mixture(folder: Path, good: Place, cases: list[Case]) -> Place:
    """The good rows and the faults of all the cases in one run."""
    place = Place(folder, [dict(r) for r in good.rows], json.loads(json.dumps(good.recipe)))
    for case in cases:
        case.fault(place, case.breaks)
    place.write()
    said = place.run(*chain())
    assert said.code == 0, said.err
    return place
