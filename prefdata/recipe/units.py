"""What stages read: parts of tables, the units they are made for, and how a unit's folder is called."""

import re
from dataclasses import dataclass
from pathlib import Path

from prefdata.draws import hex_id
from prefdata.models.settings import GeneratorSettings, LanguageModelSettings, ReferenceSettings
from prefdata.recipe.settings.judging import JudgeSettings
from prefdata.recipe.settings.whole import Settings

Model = tuple[str, str | None]
"""A reference to a model and its revision."""


@dataclass(frozen=True)
class Part:
    """The files tables/<table>/<stage>/<unit>/*.parquet."""

    table: str
    stage: str
    unit: str = "all"


def unit_of(name: str, *identity: str | None) -> str:
    """Folder name of a unit: slug + hash, so that no name, however hostile, leaves the results folder."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "unit"
    return f"{slug}-{hex_id(name, *[i or '' for i in identity])[:8]}"


def generator_unit(model: GeneratorSettings) -> str:
    other = [model.engine] if model.engine != "transformers" else []
    return unit_of(model.name, model.model, model.revision, *other)


def local_model(model: LanguageModelSettings | None) -> list[Model]:
    """The model whose files a job reads: of a server's only what this run made, or a folder that is here."""
    if model is None or (model.server is not None and not is_local(model.model)):
        return []
    return [(model.model, model.revision)]


def is_local(model: str) -> bool:
    """Whether a model's content can be looked at: made in this run, or a folder."""
    return model.startswith(("run:", "toy:")) or Path(model).expanduser().is_dir()


def reference_unit(reference: ReferenceSettings) -> str:
    return unit_of(reference.name, reference.model, reference.revision)


def judge_unit(judge: JudgeSettings) -> str:
    model = judge.model
    return unit_of(judge.name, judge.judge, *([model.engine, model.model, model.revision] if model else []))


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


def prompt_drops(settings: Settings) -> list[Part]:
    """What dropped whole prompts before anything was made of them."""
    stages = ["sources", *(["dedup"] if settings.dedup else []), *(["decontaminate"] if settings.decontaminate else [])]
    return [Part("drops", stage) for stage in stages]


def source_drops(settings: Settings) -> list[Part]:
    """What dropped prompts and the source's own answers."""
    return [*prompt_drops(settings), Part("drops", "prune")]


def split_reads(settings: Settings) -> list[Part]:
    """The prompts, and the clusters they are in where duplicates are looked for."""
    if settings.dedup is None:
        return [Part("prompts", "sources"), Part("drops", "sources")]
    return [Part("prompts", "sources"), Part("clusters", "dedup"), Part("drops", "dedup"), Part("drops", "sources")]


def pool(settings: Settings, of_method: str) -> list[Part]:
    """Candidates that a method ranks, and what dropped some of them: the source's own order knows source answers only."""
    parts = [Part("candidates", "sources"), *source_drops(settings)]
    if of_method != "source":
        for unit in map(generator_unit, settings.generate.models):
            parts += [Part("candidates", "generate", unit), Part("drops", "generate", unit)]
    return parts


def ranks_of(settings: Settings, of_method: str) -> Part:
    return Part("ranks", "rank", method_unit(settings, of_method))


def noise_parts(settings: Settings) -> list[Part]:
    return [Part("candidates", "noise"), Part("drops", "noise")]


def judge_reads(settings: Settings, unit: str) -> list[Part]:
    return [*PROMPTS, *pool(settings, judge(settings, unit).name)]


def judge_report_reads(settings: Settings, unit: str) -> list[Part]:
    """The judge's own candidates and verdicts, and the other judges' verdicts, which it is compared with."""
    return [*judge_reads(settings, unit), *(Part("verdicts", "judge", judge_unit(j)) for j in settings.judge)]


def rank_reads(settings: Settings, unit: str) -> list[Part]:
    parts = [*PROMPTS, *pool(settings, method(settings, unit))]
    return parts if unit == "source" else [*parts, Part("verdicts", "judge", unit)]


def sets_reads(settings: Settings, unit: str) -> list[Part]:
    if unit == "sft":
        return [*PROMPTS, *pool(settings, settings.sets.sft_method), ranks_of(settings, settings.sets.sft_method)]
    parts = [*PROMPTS, *pool(settings, settings.sets.method), *noise_parts(settings), ranks_of(settings, settings.sets.method)]
    for reference_ in map(reference_unit, settings.score.references):
        parts += [Part("logps", "score", reference_), Part("drops", "score", reference_)]
    return parts


def rank_units(settings: Settings) -> list[str]:
    return list(dict.fromkeys(method_unit(settings, m) for m in (settings.sets.sft_method, settings.sets.method)))


def answers_of_runs(settings: Settings) -> list[Part]:
    return [Part("candidates", "evaluate", unit_of(f"run:{r}")) for r in settings.evaluate.runs]


def win_rate_judge(settings: Settings) -> str:
    """The unit of the judge that compares trained models."""
    return judge_unit(next(j for j in settings.judge if j.name == settings.evaluate.judge))


def primary_model(settings: Settings) -> list[Model]:
    """The primary reference's model, whose tokenizer is the policy's; empty where there is no reference."""
    return [(r.model, r.revision) for r in settings.score.references[:1]]


def policy_beside(settings: Settings, unit: str) -> list[Model]:
    """The policy that the primary reference's job also checks for length, where it is another model."""
    score, own = settings.score, reference(settings, unit)
    other = score.policy is not None and own == score.references[0] and score.policy != own.model
    return [(str(score.policy), score.policy_revision)] if other else []


def score_models(settings: Settings, unit: str) -> list[Model]:
    own = reference(settings, unit)
    return [(own.model, own.revision), *policy_beside(settings, unit)]


def published_candidates(settings: Settings) -> list[Part]:
    """The candidates that `candidates` publishes, with the splits and every drop, so that no dropped one is."""
    made = [p for p in sets_reads(settings, "preference") if p.table in ("candidates", "drops")]
    return [*PROMPTS, *made, Part("drops", "sets", "preference")]
