"""Units: what a stage is repeated for (a model, a judge, a reference, a method), their folders, and parts of tables."""

import re
from dataclasses import dataclass

from prefdata.draws import hex_id
from prefdata.models.engines.registry import GeneratorSettings
from prefdata.models.settings import ReferenceSettings
from prefdata.recipe.settings.judging import JudgeSettings
from prefdata.recipe.settings.online import Segment
from prefdata.recipe.settings.segments import recipe_of
from prefdata.recipe.settings.whole import Settings


@dataclass(frozen=True)
class Part:
    """The files tables/<table>/<stage>/<unit>/*.parquet."""

    table: str
    stage: str
    unit: str = "all"


def in_segment(unit: str, segment: Segment) -> str:
    """The unit of a stage in a segment of an online run."""
    return f"{segment.name}.{unit}"


def split_unit(settings: Settings, unit: str) -> tuple[Settings, str]:
    """The recipe that a unit belongs to, the whole one or that of a segment, and how the unit is called there."""
    name, inside, own = unit.partition(".")
    found = next((s for s in settings.segments if s.name == name), None) if inside else None
    return (recipe_of(settings, found), own) if found else (settings, unit)


def unit_of(name: str, *identity: str | None) -> str:
    """Folder name of a unit: slug + hash, so that no name, however hostile, leaves the results folder."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "unit"
    return f"{slug}-{hex_id(name, *[i or '' for i in identity])[:8]}"


def generator_unit(model: GeneratorSettings) -> str:
    other = [model.engine] if model.engine != "transformers" else []
    return unit_of(model.name, model.id, model.revision, *other)


def reference_unit(reference: ReferenceSettings) -> str:
    return unit_of(reference.name, reference.model, reference.revision)


def judge_unit(judge: JudgeSettings) -> str:
    model = judge.model
    return unit_of(judge.name, judge.kind, *([model.engine, model.id, model.revision] if model else []))


def evaluation_unit(run: str) -> str:
    """Of a training run <objective>/<variant>."""
    return unit_of(f"run:{run}")


def method_unit(settings: Settings, method: str) -> str:
    """Of a ranking: "source", or that of the judge with this name."""
    judge = {j.name: j for j in settings.judge}.get(method)
    return judge_unit(judge) if judge else "source"


def generator(settings: Settings, unit: str) -> GeneratorSettings:
    return {generator_unit(m): m for m in settings.generate.models}[unit]


def reference(settings: Settings, unit: str) -> ReferenceSettings:
    return {reference_unit(r): r for r in settings.score.references}[unit]


def judge_settings(settings: Settings, unit: str) -> JudgeSettings:
    return {judge_unit(j): j for j in settings.judge}[unit]


def evaluated(settings: Settings, unit: str) -> str:
    """The training run that an evaluation unit is about."""
    return {evaluation_unit(r): r for r in settings.evaluated}[unit]


def method(settings: Settings, unit: str) -> str:
    """The method's name of a rank unit."""
    return "source" if unit == "source" else judge_settings(settings, unit).name
