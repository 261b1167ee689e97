"""A folder with input, a recipe and perhaps the results of an earlier run, and the real command line run in it."""

import io
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from prefdata.draws import hash64
from prefdata.progress import RUN_PID
from prefdata.stages.registry import STAGES
from prefdata.tables import files
from prefdata.workflow import cli

from .zygote import Zygote

Row = dict[str, Any]
CANARIES = {"HF_TOKEN": "hf_canary5d21c0ffee", "OPENAI_API_KEY": "sk-canary77e1c0ffee"}
"""Secrets in the environment of every run: none may ever be said or stored."""
MAX_CHARS, CONTEXT = 2000, 1024
SURROGATE, BIDI = "\ud800", "\u202e"
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
    return {
        "id": name,
        "prompt": human(phrase(name)) if prompt is None else prompt,
        "answers": listed,
        "split": "train",
        **extra,
    }


def human(text: str) -> str:
    """A prompt of one message in Nectar's shape."""
    return f"\n\nHuman: {text}\n\nAssistant: "


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
        return self.root / "publish" / "t"

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
            code = _code_of(cli.run_command)
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


def written_by(path: str, stage: str) -> bool:
    """Whether a file of the results is a stage's own."""
    top, *rest = path.split("/")
    if top == "publish":
        return stage == {"card.md": "card", "explore.html": "page"}.get(rest[0], "publish")
    if top == "report" and rest[0].startswith("metrics."):
        return stage == "curves"
    return stage == "report" if top == "report" else rest[1] == stage


def owned(snapshot: dict[str, bytes], stage: str) -> dict[str, bytes]:
    """The part of a snapshot that a stage writes, and everything published."""
    return {p: data for p, data in snapshot.items() if written_by(p, stage) or written_by(p, "publish")}
