"""Parts of tables that several stages read: a ranking's candidates, and what dropped some of them."""

from prefdata.recipe.prompts import prompt_drops
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.units import Part, generator_unit, method_unit


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
