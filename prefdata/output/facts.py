"""What the card says of how a set was made, gathered from tables and their manifests: counts of prompts and answers, splits,
tokens, models with their revisions. Sums over parts: memory does not grow with the set."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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

Facts = dict[str, Any]
NOISE = "noise"
WHOLE_PROMPTS = ("sources", "dedup", "decontaminate")
"""Stages that drop prompts before anything is made of them."""
QUANTILES = (0.05, 0.5, 0.95)


def contents(job: Job, parts: Sequence[Part]) -> Facts:
    """What the preference set holds: prompts and candidates by split, candidates by role, answers merged into an equal one,
    tokens; prompts by source and licence, read and in the set, those of online runs too (apart: sources with none in the
    set); and every split's prompts."""
    prompts, candidates, roles = Counter[str](), Counter[str](), Counter[str]()
    used, read, split = Counter[tuple[str, str]](), Counter[tuple[str, str]](), Counter[tuple[str, bool]]()
    tokens, merged = Counter[tuple[str, str, int]](), 0
    for frames in job.parts(of=parts):
        rows = frames["sets"].select("prompt_id", pl.col("split").cast(pl.String), "segment", "candidates")
        own = rows.filter(pl.col("segment").is_null())
        for (name,), group in own.group_by("split"):
            prompts[str(name)] += group.height
            candidates[str(name)] += int(group["candidates"].list.len().sum())
        answers = candidates_of(own)
        merged += int((answers["copies"] - 1).sum())
        grouped = answers.with_columns(group_of().alias("group"))
        roles.update(dict(grouped.group_by("group").len().iter_rows()))
        tokens.update(_tokens(grouped))
        read.update(frames["prompts"].select("source", "license").iter_rows())
        used.update(frames["prompts"].join(rows, on="prompt_id", how="semi").select("source", "license").iter_rows())
        split.update(_splits(frames))
    listed = [{"source": s, "license": li, "prompts": used[s, li], "read": n} for (s, li), n in sorted(read.items())]
    return {
        "prompts": dict(prompts),
        "candidates": dict(candidates),
        "roles": dict(sorted(roles.items())),
        "merged": merged,
        "tokens": token_counts(tokens),
        "sources": [entry for entry in listed if entry["prompts"]],
        "sources_left_out": [entry for entry in listed if not entry["prompts"]],
        "splits": [
            {"split": s, "prompts": split[s, True] + split[s, False], "by_source": split[s, True]}
            for s in SPLITS
            if split[s, True] + split[s, False]
        ],
    }


def group_of() -> pl.Expr:
    """The role of a candidate of a set; noise, whose role is rejected, by itself."""
    return pl.when(pl.col("origin") == NOISE).then(pl.lit(NOISE)).otherwise(pl.col("role").cast(pl.String))


def _splits(frames: Mapping[str, pl.DataFrame]) -> Iterable[tuple[str, bool]]:
    """Of every prompt that stays before anything is made of it: its split, and whether the source named it."""
    known = frames["splits"].join(frames["prompts"].select("prompt_id", "source_split"), on="prompt_id", how="left")
    alive = schema.alive(known, frames["drops"].filter(pl.col("stage").is_in(WHOLE_PROMPTS)))
    return alive.select(pl.col("split").cast(pl.String), pl.col("source_split").is_not_null()).iter_rows()


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
