"""Stages in the segments of online runs: a segment is a recipe of its own, and its stages are the same on units of its own."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import polars as pl

from prefdata.recipe.settings.online import segment_of
from prefdata.recipe.settings.segments import recipe_of
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Slice, Stage
from prefdata.recipe.units import Part, in_segment, split_unit

OF_SEGMENTS = ("generate", "judge", "rank", "score", "sets")
"""Stages that every segment goes through."""
Value = TypeVar("Value")


def of_segment(prompts: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    """The prompts that a recipe is about: its segment's, or all."""
    segment = settings.segment
    if segment is None:
        return prompts
    numbers = [segment_of(i, segment.count, settings.seed) for i in prompts["prompt_id"].to_list()]
    return prompts.filter(pl.Series(numbers, dtype=pl.Int32) == segment.number)


def number_of(settings: Settings) -> int | None:
    """The number of a recipe's segment."""
    return settings.segment.number if settings.segment else None


def segmented(stage: Stage) -> Stage:
    """The stage with the units of all segments: <segment>.<unit of its recipe>."""
    return replace(
        stage,
        units=lambda s: stage.units(s) + [in_segment(u, g) for g in s.segments for u in stage.units(recipe_of(s, g))],
        reads=lambda s, u: [_own(part, s, u) for part in _there(stage.reads)(s, u)],
        slice=lambda s, u: {**_there(stage.slice)(s, u), **_segment(s, u)},
        models=_there(stage.models),
        per_engine=_there(stage.per_engine),
        engine=_there(stage.engine),
    )


def _there(function: Callable[[Settings, str], Value]) -> Callable[[Settings, str], Value]:
    """A function of settings and unit, called with those of the recipe that the unit belongs to."""
    return lambda settings, unit: function(*split_unit(settings, unit))


def _own(part: Part, settings: Settings, unit: str) -> Part:
    """A part as a stage of a segment reads it: of stages that segments go through, the segment's."""
    segment = split_unit(settings, unit)[0].segment
    return replace(part, unit=in_segment(part.unit, segment)) if segment and part.stage in OF_SEGMENTS else part


def _segment(settings: Settings, unit: str) -> Slice:
    segment = split_unit(settings, unit)[0].segment
    return {"segment": [segment.number, segment.count]} if segment else {}
