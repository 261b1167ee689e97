"""One machinery for every case of bad input: a small good run, a copy of it with one fault, its stages, the outcome.

A case is a name (what it breaks), a fault (how the good input is made faulty) and the outcome that docs call E (an
error), Q (a counted drop) or H (handled as said). The stages run through the real entry of the command line.
"""

import io
import json
import os
import re
import resource
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import polars as pl
import pytest
import yaml

from prefdata import cli, files
from prefdata.draws import hash64
from prefdata.progress import RUN_PID
from prefdata.stages import STAGES

from .zygote import Zygote

Row = dict[str, Any]
CANARIES = {"HF_TOKEN": "hf_canary5d21c0ffee", "OPENAI_API_KEY": "sk-canary77e1c0ffee"}
"""Secrets in the environment of every run: none may ever be said or stored."""
MAX_CHARS, CONTEXT = 2000, 1024
_NOT_NEEDED = {"toy", "generate", "judge", "evaluate", "summary"}
_OUTPUTS = ("tables", "report", "publish")
_SYLLABLES = ("ba", "ko", "ri", "tu", "me", "sol", "van", "pli", "gor", "nix", "dem", "ash", "quo", "fen", "wil", "zur")


def chain(first: str = "sources", last: str = "publish") -> list[str]:
    """The stages of a plain run in order, whatever stages there are."""
    names = [name for name in STAGES if name not in _NOT_NEEDED]
    return names[names.index(first) : names.index(last) + 1]


def phrase(*key: str | int, words: int = 8) -> str:
    """Words that no two keys share: deduplication must find nothing in what is meant to differ."""
    numbers = [hash64("phrase", *key, i) for i in range(words)]
    return " ".join("".join(_SYLLABLES[n >> s & 15] for s in (0, 4, 8)) for n in numbers)


def good_row(name: str, prompt: Any = None, answers: Any = None, **extra: Any) -> Row:
    """One row in Nectar's shape with the id `name`; answers are (text, rank) or (text, rank, model)."""
    given = [(phrase(name, "answer", i), i + 1) for i in range(3)] if answers is None else answers
    listed = [{"answer": a[0], "rank": a[1], "model": a[2] if len(a) > 2 else f"m{i}"} for i, a in enumerate(given)]
    text = f"\n\nHuman: {phrase(name)}\n\nAssistant: " if prompt is None else prompt
    return {"id": name, "prompt": text, "answers": listed, "split": "train", **extra}


def good_rows() -> list[Row]:
    return [good_row(f"good{i}", split="test" if i % 4 == 3 else "train") for i in range(12)]


def good_recipe(model: Path) -> dict[str, Any]:
    source = {"name": "mine", "path": "rows.jsonl", "license": "mit", "fields": {"id": "id"}}
    return {
        "name": "t",
        "seed": 1,
        "sources": {"sources": [source], "max_chars": MAX_CHARS, "max_reject_rate": 1.0},
        "prune": {"drop_ranks": []},
        "score": {"references": [{"name": "own", "model": str(model)}], "chunk_prompts": 4},
        "sets": {"sft_splits": ["train"]},
    }


@dataclass(frozen=True)
class Said:
    """How a command ended and what it said."""

    stage: str
    code: int
    out: str
    err: str


@dataclass
class Place:
    """A folder with rows, a recipe and perhaps the results of an earlier run."""

    folder: Path
    rows: list[Row]
    recipe: dict[str, Any]
    text: str | bytes | None = None
    """Instead of the rows: what rows.jsonl holds."""
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.folder / "results" / "t"

    @property
    def dataset(self) -> Path:
        return self.root / "publish" / "dataset"

    @property
    def source(self) -> dict[str, Any]:
        listed: list[dict[str, Any]] = self.recipe["sources"]["sources"]
        return listed[0]

    @property
    def reference(self) -> dict[str, Any]:
        listed: list[dict[str, Any]] = self.recipe["score"]["references"]
        return listed[0]

    def write(self) -> None:
        """Write the rows and the recipe."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(r) + "\n" for r in self.rows) if self.text is None else self.text
        (self.folder / "rows.jsonl").write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
        (self.folder / "recipe.yaml").write_text(yaml.safe_dump(self.recipe), encoding="utf-8")

    def run(self, *stages: str, options: Sequence[str] = ()) -> Said:
        """Run stages until one fails; what the last one said."""
        for stage in stages:
            said = self.command(stage, "--settings", "recipe.yaml", *options)
            if said.code:
                break
        return said

    def run_apart(self, *stages: str) -> Said:
        """As `run`, each stage in a process of its own: what kills that is a code below 0."""
        with Zygote(**CANARIES) as zygote:
            for stage in stages:
                made = zygote.run(self.folder, stage)
                said = Said(stage, -made["signal"] if made["code"] is None else made["code"], made["out"], made["err"])
                if said.code:
                    break
        return said

    def command(self, *words: str) -> Said:
        """`prefdata WORDS` in this folder, through its real entry; an exception that escapes it is code 1."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["prefdata", *words])
            patch.delenv(RUN_PID, raising=False)
            for name, value in {**CANARIES, "OMP_NUM_THREADS": "1", **self.environment}.items():
                patch.setenv(name, value)
            code = _code_of(cli.main)
        said = Said(words[0], code, out.getvalue(), err.getvalue())
        assert not any(secret in said.out + said.err for secret in CANARIES.values()), "a secret was said"
        return said

    def snapshot(self) -> dict[str, bytes]:
        """What every file of the results holds, but for locks, logs and the chunk stores."""
        found = [p for p in self.root.rglob("*") if p.is_file() and p.relative_to(self.root).parts[0] in _OUTPUTS]
        return {str(p.relative_to(self.root)): p.read_bytes() for p in found}

    def paths(self, table: str, stage: str, unit: str = "*") -> list[Path]:
        return sorted((self.root / "tables" / table / stage).glob(f"{unit}/*.parquet"))

    def table(self, table: str, stage: str, unit: str = "*") -> pl.DataFrame:
        """Every unit and shard of a stage's table."""
        paths = self.paths(table, stage, unit)
        assert paths, f"no {table} of {stage}"
        return pl.concat([files.read_table(p, table) for p in paths])

    def prompt(self, name: str) -> Row:
        """The row of `prompts` that the input row became."""
        row: Row = self.table("prompts", "sources").row(by_predicate=pl.col("source_row") == name, named=True)
        return row

    def of(self, name: str, table: str, stage: str, unit: str = "*") -> list[Row]:
        """The rows of a table that belong to the prompt of the input row `name`."""
        return self.table(table, stage, unit).filter(pl.col("prompt_id") == self.prompt(name)["prompt_id"]).to_dicts()

    def set_of(self, name: str) -> Row:
        """The row of the preference set."""
        (row,) = self.of(name, "sets", "sets", "preference")
        return row

    def leftovers(self) -> list[str]:
        """Temporary files and folders of a command that has ended."""
        return [str(p) for p in self.folder.rglob(".*") if p.name.endswith(".tmp") or p.name in (".spool", ".built")]


def _code_of(call: Callable[[], object]) -> int:
    try:
        call()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception:  # in a process of its own this is a traceback and code 1
        traceback.print_exc(file=sys.stderr)
        return 1
    return 0


Fault = Callable[[Place, str], object]
"""Makes the place faulty; the second argument is the case's name."""


class Outcome(Protocol):
    def check(self, name: str, place: Place, said: Said, before: dict[str, bytes]) -> None: ...


@dataclass(frozen=True)
class Case:
    """`first` and `last`: the stages to run; `defect`: what the product does instead, where it does not do as it should."""

    breaks: str
    fault: Fault
    outcome: Outcome
    first: str = "sources"
    last: str = "publish"
    defect: str | None = None

    def run(self, place: Place) -> None:
        before = place.snapshot()
        self.fault(place, self.breaks)
        place.write()
        if not isinstance(self.outcome, Error):
            shutil.rmtree(place.root)
        said = place.run(*chain(self.first if isinstance(self.outcome, Error) else "sources", self.last))
        SAID[self.breaks] = said
        self.outcome.check(self.breaks, place, said, before)

    def check(self, place: Place) -> None:
        """The outcome in a place where this fault, among others, has gone through all stages."""
        assert not isinstance(self.outcome, Error)
        self.outcome.check(self.breaks, place, Said("publish", 0, "", ""), {})


SAID: dict[str, Said] = {}
"""What each case's last command said, for the tests of the messages themselves."""
HINT = re.compile(r"; \S")


def as_parameters(cases: Sequence[Case]) -> list[Any]:
    """For pytest.mark.parametrize: ids named after what breaks; defects are strict expected failures."""
    assert len({c.breaks for c in cases}) == len(cases)
    return [pytest.param(c, id=c.breaks, marks=[defect(c.defect)] if c.defect else []) for c in cases]


def as_errors(cases: Sequence[Case], wordless: Sequence[str]) -> list[Any]:
    """The cases whose line must say what to do; `wordless` are those whose does not: strict expected failures."""
    known = {c.breaks: c for c in cases if c.defect is None}
    assert set(wordless) <= set(known)
    marks = {name: [defect("no word on what to do")] for name in wordless}
    return [pytest.param(c, id=name, marks=marks.get(name, [])) for name, c in known.items()]


def require_hint(case: Case, place: Place) -> None:
    """The case's line goes on after a semicolon."""
    if case.breaks not in SAID:
        case.run(place)
    assert HINT.search(SAID[case.breaks].err), SAID[case.breaks].err


def defect(reason: str) -> pytest.MarkDecorator:
    """A test of what the product does not do yet."""
    return pytest.mark.xfail(strict=True, reason=f"defect: {reason}")


@dataclass(frozen=True)
class Error:
    """E: one line that says `says` (a regular expression), code 2, nothing published, the earlier output intact.

    `stage`: which may be the one that stops (alternatives apart by |).
    """

    says: str
    stage: str = "sources"

    def check(self, name: str, place: Place, said: Said, before: dict[str, bytes]) -> None:
        require_error(said, self.says)
        assert said.stage in self.stage.split("|")
        assert owned(place.snapshot(), said.stage) == owned(before, said.stage), "the earlier output changed"
        assert not place.leftovers()


def written_by(path: str, stage: str) -> bool:
    """Whether a file of the results is a stage's own."""
    top, *rest = path.split("/")
    if top == "publish":
        return stage == ("card" if rest == ["card.md"] else "publish")
    return stage == "report" if top == "report" else rest[1] == stage


def owned(snapshot: dict[str, bytes], stage: str) -> dict[str, bytes]:
    """The part of a snapshot that a stage writes, and everything published."""
    return {p: data for p, data in snapshot.items() if written_by(p, stage) or written_by(p, "publish")}


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
    stage = path.parts[-3]
    assert count == 0 or re.search(rf"^\| {re.escape(stage)} \| {re.escape(reason)} \| {count} \|$", card, re.M), card


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


@contextmanager
def few_descriptors(more: int) -> Iterator[None]:
    """So many files, and not one more, can be opened."""
    filling = [os.open(os.devnull, os.O_RDONLY)]
    while filling[-1] < max(int(n) for n in os.listdir("/proc/self/fd")) - 1:
        filling.append(os.open(os.devnull, os.O_RDONLY))
    try:
        with limited(resource.RLIMIT_NOFILE, max(int(n) for n in os.listdir("/proc/self/fd")) + more):
            yield
    finally:
        for descriptor in filling:
            os.close(descriptor)


@contextmanager
def limited(kind: int, soft: int) -> Iterator[None]:
    """A resource limit of this process for a while; the hard limit stays, so that it can be lifted again."""
    old = resource.getrlimit(kind)
    resource.setrlimit(kind, (soft, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, old)
