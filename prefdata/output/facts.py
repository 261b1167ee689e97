"""What the card says of how a set was made, gathered from tables and their manifests: counts of prompts and answers, splits,
tokens, models with their revisions. Sums over parts: memory does not grow with the set."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from prefdata.models.engines.registry import GeneratorSettings
from prefdata.models.identity import public_name
from prefdata.recipe.job import Job
from prefdata.recipe.settings.data import GenerateSettings
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.units import Part, generator_unit, reference_unit
from prefdata.tables import schema
from prefdata.tables.figures import candidates_of
from prefdata.tables.schema import SPLITS
from prefdata.tables.views import Frames

Facts = dict[str, Any]
NOISE = "noise"
WHOLE_PROMPTS = ("sources", "dedup", "decontaminate")
"""Stages that drop prompts before anything is made of them."""
QUANTILES = (0.05, 0.5, 0.95)


@dataclass
class Contents:
    """What the preference set holds: prompts and candidates by split, candidates by role, answers merged into an equal one,
    tokens; prompts by source and licence, read and in the set, those of online runs too (apart: sources with none in the
    set); and every split's prompts."""

    prompts: Counter[str] = field(default_factory=Counter)
    candidates: Counter[str] = field(default_factory=Counter)
    roles: Counter[str] = field(default_factory=Counter)
    tokens: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    merged: int = 0
    used: Counter[tuple[str, str]] = field(default_factory=Counter)
    read: Counter[tuple[str, str]] = field(default_factory=Counter)
    split: Counter[tuple[str, bool]] = field(default_factory=Counter)

    def add(self, frames: Frames) -> None:
        """Gather one part: `sets`, those of online runs too, prompts, splits, drops."""
        own = of_recipe(frames["sets"]).select("prompt_id", pl.col("split").cast(pl.String), "candidates")
        for (name,), group in own.group_by("split"):
            self.prompts[str(name)] += group.height
            self.candidates[str(name)] += int(group["candidates"].list.len().sum())
        answers = candidates_of(own)
        self.merged += int((answers["copies"] - 1).sum())
        grouped = answers.with_columns(group_of().alias("group"))
        self.roles.update(_times(grouped, "group"))
        self.tokens.update(_tokens(grouped))
        named = frames["prompts"].select("prompt_id", "source", "license")
        self.read.update(_times(named, "source", "license"))
        self.used.update(_times(named.join(frames["sets"], on="prompt_id", how="semi"), "source", "license"))
        self.split.update(_splits(frames))

    def facts(self) -> Facts:
        """Everything as JSON."""
        used, split = self.used, self.split
        listed = [{"source": s, "license": li, "prompts": used[s, li], "read": n} for (s, li), n in sorted(self.read.items())]
        return {
            "prompts": dict(self.prompts),
            "candidates": dict(self.candidates),
            "roles": dict(sorted(self.roles.items())),
            "merged": self.merged,
            "tokens": token_counts(self.tokens),
            "sources": [entry for entry in listed if entry["prompts"]],
            "sources_left_out": [entry for entry in listed if not entry["prompts"]],
            "splits": [
                {"split": s, "prompts": split[s, True] + split[s, False], "by_source": split[s, True]}
                for s in SPLITS
                if split[s, True] + split[s, False]
            ],
        }


def of_recipe(sets: pl.DataFrame) -> pl.DataFrame:
    """The rows of the set that is made once, not of online runs."""
    return sets.filter(pl.col("segment").is_null())


def _times(rows: pl.DataFrame, *columns: str) -> dict[Any, int]:
    """How often each value, or each tuple of values, is there."""
    counted = rows.group_by(*columns).len().iter_rows()
    return {values[0] if len(columns) == 1 else values[:-1]: values[-1] for values in counted}


def group_of() -> pl.Expr:
    """The role of a candidate of a set; noise, whose role is rejected, by itself."""
    return pl.when(pl.col("origin") == NOISE).then(pl.lit(NOISE)).otherwise(pl.col("role").cast(pl.String))


def _splits(frames: Frames) -> dict[tuple[str, bool], int]:
    """Of every prompt that stays before anything is made of it: its split, and whether the source named it."""
    known = frames["splits"].join(frames["prompts"].select("prompt_id", "source_split"), on="prompt_id", how="left")
    alive = schema.alive(known, frames["drops"].filter(pl.col("stage").is_in(WHOLE_PROMPTS)))
    return _times(alive.select(pl.col("split").cast(pl.String), pl.col("source_split").is_not_null()), "split", "source_split")


def _tokens(answers: pl.DataFrame) -> dict[tuple[str, str, int], int]:
    """How many answers of a group have so many tokens under a reference."""
    scored = answers.select("group", "logps").explode("logps").drop_nulls("logps").unnest("logps")
    counted = scored.group_by("reference", "group", "num_tokens").len()
    return {(reference, group, n): count for reference, group, n, count in counted.iter_rows()}


def token_counts(counted: Mapping[tuple[str, str, int], int]) -> list[Facts]:
    """By reference and group of answers: how many answers, their tokens in all, and quantiles (the nearest value below)."""
    found = []
    for reference, group in dict.fromkeys((r, g) for r, g, _ in sorted(counted)):
        lengths = [(n, count) for (r, g, n), count in sorted(counted.items()) if (r, g) == (reference, group)]
        answers = sum(count for _, count in lengths)
        facts = {"reference": reference, "group": group, "answers": answers, "tokens": sum(n * c for n, c in lengths)}
        found.append({**facts, **{f"p{round(q * 100)}": _quantile(lengths, answers, q) for q in QUANTILES}})
    return found


def _quantile(lengths: Sequence[tuple[int, int]], answers: int, q: float) -> int:
    """The least length that at least a share `q` of the answers do not exceed."""
    seen = 0
    for length, count in lengths:
        seen += count
        if seen >= q * answers:
            return length
    raise ValueError("no answers")


def labels(job: Job, part: Part) -> list[Facts]:
    """Desirable and undesirable answers of the set of labelled answers, by split."""
    found: dict[str, Counter[bool]] = {}
    for frames in job.parts(of=[part]):
        for split, candidates in frames["sets"].select(pl.col("split").cast(pl.String), "candidates").iter_rows():
            found.setdefault(split, Counter()).update(c["role"] == "chosen" for c in candidates)
    listed = [(split, found[split]) for split in SPLITS if split in found]
    return [{"split": split, "desirable": n[True], "undesirable": n[False]} for split, n in listed]


def references(job: Job) -> list[Facts]:
    """Who scored the answers: name, model, revision (a commit, or a hash of its files), template, end, dtype."""
    found = []
    for reference in job.settings.score.references:
        (manifest, *_) = job.manifests(Part("logps", "score", reference_unit(reference)))
        known = {"name": reference.name, "model": public_name(reference.model), "revision": manifest["models"][reference.model]}
        found.append({**known, "template": reference.template, "end": reference.end, "dtype": manifest["slice"]["dtype"]})
    return found


def generators(job: Job, wanted: Sequence[Part]) -> list[Facts]:
    """Who answered prompts, of the parts that the set needs (`wanted`)."""
    parts = [(model, Part("candidates", "generate", generator_unit(model))) for model in job.settings.generate.models]
    return [
        _generator(model, job.settings.generate, job.manifests(part)[0]["models"]) for model, part in parts if part in wanted
    ]


def _generator(model: GeneratorSettings, sampling: GenerateSettings, revisions: Mapping[str, str]) -> Facts:
    """Producer as in the tables, model, and how it was sampled. `revisions`: of the models whose files were read."""
    revision = model.made_with(lambda ref, pinned: revisions[ref])
    return {
        "producer": f"{model.name}@{revision}",
        "model": public_name(model.id),
        "revision": revision if model.files() else model.revision,
        "engine": model.engine,
        "draws": model.facts.draws,
        "template": model.template,
        "temperatures": sampling.temperatures,
        "per_temperature": sampling.per_temperature,
        "max_tokens": sampling.max_tokens,
        "splits": sampling.splits,
    }


def of_segments(settings: Settings) -> list[Part]:
    """The sets of online runs."""
    return [Part("sets", "sets", segment.set) for segment in settings.segments]
