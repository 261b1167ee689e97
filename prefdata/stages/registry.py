"""STAGES: one row a stage. The command line and the Snakefile are made from it; nothing else knows the graph of tables.

A stage's `reads` name (table, stage, unit) parts; a stage may read nothing that is not declared here, and the
Snakefile's inputs are these same parts. `units` are what a stage is repeated for: a model, a judge, a reference.
"""

from typing import Any

from prefdata.judging import rubric
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Slice, Stage
from prefdata.recipe.units import (
    PROMPTS,
    Part,
    answers_of_runs,
    evaluated,
    generator,
    generator_unit,
    judge,
    judge_reads,
    judge_report_reads,
    judge_unit,
    local_model,
    method,
    noise_parts,
    policy_beside,
    pool,
    primary_model,
    prompt_drops,
    published_candidates,
    rank_reads,
    rank_units,
    ranks_of,
    reference,
    reference_unit,
    score_models,
    sets_reads,
    source_drops,
    split_reads,
    unit_of,
    win_rate_judge,
)


def _less(section: Any, *keys: str) -> Slice:
    """A section's values less the keys that cannot change its results."""
    return section.model_dump(mode="json", exclude=set(keys))  # type: ignore[no-any-return]


def _sources_slice(settings: Settings, unit: str) -> Slice:
    toy = settings.toy.model_dump() if settings.toy else None
    return {**_less(settings.sources), "toy": toy, "seed": settings.seed}


def _sets_slice(settings: Settings, unit: str) -> Slice:
    if unit == "sft":
        return {**_less(settings.sets, "method", "splits", "origins", "filters"), "seed": settings.seed}
    names = [r.name for r in settings.score.references]
    return {**_less(settings.sets, "sft_method", "sft_splits"), "seed": settings.seed, "references": names}


def _generate_slice(settings: Settings, unit: str) -> Slice:
    own = generator(settings, unit)
    model = {**own.identity(), "name": own.name, "reasoning_end": own.reasoning_end}
    return {**_less(settings.generate, "models", "shards_per_engine", "max_failed"), "model": model, "seed": settings.seed}


def _judge_slice(settings: Settings, unit: str) -> Slice:
    own = judge(settings, unit)
    model = {"model": own.model.identity()} if own.model else {}
    asked: Slice = {"rubric": rubric.load(own.rubric).hash} if own.judge == "pairwise" else {}
    if own.judge == "likelihood":
        asked["dtype"] = settings.score.dtype
    if own.judge == "pairwise" and own.verdicts == "labels" and own.model and own.model.server:
        asked["top_logprobs"] = own.model.server.top_logprobs
    return {**_less(own, "shards_per_engine", "chunk_prompts", "model", "rubric"), **model, **asked, "seed": settings.seed}


def _rank_slice(settings: Settings, unit: str) -> Slice:
    own = None if unit == "source" else judge(settings, unit)
    how = {} if own is None else {"procedure": own.procedure, "truncated": own.truncated, "judge": own.judge}
    return {"method": method(settings, unit), "seed": settings.seed, **how}


def _noise_slice(settings: Settings, unit: str) -> Slice:
    first = settings.score.references[:1]
    tokenizer = [(r.model, r.revision) for r in first]
    whose = {"method": settings.sets.method, "splits": settings.sets.splits}
    return {**_less(settings.noise), "seed": settings.seed, "tokenizer": tokenizer, **whose}


def _score_slice(settings: Settings, unit: str) -> Slice:
    own = _less(settings.score, "references", "shards_per_engine", "policy", "policy_revision")
    policy = policy_beside(settings, unit)
    return {**own, "reference": _less(reference(settings, unit)), "policy": policy, "splits": settings.sets.splits}


_EVERY: tuple[Stage, ...] = (
    Stage(
        "toy",
        "prefdata.stages.toy:run",
        "Make the embedded world: tasks, simulated answers, two tokenizers.",
        per="run",
        slice=lambda s, u: {**_less(s.toy), "seed": s.seed} if s.toy else {},
    ),
    Stage(
        "sources",
        "prefdata.stages.sources:run",
        "Read prompts and answers from files or the Hub into tables.",
        per="run",
        writes=("prompts", "candidates", "drops"),
        slice=_sources_slice,
    ),
    Stage(
        "signatures",
        "prefdata.stages.dedup:signatures",
        "Hash every prompt's words for the search of duplicates.",
        per="shard",
        writes=("signatures",),
        units=lambda s: ["all"] if s.dedup else [],
        reads=lambda s, u: [Part("prompts", "sources")],
        slice=lambda s, u: _less(s.dedup, "threshold", "bands") if s.dedup else {},
    ),
    Stage(
        "dedup",
        "prefdata.stages.dedup:run",
        "Find exact and near-duplicate prompts over all shards; one of each cluster stays.",
        per="run",
        writes=("clusters", "drops"),
        units=lambda s: ["all"] if s.dedup else [],
        reads=lambda s, u: [Part("signatures", "signatures")],
        slice=lambda s, u: {**_less(s.dedup), "sources": [x.revisioned for x in s.sources.sources]} if s.dedup else {},
    ),
    Stage(
        "split",
        "prefdata.stages.split:split",
        "Put every prompt in sft, train, validation or test.",
        per="shard",
        writes=("splits",),
        reads=lambda s, u: split_reads(s),
        slice=lambda s, u: {**_less(s.split), "seed": s.seed},
    ),
    Stage(
        "decontaminate",
        "prefdata.stages.decontaminate:decontaminate",
        "Drop training prompts that repeat an evaluation set.",
        per="shard",
        writes=("drops",),
        units=lambda s: ["all"] if s.decontaminate else [],
        reads=lambda s, u: [*PROMPTS, *(p for p in prompt_drops(s) if p.stage != "decontaminate")],
        slice=lambda s, u: _less(s.decontaminate) if s.decontaminate else {},
    ),
    Stage(
        "prune",
        "prefdata.stages.prune:prune",
        "Drop ranks of the source's own order.",
        per="shard",
        writes=("drops",),
        reads=lambda s, u: [*PROMPTS, Part("candidates", "sources"), *prompt_drops(s)],
        slice=lambda s, u: {**_less(s.prune), "seed": s.seed},
    ),
    Stage(
        "generate",
        "prefdata.stages.generate:run",
        "Sample candidates from a model at several temperatures.",
        per="engine",
        writes=("candidates", "drops"),
        units=lambda s: [generator_unit(m) for m in s.generate.models],
        reads=lambda s, u: [*PROMPTS, *prompt_drops(s)],
        slice=_generate_slice,
        models=lambda s, u: local_model(generator(s, u)),
    ),
    Stage(
        "judge",
        "prefdata.stages.judge:run",
        "Ask a judge which of two candidates is better, in both orders.",
        per="engine",
        writes=("verdicts",),
        units=lambda s: [judge_unit(j) for j in s.judge],
        reads=judge_reads,
        slice=_judge_slice,
        models=lambda s, u: local_model(judge(s, u).model),
    ),
    Stage(
        "judge_report",
        "prefdata.stages.judge_report:run",
        "Say how far a judge can be trusted: consistency, position and length bias, cycles, calls, cost.",
        per="engine",
        units=lambda s: [judge_unit(j) for j in s.judge],
        reads=judge_report_reads,
        slice=lambda s, u: {"judges": [_judge_slice(s, judge_unit(j)) for j in s.judge]},
    ),
    Stage(
        "rank",
        "prefdata.stages.rank:rank",
        "Turn the source's order or a judge's verdicts into ranks.",
        per="shard",
        writes=("ranks",),
        units=rank_units,
        reads=rank_reads,
        slice=_rank_slice,
    ),
    Stage(
        "noise",
        "prefdata.stages.noise:noise",
        "Make token-swap noise of the chosen answers.",
        per="shard",
        writes=("candidates", "drops"),
        reads=lambda s, u: [*PROMPTS, *pool(s, s.sets.method), ranks_of(s, s.sets.method)],
        slice=_noise_slice,
        models=lambda s, u: primary_model(s),
    ),
    Stage(
        "score",
        "prefdata.stages.score:run",
        "Compute every candidate's log-prob under a reference.",
        per="engine",
        writes=("logps", "drops"),
        units=lambda s: [reference_unit(r) for r in s.score.references],
        reads=lambda s, u: [*PROMPTS, *pool(s, s.sets.method), *noise_parts(s)],
        slice=_score_slice,
        models=score_models,
    ),
    Stage(
        "sets",
        "prefdata.stages.sets:make",
        "Join everything into the SFT set and the preference set.",
        per="shard",
        writes=("sets", "drops"),
        units=lambda s: ["sft", "preference"],
        reads=sets_reads,
        slice=_sets_slice,
    ),
    Stage(
        "evaluate",
        "prefdata.stages.evaluate:run",
        "Answer held-out prompts with a trained model and check the answers.",
        per="engine",
        writes=("candidates", "ranks", "logps"),
        units=lambda s: [unit_of(f"run:{r}") for r in s.evaluate.runs],
        reads=lambda s, u: [*PROMPTS, *source_drops(s), Part("sets", "sets", "preference")],
        slice=lambda s, u: {
            **_less(s.evaluate, "runs", "shards_per_engine"),
            "seed": s.seed,
        },
        models=lambda s, u: [(f"run:{evaluated(s, u)}", None)],
    ),
    Stage(
        "win_rate",
        "prefdata.stages.win_rate:run",
        "Let a judge compare trained models' greedy answers with the first one's, in both orders.",
        per="run",
        units=lambda s: ["all"] if s.evaluate.judge else [],
        reads=lambda s, u: [*PROMPTS, *answers_of_runs(s)],
        slice=lambda s, u: {"runs": s.evaluate.runs, "judge": _judge_slice(s, win_rate_judge(s))} if s.evaluate.judge else {},
        models=lambda s, u: local_model(judge(s, win_rate_judge(s)).model) if s.evaluate.judge else [],
    ),
    Stage(
        "report",
        "prefdata.stages.report:run",
        "Gather rows in, out and dropped over all shards.",
        per="run",
        reads=lambda s, u: _data_parts(s),
    ),
    Stage(
        "summary",
        "prefdata.stages.summary:run",
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
        "prefdata.stages.card:run",
        "Write the data set card from computed facts.",
        per="run",
        reads=lambda s, u: [],
        slice=lambda s, u: {**_less(s.card), "references": [_less(r) for r in s.score.references]},
    ),
    Stage(
        "publish",
        "prefdata.stages.publish:run",
        "Write the published configs to a folder and, where repo_id is set, commit them to the Hub.",
        per="run",
        reads=lambda s, u: [Part("sets", "sets", "preference"), *published_candidates(s)],
        slice=lambda s, u: {**_less(s.publish, "attempts"), "origins": s.sets.origins, "seed": s.seed},
    ),
)


def _data_parts(settings: Settings) -> list[Part]:
    from prefdata.stages.graph import data_parts

    return data_parts(settings)


STAGES: dict[str, Stage] = {stage.name: stage for stage in _EVERY}
