"""Stage: one step of the pipeline, what it reads, writes and is run again for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.units import (
    Model,
    Part,
)

Slice = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """`function` is module:function. `per` = shard (pure function of frames), engine (starts a model), run (one job)."""

    name: str
    function: str
    help: str
    per: str
    writes: tuple[str, ...] = ()
    units: Callable[[Settings], list[str]] = lambda settings: ["all"]
    reads: Callable[[Settings, str], list[Part]] = lambda settings, unit: []
    slice: Callable[[Settings, str], Slice] = lambda settings, unit: {}
    models: Callable[[Settings, str], list[Model]] = lambda settings, unit: []
