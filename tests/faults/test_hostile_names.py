"""FAULTS C, names that look like paths or options: refused in the recipe, harmless in the data."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from .cases import Case, Error, Fault, as_parameters
from .place import Place, chain, good_row, human, phrase

HOSTILE = ["\x1b[2J", "\ufffe", "../../x", "/etc/x", "a\x00b", "x" * 300, "-rf", "..", "CON", "a\nb", "\u202e"]


def tree(folder: Path) -> set[Path]:
    return {p for p in folder.rglob("*") if "results" not in p.parts}


def test_hostile_names_of_sources_models_and_rows_stay_inside_the_root(place: Place, tmp_path: Path) -> None:
    place.recipe["score"] = {}
    sources = []
    for i, name in enumerate(HOSTILE):
        answers = [(phrase("hostile", i, j), j + 1, HOSTILE[i - j]) for j in range(3)]
        row = good_row(name, human(phrase("hostile", i)), answers)
        (place.folder / f"hostile{i}.jsonl").write_text(json.dumps(row), encoding="utf-8")
        sources.append({**place.source, "name": name, "path": f"hostile{i}.jsonl", "license": "mit"})
    place.recipe["sources"]["sources"] = sources
    place.write()
    before = tree(tmp_path)
    assert place.run(*chain(last="sets")).code == 0
    said = place.run_apart("report")
    assert said.code == 0, said
    assert place.run(*chain("card")).code == 0
    assert tree(tmp_path) == before, "nothing outside results"
    prompts = place.table("prompts", "sources")
    assert set(prompts["source"]) == {f"{n}@local" for n in HOSTILE}
    assert set(prompts["source_row"]) == set(HOSTILE)
    assert set(place.table("candidates", "sources")["producer"]) == set(HOSTILE)
    names = {part for p in place.root.rglob("*") for part in p.relative_to(place.root).parts}
    assert all(n.isascii() and len(n) < 80 and not n.startswith("-") and n not in ("..", "CON") for n in names)


def test_a_model_at_a_hostile_path_gets_a_safe_folder(place: Place, model: Path, tmp_path: Path) -> None:
    """A unit's folder is a slug and a hash of the name, whatever the model's path."""
    shutil.copytree(model, place.folder / "-rf ..\u202e")
    before = tree(tmp_path)
    place.reference["model"] = "./-rf ..\u202e"
    place.write()
    assert place.run(*chain("noise")).code == 0
    assert tree(tmp_path) == before
    assert all(u.name.isascii() for u in (place.root / "tables" / "logps" / "score").iterdir())


def named(*path: str | int) -> Any:
    """A recipe with one key, by its path, set to a name."""

    def fault(value: str) -> Fault:
        def inner(place: Place, name: str) -> None:
            place.recipe["judge"], place.recipe["generate"] = [{"name": "j"}], {"models": [{"name": "g", "id": "m"}]}
            place.recipe["train"] = {"runs": {"dpo/x": {}}}
            at = place.recipe
            for step in path[:-1]:
                at = at[step]  # type: ignore[index]
            at[path[-1]] = {value: {}} if path[-1] == "runs" else value  # type: ignore[index]

        return inner

    return fault


NAMED = {
    "name": named("name"),
    "score.references.0.name": named("score", "references", 0, "name"),
    "judge.0.name": named("judge", 0, "name"),
    "generate.models.0.name": named("generate", "models", 0, "name"),
    "train": named("train", "runs"),
}
RUNS = ("dpo/-rf", "-rf/x", f"dpo/{'x' * 300}", "../x", "dpo/..")
"""Names of training runs: they become folders and words of a command line."""
FORBIDDEN = [
    Case(f"{key}: {ascii(name)[:20]}", fault(name), Error(rf"recipe\.yaml: {key}: "))
    for key, fault in NAMED.items()
    for name in ("../../x", "/etc/x", "a\x00b", "x" * 300, "-rf", *(RUNS if key == "train" else ()))
]


@pytest.mark.parametrize("case", as_parameters(FORBIDDEN))
def test_a_name_in_the_recipe_that_looks_like_a_path_is_refused(case: Case, place: Place, tmp_path: Path) -> None:
    before = tree(tmp_path)
    case.run(place)
    assert tree(tmp_path) == before
