"""Mistakes on a recipe of one's own, by the real snakemake: the last good output stays, and saying it again says it again."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import Workflow

WORDS = ["colour", "weather", "distance", "capital", "reason", "opposite", "beginning", "meaning"]


def rows(count: int = 8, ranked: bool = True) -> list[dict[str, Any]]:
    made = []
    for number in range(count):
        task = f"what is the {WORDS[number]} {WORDS[-1 - number]} of number {number}?"
        answers = [(f"the {WORDS[number]} is what was asked for, and nothing else", 1), ("nobody knows that", 2), ("hm", 3)]
        listed = [{"answer": a, "model": f"m{i}", **({"rank": r} if ranked else {})} for i, (a, r) in enumerate(answers)]
        made.append({"prompt": f"\n\nHuman: {task}\n\nAssistant: ", "answers": listed})
    return made


RECIPE: dict[str, Any] = {
    "name": "mine",
    "sources": {"sources": [{"name": "mine", "path": "mine.jsonl", "license": "mit"}]},
    "split": {"train": 1, "validation": 0, "test": 0},
    "train": {
        "runs": {
            "simpo/default": {
                "steps": 2,
                "batch_prompts": 4,
                "init": {"vocab_size": 300, "hidden_size": 16, "heads": 1, "layers": 1, "mlp": 16, "context": 512},
                "template": "plain",
            }
        }
    },
}


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """A Nectar-shaped file, a set without references and a fresh model trained on it; no evaluation."""
    folder = tmp_path_factory.mktemp("mine")
    made = Workflow(folder, RECIPE)
    write(made, rows())
    made.run()
    return made


def write(workflow: Workflow, listed: list[dict[str, Any]]) -> None:
    (workflow.folder / "mine.jsonl").write_text("".join(json.dumps(r) + "\n" for r in listed))


@pytest.fixture
def workflow(mine: Workflow) -> Iterator[Workflow]:
    """The good state, there again afterwards: Snakemake's own records do not survive a copy of the folder."""
    before = contents(mine)
    yield mine
    path = mine.folder / "mine.jsonl"
    if path.is_dir():
        path.rmdir()
    write(mine, rows())
    mine.write(RECIPE)
    mine.run()
    assert contents(mine) == before


def contents(workflow: Workflow) -> dict[str, bytes]:
    """Every output but logs and bookkeeping."""
    kept = ("tables", "models", "publish", "report")
    return {str(p): p.read_bytes() for k in kept for p in sorted((workflow.root / k).rglob("*")) if p.is_file()}


def test_the_default_target_trains_what_the_recipe_asks_for(mine: Workflow) -> None:
    assert (mine.root / "models" / "simpo" / "default" / "model.safetensors").exists()
    assert "license: mit" in (mine.root / "publish" / mine.root.name / "README.md").read_text()


@pytest.mark.parametrize("mistake", ["broken", "folder", "gone"])
def test_a_failed_stage_keeps_the_last_good_tables_and_fails_again(workflow: Workflow, mistake: str) -> None:
    before, path = contents(workflow), workflow.folder / "mine.jsonl"
    path.unlink()
    if mistake == "broken":
        path.write_text('{"prompt": ')
    elif mistake == "folder":
        path.mkdir()
    for _ in range(2):
        said = workflow.run(check=False)
        assert "error: " in said
        assert "Nothing to be done" not in said
        assert contents(workflow) == before


def test_a_failed_training_keeps_the_last_good_model(workflow: Workflow) -> None:
    before = contents(workflow)
    runs = {"simpo/default": {**RECIPE["train"]["runs"]["simpo/default"], "split": "validation"}}
    workflow.write({**RECIPE, "train": {"runs": runs}})
    for _ in range(2):
        assert "no rows of split validation" in workflow.run(check=False)
        assert contents(workflow) == before


def test_an_empty_set_replaces_nothing_that_is_published(workflow: Workflow) -> None:
    published = {k: v for k, v in contents(workflow).items() if f"/publish/{workflow.root.name}/" in k}
    write(workflow, rows(ranked=False))
    said = workflow.run("publish", check=False)
    assert "the preference set is empty (8 unranked" in said
    assert {k: v for k, v in contents(workflow).items() if f"/publish/{workflow.root.name}/" in k} == published


def test_a_file_where_the_results_go_is_one_line(tmp_path: Path) -> None:
    workflow = Workflow(tmp_path / "w", RECIPE)
    write(workflow, rows())
    (workflow.folder / "results").write_text("")
    said = workflow.run(check=False)
    assert "error: results: a file, where the results go" in said
    assert "Traceback" not in said


def test_another_content_counts_whatever_its_time_and_a_touch_does_not(workflow: Workflow) -> None:
    """`mv old.jsonl mine.jsonl`, rsync -a, a clock set back: an older file is another input."""
    path = workflow.folder / "mine.jsonl"
    other = workflow.folder / "older.jsonl"
    other.write_text("".join(json.dumps(r) + "\n" for r in rows(6)))
    os.utime(other, (0, 0))
    other.rename(path)
    workflow.run("set")
    assert workflow.table("sets", "sets", "preference").height == 6
    path.touch()
    said = workflow.run("set")
    assert "Nothing to be done" in said, said


def test_what_is_asked_for_and_not_used_is_said_before_the_run(workflow: Workflow) -> None:
    model = {"name": "m", "id": "some/model", "revision": "0" * 40}
    pairs = [{"name": "mine", "format": "trl_pairs", "path": "mine.jsonl", "license": "mit"}]
    workflow.write({**RECIPE, "generate": {"models": [model]}, "sources": {"sources": pairs}})
    said = workflow.run("-n", "set")
    assert "warning: generate.models is given, but sets.method is source" in said
    assert "warning: prune.drop_ranks has 2" in said
    judge = {"name": "j", "kind": "likelihood", "model": {"id": "some/model", "revision": "0" * 40}}
    workflow.write({**RECIPE, "judge": [judge]})
    assert "warning: the judge j ranks nothing: sets.method is source" in workflow.run("-n", "set")
    workflow.write(RECIPE)
    assert "warning: " not in workflow.run("-n", "set")
