"""What a recipe asks for and will not get, or pays for and does not use: said once before the first job."""

from prefdata.recipe.settings.segments import recipe_of
from prefdata.recipe.settings.whole import Settings
from prefdata.sources.pairs import by_pairs, scored_or_paired
from prefdata.sources.shapes import SHAPES

PAIRS = (by_pairs, scored_or_paired)
"""Joins of formats whose rows hold two answers, and often all of their prompt."""


def notices(settings: Settings) -> list[str]:
    """One sentence each; none of them is a mistake that must stop a run."""
    methods = {settings.sets.method, settings.sets.sft_method}
    online = {r.judge[0].name for s in settings.segments for r in [recipe_of(settings, s)]}
    idle = [j.name for j in settings.judge if j.name not in {*methods, settings.evaluate.judge, *online}]
    said = []
    if methods == {"source"} and settings.generate.models and not settings.judge:
        said.append(
            "generate.models is given, but sets.method is source, whose order knows the source's answers only: nothing is "
            "generated; name a judge and set sets.method to it"
        )
    if paid := [n for n in online if n not in {*methods, settings.evaluate.judge} and settings.answered_once]:
        said.append(
            f"the judge {paid[0]} is for online runs, and judges the source's and generate.models' answers too, for its report "
            "alone: read prompts only (prompts_only: true), or set sets.method to it"
        )
    if methods == {"source"} and idle:
        used = ", and what generate.models answers is judged and in no set" if settings.generate.models else ""
        said.append(
            f"the judge {idle[0]} ranks nothing: sets.method is source; its verdicts go to the report alone{used}; "
            f"set sets.method: {idle[0]}, or leave judge out"
        )
    if settings.evaluate.runs and settings.evaluate.split in settings.sets.splits and settings.evaluate.split == "train":
        said.append("evaluate.split is train: the models are evaluated on prompts that they were trained on; set it to test")
    if pairs := [s.name for s in settings.sources.sources if SHAPES[s.format].join in PAIRS and 2 in settings.prune.drop_ranks]:
        said.append(
            f"prune.drop_ranks has 2, which is the rejected answer where the source {pairs[0]} has one pair a prompt; "
            "set prune: {drop_ranks: []}"
        )
    return said
