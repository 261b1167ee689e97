"""SHAPES: how the rows of each kind of source are read; `format` of a source names one."""

from prefdata.sources.rows import Shape
from prefdata.sources.shapes import (
    alpaca_eval,
    arena_hard,
    binarized,
    helpsteer,
    nectar,
    questions,
    transcript_pairs,
    trl,
    ultrafeedback,
)

SHAPES: dict[str, Shape] = {
    "nectar": nectar.SHAPE,
    "ultrafeedback": ultrafeedback.SHAPE,
    "ultrafeedback_binarized": binarized.SHAPE,
    "helpsteer": helpsteer.SHAPE,
    "trl_pairs": trl.PAIRS,
    "trl_unpaired": trl.UNPAIRED,
    "transcript_pairs": transcript_pairs.SHAPE,
    "alpaca_eval": alpaca_eval.SHAPE,
    "arena_hard": arena_hard.SHAPE,
    "questions": questions.SHAPE,
}
COMMON_FIELDS = ("split", "id")
"""Fields of our own that any row may have: its split, and its row id where `fields` maps one."""
