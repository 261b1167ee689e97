"""What a run starts with: the rows of its set, the references' weights, its examples."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from prefdata.draws import hash64
from prefdata.errors import ConfigError, DataError
from prefdata.kinds import SplitName
from prefdata.models.tokens import Encoder
from prefdata.recipe import prompts
from prefdata.recipe.results import Results
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.units import Part, generator_unit, in_segment, reference_unit
from prefdata.tables import content, files
from prefdata.tables.drops import reason_of
from train.examples import Example, examples, labelled_examples, usable
from train.objectives.losses import LOSSES
from train.objectives.negatives import NEGATIVES
from train.objectives.reference_weights import VALIDATION_WEIGHTS, alpha
from train.objectives.registry import Objective
from train.resolve import of_set
from train.settings import SFT, UNPAIRED, TrainingSettings


def read_set(run: Results, settings: TrainingSettings) -> tuple[pl.DataFrame, str]:
    """The rows of the run's set and split, and the hash of their content."""
    frame = split_of(whole_set(run, settings), settings.split)
    if frame.is_empty():
        raise _without_rows(run, settings)
    return frame, content.content_hash(frame)


def _without_rows(run: Results, settings: TrainingSettings) -> DataError:
    """An error that says what was dropped on the way to an empty set."""
    segment = of_set(run.settings, settings.set).segment
    parts = [Part("drops", "sets", settings.set)]
    if segment is not None:  # its own answers were made for it alone
        recipe = of_set(run.settings, settings.set)
        parts += [Part("drops", "generate", in_segment(generator_unit(m), segment)) for m in recipe.generate.models]
        parts += [Part("drops", "score", in_segment(reference_unit(r), segment)) for r in recipe.score.references]
    tables = [path for part in parts for s in run.shards if (path := run.table(part, s)).exists()]
    dropped = sum((Counter(files.manifest(path)["reasons"]) for path in tables), Counter[str]()).most_common(3)
    said = "; ".join(f"{n} {reason}: {reason_of(reason).meaning}" for reason, n in dropped)
    remedies = dict.fromkeys(reason_of(reason).remedy for reason, _ in dropped)
    if segment is not None and (cut := _cut(run, [replace(p, table="candidates") for p in parts if p.stage == "generate"])):
        said += f"; {cut} answers were cut by the length limit"
        remedies = {"raise online.max_tokens": None, **remedies}
    return DataError(
        f"no rows of split {settings.split}" + (f" ({said})" if said else ""),
        f"sets/{settings.set}",
        "; ".join(remedies) or "look at the report's drops",
    )


def _cut(run: Results, candidates: Sequence[Part]) -> int:
    """Answers that the length limit ended, which a judge may have set aside."""
    tables = [files.read_table(run.table(part, s), "candidates") for part in candidates for s in run.shards]
    return sum(t.filter(pl.col("finish") == "length").height for t in tables)


def whole_set(run: Results, settings: TrainingSettings) -> pl.DataFrame:
    """All splits."""
    paths = [run.table(Part("sets", "sets", settings.set), s) for s in run.shards]
    return pl.concat([files.read_table(p, "sets") for p in paths])


def split_of(frame: pl.DataFrame, split: SplitName | None) -> pl.DataFrame:
    return frame if split is None else frame.filter(pl.col("split") == split)


def with_alpha(run: Results, settings: TrainingSettings, recipe: Settings) -> TrainingSettings:
    """The settings with the references' weights filled in where held-out pairs decide them."""
    section = settings.references
    if section.weights not in VALIDATION_WEIGHTS:
        return settings
    names = references_of(recipe, settings)
    found = alpha(whole_set(run, settings), names, settings.negatives.origins, section.weights)
    print(f"train: {section.weights}: {', '.join(f'{n} {a:.3f}' for n, a in zip(names, found, strict=True))}", file=sys.stderr)
    return settings.model_copy(update={"references": section.model_copy(update={"alpha": found})})


def references_of(recipe: Settings, settings: TrainingSettings) -> list[str]:
    """The names of the references that the run's set has log-probs of, the primary one first."""
    return [r.name for r in of_set(recipe, settings.set).score.references]


def steps_of_all_parts(run: Results, settings: TrainingSettings) -> int | None:
    """Optimizer steps of the longer run that this one is a part of, known before its first step: of an online run by the
    prompts of the train split, whatever is dropped of their answers later. None where the run is no part."""
    if settings.part is None:
        return None
    if settings.steps is None:
        return (settings.epochs or 1) * -(-_rows(run, settings) // settings.batch_prompts)
    return settings.steps


def _rows(run: Results, settings: TrainingSettings) -> int:
    if of_set(run.settings, settings.set).segment is not None:
        return prompts.count(run, settings.split or "train")
    return rows_of(split_of(whole_set(run, settings), settings.split), settings)


def rows_of(frame: pl.DataFrame, settings: TrainingSettings) -> int:
    """How many examples a set is meant to give: one a prompt, of labelled answers one an answer."""
    return int(frame["candidates"].list.len().sum()) if settings.set == UNPAIRED else frame.height


def read_examples(
    frame: pl.DataFrame,
    encoder: Encoder,
    recipe: Settings,
    settings: TrainingSettings,
    objective: Objective,
    limit: int,
    left: Counter[str] | None = None,
) -> list[Example]:
    """The usable rows in ids; a row without any rejected candidate is none, but for plain SFT. Of labelled answers
    each is one. `left` counts the others."""
    references = [] if settings.set == SFT else references_of(recipe, settings)
    if settings.set == UNPAIRED:
        return usable(labelled_examples(frame.to_dicts(), encoder, references, left), (), limit, f"sets/{UNPAIRED}", left)
    wanted = NEGATIVES[objective.negatives].pool(settings.negatives.origins)
    data = examples(frame.to_dicts(), encoder, wanted, references, LOSSES[objective.loss].needs, left)
    return usable(data, wanted, limit, f"sets/{settings.set}", left)


def held_out(
    run: Results, encoder: Encoder, recipe: Settings, settings: TrainingSettings, objective: Objective, limit: int
) -> list[Example]:
    """What a run is evaluated on while it trains: at most `evaluation.prompts` of its split, by a draw
    that belongs to the set: runs of other seeds are evaluated on the same."""
    section = settings.evaluation
    frame = split_of(whole_set(run, settings), section.split)
    if frame.is_empty():
        raise ConfigError(
            f"no rows of split {section.split} to evaluate on",
            "train.runs: evaluation.split",
            "name a split that the set has, or leave evaluation.every out",
        )
    data = read_examples(frame, encoder, recipe, settings, objective, limit)
    return sorted(data, key=lambda e: (hash64(None, "evaluation", e.id), e.id))[: section.prompts]
