"""STAGES: the pipeline, in order. The rows stand beside the code; the command line and the Snakefile are made from them."""

from prefdata.recipe.stage import Stage
from prefdata.stages import (
    card,
    decontaminate,
    dedup,
    evaluate,
    generate,
    judge,
    judge_report,
    noise,
    prune,
    publish,
    rank,
    report,
    score,
    sets,
    signatures,
    sources,
    split,
    summary,
    toy,
    win_rate,
)

_ORDER = (
    toy,
    sources,
    signatures,
    dedup,
    split,
    decontaminate,
    prune,
    generate,
    judge,
    judge_report,
    rank,
    noise,
    score,
    sets,
    evaluate,
    win_rate,
    report,
    summary,
    card,
    publish,
)
STAGES: dict[str, Stage] = {module.STAGE.name: module.STAGE for module in _ORDER}
