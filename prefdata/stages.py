"""STAGES: one row a stage. The command line and the Snakefile are made from it; nothing else knows the graph of tables.

A stage's `reads` name (table, stage, unit) parts; a stage may read nothing that is not declared here, and the
Snakefile's inputs are these same parts. `units` are what a stage is repeated for: a model, a judge, a reference.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prefdata.draws import hex_id
from prefdata.settings import GeneratorSettings, JudgeSettings, ReferenceSettings, Settings


@dataclass(frozen=True)
class Part:
    """The files tables/<table>/<stage>/<unit>/*.parquet."""

    table: str
    stage: str
    unit: str = "all"


Slice = dict[str, Any]
Model = tuple[str, str | None]
"""A reference to a model and its revision."""


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


def unit_of(name: str, *identity: str | None) -> str:
    """Folder name of a unit: slug + hash, so that no name, however hostile, leaves the results folder."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "unit"
    return f"{slug}-{hex_id(name, *[i or '' for i in identity])[:8]}"


def generator_unit(model: GeneratorSettings) -> str:
    return unit_of(model.name, model.model, model.revision)


def reference_unit(reference: ReferenceSettings) -> str:
    return unit_of(reference.name, reference.model, reference.revision)


def judge_unit(judge: JudgeSettings) -> str:
    return unit_of(judge.name, judge.judge)


def method_unit(settings: Settings, method: str) -> str:
    judge = {j.name: j for j in settings.judge}.get(method)
    return judge_unit(judge) if judge else "source"


def generator(settings: Settings, unit: str) -> GeneratorSettings:
    return {generator_unit(m): m for m in settings.generate.models}[unit]


def reference(settings: Settings, unit: str) -> ReferenceSettings:
    return {reference_unit(r): r for r in settings.score.references}[unit]


def judge(settings: Settings, unit: str) -> JudgeSettings:
    return {judge_unit(j): j for j in settings.judge}[unit]


def evaluated(settings: Settings, unit: str) -> str:
    """The run (<objective>/<variant>) that an evaluation unit is about."""
    return {unit_of(f"run:{r}"): r for r in settings.evaluate.runs}[unit]


def method(settings: Settings, unit: str) -> str:
    """The method's name of a rank unit."""
    return "source" if unit == "source" else judge(settings, unit).name


# ---- parts that several stages read ----

PROMPTS = [Part("prompts", "sources"), Part("splits", "split")]
SOURCE_DROPS = [Part("drops", stage) for stage in ("sources", "split", "prune")]


def pool(settings: Settings, of_method: str) -> list[Part]:
    """Candidates that a method ranks, and what dropped some of them: the source's own order knows source answers only."""
    parts = [Part("candidates", "sources"), *SOURCE_DROPS]
    if of_method != "source":
        for unit in map(generator_unit, settings.generate.models):
            parts += [Part("candidates", "generate", unit), Part("drops", "generate", unit)]
    return parts


def _ranks(settings: Settings, of_method: str) -> Part:
    return Part("ranks", "rank", method_unit(settings, of_method))


def _noise(settings: Settings) -> list[Part]:
    return [Part("candidates", "noise"), Part("drops", "noise")]


def _judge_reads(settings: Settings, unit: str) -> list[Part]:
    return [*PROMPTS, *pool(settings, judge(settings, unit).name)]


def _rank_reads(settings: Settings, unit: str) -> list[Part]:
    parts = [*PROMPTS, *pool(settings, method(settings, unit))]
    return parts if unit == "source" else [*parts, Part("verdicts", "judge", unit)]


def _sets_reads(settings: Settings, unit: str) -> list[Part]:
    if unit == "sft":
        return [*PROMPTS, *pool(settings, settings.sets.sft_method), _ranks(settings, settings.sets.sft_method)]
    parts = [*PROMPTS, *pool(settings, settings.sets.method), *_noise(settings), _ranks(settings, settings.sets.method)]
    for reference_ in map(reference_unit, settings.score.references):
        parts += [Part("logps", "score", reference_), Part("drops", "score", reference_)]
    return parts


def _rank_units(settings: Settings) -> list[str]:
    return list(dict.fromkeys(method_unit(settings, m) for m in (settings.sets.sft_method, settings.sets.method)))


def primary_model(settings: Settings) -> list[Model]:
    """The primary reference's model, whose tokenizer is the policy's; empty where there is no reference."""
    return [(r.model, r.revision) for r in settings.score.references[:1]]


def policy_beside(settings: Settings, unit: str) -> list[Model]:
    """The policy that the primary reference's job also checks for length, where it is another model."""
    score, own = settings.score, reference(settings, unit)
    other = score.policy is not None and own == score.references[0] and score.policy != own.model
    return [(str(score.policy), score.policy_revision)] if other else []


def _score_models(settings: Settings, unit: str) -> list[Model]:
    own = reference(settings, unit)
    return [(own.model, own.revision), *policy_beside(settings, unit)]


def _less(section: Any, *keys: str) -> Slice:
    """A section's values less the keys that cannot change its results."""
    return section.model_dump(mode="json", exclude=set(keys))  # type: ignore[no-any-return]


def _sources_slice(settings: Settings, unit: str) -> Slice:
    toy = settings.toy.model_dump() if settings.toy else None
    return {**_less(settings.sources), "toy": toy, "seed": settings.seed}


def _sets_slice(settings: Settings, unit: str) -> Slice:
    if unit == "sft":
        return {**_less(settings.sets, "method", "splits", "origins"), "seed": settings.seed}
    names = [r.name for r in settings.score.references]
    return {**_less(settings.sets, "sft_method", "sft_splits"), "seed": settings.seed, "references": names}


def _noise_slice(settings: Settings, unit: str) -> Slice:
    first = settings.score.references[:1]
    tokenizer = [(r.model, r.revision) for r in first]
    return {**_less(settings.noise), "seed": settings.seed, "tokenizer": tokenizer, "method": settings.sets.method}


def _score_slice(settings: Settings, unit: str) -> Slice:
    own = _less(settings.score, "references", "shards_per_engine", "policy", "policy_revision")
    policy = policy_beside(settings, unit)
    return {**own, "reference": _less(reference(settings, unit)), "policy": policy, "splits": settings.sets.splits}


_EVERY: tuple[Stage, ...] = (
    Stage(
        "toy",
        "prefdata.toy.make:run",
        "Make the embedded world: tasks, simulated answers, two tokenizers.",
        per="run",
        slice=lambda s, u: {**_less(s.toy), "seed": s.seed} if s.toy else {},
    ),
    Stage(
        "sources",
        "prefdata.sources:run",
        "Read prompts and answers from files or the Hub into tables.",
        per="run",
        writes=("prompts", "candidates", "drops"),
        slice=_sources_slice,
    ),
    Stage(
        "split",
        "prefdata.split:split",
        "Put every prompt in sft, train, validation or test.",
        per="shard",
        writes=("splits", "drops"),
        reads=lambda s, u: [Part("prompts", "sources")],
        slice=lambda s, u: {**_less(s.split), "seed": s.seed},
    ),
    Stage(
        "prune",
        "prefdata.prune:prune",
        "Drop ranks of the source's own order.",
        per="shard",
        writes=("drops",),
        reads=lambda s, u: [*PROMPTS, Part("candidates", "sources"), Part("drops", "sources")],
        slice=lambda s, u: {**_less(s.prune), "seed": s.seed},
    ),
    Stage(
        "generate",
        "prefdata.generate:run",
        "Sample candidates from a model at several temperatures.",
        per="engine",
        writes=("candidates", "drops"),
        units=lambda s: [generator_unit(m) for m in s.generate.models],
        reads=lambda s, u: [*PROMPTS, Part("drops", "sources"), Part("drops", "split")],
        slice=lambda s, u: {
            **_less(s.generate, "models", "shards_per_engine"),
            "model": _less(generator(s, u)),
            "seed": s.seed,
        },
        models=lambda s, u: [(generator(s, u).model, generator(s, u).revision)],
    ),
    Stage(
        "judge",
        "prefdata.judge:run",
        "Ask a judge which of two candidates is better, in both orders.",
        per="engine",
        writes=("verdicts",),
        units=lambda s: [judge_unit(j) for j in s.judge],
        reads=_judge_reads,
        slice=lambda s, u: {**_less(judge(s, u), "shards_per_engine"), "seed": s.seed},
    ),
    Stage(
        "rank",
        "prefdata.rank:rank",
        "Turn the source's order or a judge's verdicts into ranks.",
        per="shard",
        writes=("ranks",),
        units=_rank_units,
        reads=_rank_reads,
        slice=lambda s, u: {"method": method(s, u), "seed": s.seed},
    ),
    Stage(
        "noise",
        "prefdata.noise:noise",
        "Make token-swap noise of the chosen answers.",
        per="shard",
        writes=("candidates", "drops"),
        reads=lambda s, u: [*PROMPTS, *pool(s, s.sets.method), _ranks(s, s.sets.method)],
        slice=_noise_slice,
        models=lambda s, u: primary_model(s),
    ),
    Stage(
        "score",
        "prefdata.score:run",
        "Compute every candidate's log-prob under a reference.",
        per="engine",
        writes=("logps", "drops"),
        units=lambda s: [reference_unit(r) for r in s.score.references],
        reads=lambda s, u: [*PROMPTS, *pool(s, s.sets.method), *_noise(s)],
        slice=_score_slice,
        models=_score_models,
    ),
    Stage(
        "sets",
        "prefdata.sets:make",
        "Join everything into the SFT set and the preference set.",
        per="shard",
        writes=("sets", "drops"),
        units=lambda s: ["sft", "preference"],
        reads=_sets_reads,
        slice=_sets_slice,
    ),
    Stage(
        "evaluate",
        "prefdata.evaluate:run",
        "Answer held-out prompts with a trained model and check the answers.",
        per="engine",
        writes=("candidates", "ranks", "logps"),
        units=lambda s: [unit_of(f"run:{r}") for r in s.evaluate.runs],
        reads=lambda s, u: [*PROMPTS, *SOURCE_DROPS, Part("sets", "sets", "preference")],
        slice=lambda s, u: {
            **_less(s.evaluate, "runs", "shards_per_engine"),
            "seed": s.seed,
        },
        models=lambda s, u: [(f"run:{evaluated(s, u)}", None)],
    ),
    Stage(
        "report",
        "prefdata.report:run",
        "Gather rows in, out and dropped over all shards.",
        per="run",
        reads=lambda s, u: data_parts(s),
    ),
    Stage(
        "summary",
        "prefdata.summary:run",
        "Print rows in, out and dropped per stage and what the trained models do on held-out prompts.",
        per="run",
        reads=lambda s, u: (
            [Part(t, "evaluate", unit_of(f"run:{r}")) for r in s.evaluate.runs for t in ("candidates", "ranks", "logps")]
            + [Part("sets", "sets", "preference")]
        ),
        slice=lambda s, u: {"split": s.evaluate.split, "origins": s.sets.origins, "runs": s.evaluate.runs},
    ),
    Stage(
        "card",
        "prefdata.card:run",
        "Write the data set card from computed facts.",
        per="run",
        reads=lambda s, u: [],
        slice=lambda s, u: {**_less(s.card), "references": [_less(r) for r in s.score.references]},
    ),
    Stage(
        "publish",
        "prefdata.publish:run",
        "Write the published configs to a folder and, where repo_id is set, commit them to the Hub.",
        per="run",
        reads=lambda s, u: [Part("sets", "sets", "preference"), *published_candidates(s)],
        slice=lambda s, u: {**_less(s.publish, "attempts"), "origins": s.sets.origins, "seed": s.seed},
    ),
)
STAGES: dict[str, Stage] = {stage.name: stage for stage in _EVERY}


def published_candidates(settings: Settings) -> list[Part]:
    """The candidates that `candidates` publishes, with the splits and every drop, so that no dropped one is."""
    made = [p for p in _sets_reads(settings, "preference") if p.table in ("candidates", "drops")]
    return [*PROMPTS, *made, Part("drops", "sets", "preference")]


def data_parts(settings: Settings) -> list[Part]:
    """Every table file of the data side that the configured sets need, for the report."""
    parts: list[Part] = [Part(t, "sources") for t in ("prompts", "candidates", "drops")]
    for name in ("split", "prune", "generate", "judge", "rank", "noise", "score", "sets"):
        stage = STAGES[name]
        for unit in needed_units(settings, name):
            parts += [Part(table, name, unit) for table in stage.writes]
    return parts


def needed_units(settings: Settings, name: str) -> list[str]:
    """The units of a stage that the preference set needs (the source's own order needs no generation or judge)."""
    stage = STAGES[name]
    judged = settings.sets.method != "source"
    if name == "generate":
        return stage.units(settings) if judged else []
    if name == "judge":
        return [u for u in stage.units(settings) if u in _rank_units(settings)]
    return stage.units(settings)
