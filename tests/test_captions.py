"""What `snakemake --report` shows: every page, picture and table of a recipe has a caption, and every caption a file."""

from pathlib import Path

from recipes import ONLINE, TOY

from prefdata.recipe.read import validate_recipe
from prefdata.recipe.results import Results
from prefdata.stages.registry import STAGES
from prefdata.workflow import captions
from train import rules

RECIPES = (
    TOY,
    ONLINE,
    {**TOY, "harness": {"tasks": ["gsm8k"]}, "evaluate": {**TOY["evaluate"], "judge": "exact"}},
)


def outputs(results: Results) -> list[str]:
    """Every file that some job of the recipe writes."""
    made = [f for stage in STAGES for unit, group in results.jobs(stage) for f in results.outputs(stage, unit, group)]
    return made + [f for rule in rules.rules(results) for f in rule.outputs]


def test_every_report_of_every_recipe_has_a_caption() -> None:
    used = set()
    for recipe in RECIPES:
        results = Results(validate_recipe(recipe, "t"), STAGES)
        for path in outputs(results):
            row, inside = captions.shown(path, results.root), Path(path).relative_to(results.root)
            # the page of the set is a file of megabytes, beside what is published
            read = inside.parts[0] == "report" or (inside.suffix in (".png", ".html") and inside.parts[0] != "publish")
            assert (row is not None) == read, path
            if row is not None:
                used.add(row.caption)
                assert captions.labels(path, results.root) == {"file": str(inside)}
    assert used == {row.caption for row in captions.SHOWN}, "no caption is of nothing"


def test_captions_are_texts_of_their_own() -> None:
    files = {p.stem: p.read_text() for p in captions.CAPTIONS.glob("*.rst")}
    assert set(files) == {row.caption for row in captions.SHOWN}
    for name, text in files.items():
        assert len(text.split()) > 5, name
        assert "{" not in text, f"{name}: Snakemake reads a caption as a template"
    assert len(set(files.values())) == len(files)
