"""What the documents promise is what the code has."""

import re
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import yaml

from prefdata.output.explore.document import FRONT, LIBRARIES
from prefdata.recipe.read import describe, read_recipe
from prefdata.tables.schema import TABLES
from train.file_settings import FileSettings
from train.objectives.registry import OBJECTIVES
from train.resolve import validate

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))


def test_benchmarks_page_is_generated_from_its_lines() -> None:
    import render

    assert (ROOT / "docs" / "benchmarks.md").read_text() == render.render(), "run python benchmarks/render.py"


def yaml_blocks(name: str) -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", (ROOT / name).read_text(), re.S)


@pytest.mark.parametrize("name", ["README.md", "docs/from-trl.md"])
def test_the_training_files_of_the_documents_are_valid(name: str) -> None:
    asked = FileSettings.model_validate(yaml.safe_load(yaml_blocks(name)[-1]))
    assert asked.objective in OBJECTIVES


def test_what_from_trl_maps_is_there() -> None:
    """Every objective and key that docs/from-trl.md names on our side exists."""
    table = (ROOT / "docs" / "from-trl.md").read_text().partition("| TRL | here |")[2].partition("## What differs")[0]
    known = {key for key, _, _ in describe(FileSettings)} | set(OBJECTIVES)
    for row in [line for line in table.splitlines()[2:] if line.startswith("| `")]:
        for found in re.findall(r"`([a-z_]+(?:\.[a-z_]+)?)`", row.split("|")[-2]):
            if found != "simpo_gamma" and not found.startswith("metrics."):
                assert found in known, found


def test_the_recipe_of_the_readme_is_valid(tmp_path: Path) -> None:
    text, _ = yaml_blocks("README.md")
    assert len(text.splitlines()) <= 10
    (tmp_path / "mine.yaml").write_text(text)
    assert set(validate(read_recipe(tmp_path / "mine.yaml"))) == {"mcpo/default"}


def test_the_readme_names_every_table() -> None:
    readme = (ROOT / "README.md").read_text()
    assert all(f"| {t} |" in readme for t in TABLES)


@pytest.mark.parametrize("name", [*sorted(p.name for p in (ROOT / "docs").glob("*.md")), "README.md", "CONTRIBUTING.md"])
def test_links_and_paths_of_the_documents_exist(name: str) -> None:
    path = ROOT / name if (ROOT / name).exists() else ROOT / "docs" / name
    for found in re.findall(r"`((?:docs|prefdata|train|tests|config|profiles|benchmarks)/[\w./-]+)`", path.read_text()):
        if found != "config/mine.yaml":
            assert (ROOT / found).exists(), found


def test_every_pinned_dependency_of_ours_is_explained() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    wanted = {re.split(r"[<>=]", d)[0] for d in re.findall(r'^    "([\w-]+[<>=][^"]*)",$', project, re.M)}
    explained, pinned = (ROOT / "docs" / "dependencies.md").read_text(), (ROOT / "constraints.txt").read_text().lower()
    assert len(wanted) > 15
    for name in wanted:
        assert name.removesuffix("-python") in explained, name
        assert f"{name.lower()}==" in pinned or f"{name.lower().replace('-', '_')}==" in pinned, name


def test_the_libraries_of_the_page_are_those_that_the_document_tells() -> None:
    explained = (ROOT / "docs" / "dependencies.md").read_text()
    for name in LIBRARIES:
        path = FRONT / name
        told = f"| `{path.name}` |[^\n]*`{sha256(path.read_bytes()).hexdigest()[:16]}` |"
        assert re.search(told.replace("|", r"\|"), explained), name
        assert (path.parent / f"{path.name.split('.')[0]}.LICENSE").exists()
