"""Recipes as the command line takes them: read, validated, and checked by the rooms that know the names in them."""

from pathlib import Path

from prefdata.errors import ConfigError
from prefdata.judging import registry as judging
from prefdata.output import gates, published_configs
from prefdata.recipe.read import read_recipe
from prefdata.recipe.results import Results
from prefdata.recipe.settings.whole import Settings
from prefdata.stages.registry import STAGES


def checked(settings: Settings, where: str) -> Settings:
    """The settings, whose judges and published configs are ones that there are. Raises ConfigError with every mistake."""
    if problems := [*judging.check(settings), *published_configs.problems(settings), *gates.problems(settings)]:
        raise ConfigError([f"{where}: {problem}" for problem in problems])
    return settings


def results_of(path: Path) -> Results:
    """The results folder of a recipe file. Raises ConfigError."""
    return Results(checked(read_recipe(path), str(path)), STAGES)
