"""The rooms and the lists that CONTRIBUTING quotes are what the tree has."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from prefdata.judging.procedures import PROCEDURES
from prefdata.judging.registry import KINDS
from prefdata.models.engines.registry import ENGINES, LanguageModelSettings
from prefdata.sources.shapes import SHAPES
from prefdata.stages.registry import STAGES

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "vllm", "altair", "datasketch", "scipy", "datasets", "tokenizers", "math_verify", "openai")


def test_importing_every_stage_loads_nothing_heavy() -> None:
    """The registry is imported by every command, and by the Snakefile, which every job on a cluster reads twice: a library that
    a stage alone needs is imported where it is used."""
    loaded = "prefdata.stages.registry, prefdata.workflow.cli, prefdata.workflow.snakefile, train.rules, train.resolve"
    code = f"import sys, {loaded}; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_a_stage_is_its_file_and_a_line_of_the_registry() -> None:
    """module = name = rule = log; its settings section has the same name where it has one."""
    files = {p.stem for p in (ROOT / "prefdata" / "stages").glob("*.py")} - {
        "__init__",
        "registry",
        "graph",
        "joined_rows",
        "labels",
        "plain_rows",
        "reading",
        "segmented",
        "shared_reading",
        "spool",
    }
    assert files == set(STAGES)
    registry = (ROOT / "prefdata" / "stages" / "registry.py").read_text()
    for name in STAGES:
        assert len(re.findall(rf"^    {name},$", registry, re.M)) == 2, name


def names_in(path: Path) -> set[str]:
    """Every string that a file holds."""
    tree = ast.parse(path.read_text())
    return {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


TOUCHED = {
    # what is added: (its names, the files that may name one)
    "procedure": (set(PROCEDURES) - {"champion"}, set()),
    "judge kind": (set(KINDS) - {"exact", "noisy", "reward"}, {"judging/registry.py"}),
    "engine": (set(ENGINES) - {"transformers"}, {"models/engines/registry.py"}),
    "source shape": (set(SHAPES) - {"nectar"}, {"sources/shapes/__init__.py", "sources/known_sets.py"}),
}


@pytest.mark.parametrize("what", TOUCHED)
def test_a_name_stands_in_its_registry_alone(what: str) -> None:
    """Nothing branches on the name of one kind: a new kind needs no other file than its own and the registry."""
    names, allowed = TOUCHED[what]
    for path in (ROOT / "prefdata").rglob("*.py"):
        place = path.relative_to(ROOT / "prefdata").as_posix()
        if place not in allowed and path.stem not in names:
            assert not names & names_in(path), (what, place, names & names_in(path))


def test_an_engines_section_has_its_name() -> None:
    assert set(ENGINES) - {"transformers"} <= set(LanguageModelSettings.model_fields)


def paths_quoted(text: str) -> list[str]:
    return re.findall(r"`((?:prefdata|train|tests|rubrics|config|cards|docs)/[\w./<>-]+)`", text)


def test_contributing_names_files_that_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text.partition("| to add |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1:-1] for line in table.splitlines()[2:]]
    assert [row[0].strip() for row in rows] == [
        "a source shape",
        "an objective of known parts",
        "a loss",
        "a judge kind",
        "a procedure",
        "a stage",
        "an engine",
        "a published config",
    ]
    for name, count, files in rows:
        named = paths_quoted(files)
        assert len(named) == int(count), name
        for path in named:
            assert (ROOT / path.replace("<name>.py", "")).exists(), path


def test_the_readmes_tree_is_the_tree() -> None:
    """Every folder of the tree in the README is there, and every folder with code is in the tree."""
    text = (ROOT / "README.md").read_text()
    tree = re.search(r"```\n(train/ .*?)```", text, re.S)
    assert tree is not None
    shown, at = set(), []
    for line in tree[1].splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        at = [*at[:depth], name]
        if name.endswith("/"):
            shown.add("".join(at))
    packages = {f"{p.parent.relative_to(ROOT)}/" for top in ("prefdata", "train") for p in (ROOT / top).rglob("__init__.py")}
    assert shown >= packages, packages - shown
    assert all((ROOT / folder).is_dir() for folder in shown)
