"""Parts of tables that several stages read: the prompts, a ranking's candidates, and what dropped some of them."""

from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.units import Part, generator_unit, method_unit

PROMPTS = [Part("prompts", "sources"), Part("splits", "split")]


def prompt_drops(settings: Settings) -> list[Part]:
    """What dropped whole prompts before anything was made of them."""
    stages = ["sources", *(["dedup"] if settings.dedup else []), *(["decontaminate"] if settings.decontaminate else [])]
    return [Part("drops", stage) for stage in stages]


def source_drops(settings: Settings) -> list[Part]:
    """What dropped prompts and the source's own answers."""
    return [*prompt_drops(settings), Part("drops", "prune")]


def pool(settings: Settings, of_method: str) -> list[Part]:
    """Candidates that a method ranks, and what dropped some of them: the source's own order knows source answers only."""
    parts = [Part("candidates", "sources"), *source_drops(settings)]
    if of_method != "source":
        for unit in map(generator_unit, settings.generate.models):
            parts += [Part("candidates", "generate", unit), Part("drops", "generate", unit)]
    return parts


def ranks_of(settings: Settings, of_method: str) -> Part:
    return Part("ranks", "rank", method_unit(settings, of_method))


def noise_parts(settings: Settings) -> list[Part]:
    return [Part("candidates", "noise"), Part("drops", "noise")]
