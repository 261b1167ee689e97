"""Stage: one step of the pipeline. What it does, what it may read, what it writes, and what makes it run again.

A stage's row stands beside its code in prefdata/stages/; the command line, the Snakefile and the report are made from the
rows. A job sees no file that its row does not declare.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from prefdata.models.engines.registry import LanguageModelSettings
from prefdata.models.identity import Model
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.units import Part

if TYPE_CHECKING:
    from prefdata.recipe.job import Job

Slice = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """`run` is called with a job. Every function takes the settings and a unit: a model, a judge, a reference, or "all".

    `per`: how many shards a job takes. shards = a group of them (`shards_per_job`), engine = as many as one start of a model
    (`per_engine`), run = all: a stage that gathers.
    """

    name: str
    help: str
    version: int
    """Raised when the rows that the stage makes change: finished jobs then run again."""
    run: Callable[["Job"], None]
    per: Literal["shards", "engine", "run"] = "shards"
    foretell: Callable[["Job"], None] | None = None
    """Says what `run` would change outside the results folder, and changes nothing there; None: it changes nothing there."""
    writes: tuple[str, ...] = ()
    """Tables: tables/<table>/<stage>/<unit>/<shard>.parquet."""
    units: Callable[[Settings], list[str]] = lambda settings: ["all"]
    reads: Callable[[Settings, str], list[Part]] = lambda settings, unit: []
    """Tables of other stages, the leading one (whose prompts are gone through) first."""
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Of a table only these, prompt_id among them; of one that is not named, all. What is not read costs nothing."""
    slice: Callable[[Settings, str], Slice] = lambda settings, unit: {}
    """The settings that can change the results: another value runs the stage again."""
    models: Callable[[Settings, str], list[Model]] = lambda settings, unit: []
    reads_files: Callable[[Settings, str], Sequence[str]] = lambda settings, unit: ()
    """Files of the results folder, by their path in it."""
    writes_files: Callable[[Settings, str], Sequence[str]] = lambda settings, unit: ()
    folders: Callable[[Settings], Sequence[str]] = lambda s: ()
    """Folders of the results folder that are the stage's own."""
    reads_outside: Callable[[Settings, str], Sequence[Path]] = lambda settings, unit: ()
    """Files of the user."""
    per_engine: Callable[[Settings, str], int | None] = lambda settings, unit: None
    """Shards of one start of a model; None: all."""
    engine: Callable[[Settings, str], LanguageModelSettings | None] = lambda settings, unit: None
    """The model that a job runs by an engine."""
    gpus: int = 0
    """Devices of a job that runs a model of its own, beside an engine or without one."""

    def devices(self, settings: Settings, unit: str) -> int:
        """Devices that a job needs: none where no model is run here."""
        model = self.engine(settings, unit)
        return self.gpus if model is None else max(self.gpus, model.facts.gpus(model))

    def group_size(self, settings: Settings, unit: str) -> int:
        """Shards of a job."""
        if self.per == "shards":
            return settings.shards_per_job
        return (self.per_engine(settings, unit) if self.per == "engine" else None) or settings.num_shards


def without(section: BaseModel, *keys: str) -> Slice:
    """A section's values less the keys that cannot change its results."""
    return section.model_dump(mode="json", exclude=set(keys))


def shares(model: LanguageModelSettings, settings: Settings) -> int:
    """Shards of one job where each copy of a model takes its share."""
    return -(-settings.num_shards // model.facts.copies(model))
