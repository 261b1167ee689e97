"""What several stages declare alike: a ranking's candidates, what dropped some of them, whether labelled answers are wanted."""

from prefdata.recipe.prompts import prompt_drops
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Slice
from prefdata.recipe.units import Part, generator_unit, method_unit

UNPAIRED = "unpaired"
"""The unit of labelled answers, and the key that asks for it."""

OF_DROPPED = ("prompt_id", "candidate_id", "scope")
"""Columns of drops that tell which rows are gone; the others tell why."""


def source_drops(settings: Settings) -> list[Part]:
    """What dropped prompts and the source's own answers."""
    return [*prompt_drops(settings), Part("drops", "prune")]


def pool(settings: Settings, of_method: str) -> list[Part]:
    """Candidates that a method ranks, and what dropped some of them: the source's own order knows source answers only, a
    segment of an online run its own answers."""
    parts = prompt_drops(settings) if settings.segment else [Part("candidates", "sources"), *source_drops(settings)]
    if of_method != "source":
        for unit in map(generator_unit, settings.generate.models):
            parts += [Part("candidates", "generate", unit), Part("drops", "generate", unit)]
    return parts


def ranks_of(settings: Settings, of_method: str) -> Part:
    return Part("ranks", "rank", method_unit(settings, of_method))


def noise_parts(settings: Settings) -> list[Part]:
    return [] if settings.segment else [Part("candidates", "noise"), Part("drops", "noise")]


def asked(settings: Settings) -> Slice:
    """What stages that make more where the set `unpaired` is asked for have in their slice; nothing where it is not, so that
    recipes without it run nothing again."""
    return {UNPAIRED: True} if settings.sets.unpaired else {}
