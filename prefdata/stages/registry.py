"""STAGES: the pipeline, in order. The rows stand beside the code; the command line and the Snakefile are made from them."""

from prefdata.recipe.stage import Stage
from prefdata.stages import (
    card,
    curves,
    decontaminate,
    dedup,
    evaluate,
    generate,
    harness,
    judge,
    judge_report,
    noise,
    online,
    page,
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
from prefdata.stages.segmented import OF_SEGMENTS, segmented

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
    online,
    curves,
    evaluate,
    win_rate,
    harness,
    report,
    summary,
    card,
    page,
    publish,
)
_ROWS = [module.STAGE for module in _ORDER]
STAGES: dict[str, Stage] = {row.name: segmented(row) if row.name in OF_SEGMENTS else row for row in _ROWS}
