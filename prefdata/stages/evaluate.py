"""Stage `evaluate`: greedy and sampled answers of a trained model on held-out prompts, checked by the verifier, the log-probs
of each held-out pair under it, and those of its samples under it and the primary reference.

Writes candidates (temperature 0 = greedy), ranks (score = the verifier's, method exact) and logps (reference = the
run, or the primary reference's name) of its own; no reader of the data side sees them. Random numbers are keyed by prompt and
sample alone, so that two models differ by what they are: equal ones give equal answers.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import polars as pl

from prefdata.draws import item_key
from prefdata.judging import exact
from prefdata.models.engines.protocol import Engine, Request
from prefdata.models.engines.registry import LanguageModelSettings, Start, started
from prefdata.models.identity import RECEIPT, Model, revision_of
from prefdata.models.loading import release
from prefdata.models.scorer import Item, Scorer
from prefdata.models.settings import ReferenceSettings
from prefdata.recipe import fill
from prefdata.recipe.job import Job
from prefdata.recipe.prompts import PROMPTS
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Slice, Stage, shares, without
from prefdata.recipe.units import Part, evaluated, evaluation_unit
from prefdata.stages import generate
from prefdata.stages.graph import source_drops
from prefdata.tables import schema, views
from prefdata.tables.finished import ChunkStore, Value
from prefdata.tables.views import Frames, fixed_pair

VERSION = 4
DRAWS = "evaluate"
"""What keys the draws, in the place of the model's name."""
KEYS = ("split", "samples", "temperature", "max_tokens", "chunk_prompts")
"""Of the section: what can change the results; the engine counts by what it is."""
DTYPE = "float32"
"""Of the log-probs: of the run and of the reference alike, so that what differs is the models."""


def run(job: Job) -> None:
    """Answer, verify, score the held-out pairs, write."""
    name, settings = evaluated(job.settings, job.unit), job.settings.evaluate
    path = job.model_path(f"run:{name}")
    producer = f"{name}@{revision_of(path, None)}"
    own = encoding(job, path)
    model = model_of(job.settings, job.unit).model_copy(update={"template": own.template, "end": own.end})
    scorers = [Scored(name, producer, Scorer(path, own, DTYPE, job.settings.score.batch_tokens)), *_reference(job)]
    other = [] if model.facts.draws_by_key else [json.dumps(model.identity(), sort_keys=True)]
    common = (producer, job.settings.seed, own.template, own.end, settings.max_tokens)

    def answers(frames: Frames) -> dict[str, Request]:
        seed = None if model.facts.draws_by_key else (job.settings.seed, DRAWS)
        return answers_wanted(frames, job, (*common, *other), seed)

    def pairs(frames: Frames) -> dict[str, Item]:
        return held_out(frames, job, common)

    with job.store() as store:
        fill_store = partial(fill.fill, job, store, settings.chunk_prompts, [settings.split])

        def samples(frames: Frames, by: Scored) -> dict[str, Item]:
            return sampled(frames, answers(frames), store, producer, job.settings.seed, by)

        with ExitStack() as stack:
            log = job.server_log("evaluate", job.unit)
            start = Start(model, path, DRAWS, job.settings.seed, log, store.total("cost"), store.total("num_tokens") > 0)
            engine = cache(lambda: stack.enter_context(started(start)))
            fill_store(answers, _answered(engine, model.facts.draws_by_key))
            engine.cache_clear()
        release()  # the forward may need the device's memory
        fill_store(pairs, fill.whole(scorers[0].scorer.values))
        for by in scorers if len(scorers) > 1 else ():
            fill_store(partial(samples, by=by), fill.whole(by.scorer.values))
            by.scorer.unload()  # one model at a time

        def made(frames: Frames) -> Frames:
            scored = {by.name: samples(frames, by) for by in scorers} if len(scorers) > 1 else {}
            of_pairs = logps(pairs(frames), store, name)
            of_samples = [row for by, items in scored.items() for row in logps(items, store, by)]
            return rows(frames, answers(frames), store, producer, job.settings.seed, [*of_pairs, *of_samples])

        fill.write(job, made)


@dataclass(frozen=True)
class Scored:
    """A model under which samples are scored: its name in the table, what its files are, what computes."""

    name: str
    made_with: str
    scorer: Scorer


def compared_with(settings: Settings) -> list[ReferenceSettings]:
    """The primary reference, where there is one and KL is asked for."""
    return settings.score.references[:1] if settings.evaluate.kl else []


def _reference(job: Job) -> list[Scored]:
    """The primary reference, where there is one."""
    return [
        Scored(
            own.name,
            job.revision(own.model, own.revision),
            Scorer(job.model_path(own.model), own, DTYPE, job.settings.score.batch_tokens),
        )
        for own in compared_with(job.settings)
    ]


def _answered(engine: Callable[[], Engine], together: bool) -> Callable[[dict[str, Request]], Iterator[dict[str, Value]]]:
    """Answers of a chunk together where batches are made again alike, else each as it comes."""
    if together:
        return fill.whole(lambda some: generate.complete(engine(), some))
    return lambda wanted: generate.as_they_finish(engine(), wanted)


def model_of(settings: Settings, unit: str) -> LanguageModelSettings:
    """The model and the engine that answers for it."""
    section = settings.evaluate
    return LanguageModelSettings(id=f"run:{evaluated(settings, unit)}", vllm=section.vllm, server=section.server)


def encoding(job: Job, path: str) -> ReferenceSettings:
    """How the model's prompts are rendered: as in its own training, which its receipt records."""
    trained = json.loads((Path(path) / RECEIPT).read_text(encoding="utf-8"))["settings"]
    return ReferenceSettings(name="policy", model=path, template=trained["template"], end=trained["end"])


def answers_wanted(
    frames: Frames, job: Job, common: tuple[Any, ...], seed: tuple[int, str] | None = None
) -> dict[str, Request]:
    """A greedy request (sample 0) and `samples` sampled ones for every held-out prompt. seed: (seed, producer) of engines that
    take a seed a request."""
    settings = job.settings.evaluate
    sampling = [(0.0, 0), *((settings.temperature, s) for s in range(1, settings.samples + 1))]
    prompts = views.prompts_of(frames, [settings.split])
    requests = generate.requests(prompts, sampling, settings.max_tokens)
    if seed is not None:
        requests = [replace(r, seed=generate.seed_of(*seed, r)) for r in requests]
    return generate.keyed(requests, ("evaluate", VERSION, *common))


def held_out(frames: Frames, job: Job, common: tuple[Any, ...]) -> dict[str, Item]:
    """The chosen and the fixed rejected candidate of every held-out row of the preference set."""
    work: dict[str, Item] = {}
    prompts = {r["prompt_id"]: r for r in frames["prompts"].to_dicts()}
    for row in frames["sets"].filter(pl.col("split") == job.settings.evaluate.split).to_dicts():
        pair = fixed_pair(row["candidates"], job.settings.sets.origins)
        for place in pair or ():
            candidate = row["candidates"][place]
            key = item_key("evaluate", VERSION, *common, row["prompt_id"], candidate["candidate_id"])
            work[key] = Item(prompts[row["prompt_id"]], candidate)
    return work


def sampled(
    frames: Frames, wanted: Mapping[str, Request], store: ChunkStore, producer: str, seed: int, by: Scored
) -> dict[str, Item]:
    """The model's sampled answers, to be scored by `by`; greedy ones are no sample of its distribution."""
    prompts = {r["prompt_id"]: r for r in frames["prompts"].to_dicts()}
    work: dict[str, Item] = {}
    for key, value in store.get([k for k, r in wanted.items() if r.temperature > 0]).items():
        if value["finish"] != "error":
            made = generate.candidate(wanted[key], value, producer, seed)
            own = by.scorer.settings
            under = (by.made_with, own.template, own.end, own.max_tokens)
            work[item_key("sample", key, *under)] = Item(prompts[made["prompt_id"]], made)
    return work


def logps(items: Mapping[str, Item], store: ChunkStore, name: str) -> list[dict[str, Any]]:
    """Rows of what could be scored, under the name of the model."""
    values = store.get(list(items))
    return [
        {"prompt_id": i.prompt["prompt_id"], "candidate_id": i.candidate["candidate_id"], "reference": name, **values[key]}
        for key, i in items.items()
        if "logp" in values[key]
    ]


def rows(
    frames: Frames,
    wanted: Mapping[str, Request],
    store: ChunkStore,
    producer: str,
    seed: int,
    scored: Sequence[dict[str, Any]],
) -> Frames:
    """Tables of one part. `scored`: rows of logps."""
    values = store.get(list(wanted))
    candidates, ranks = [], []
    tasks = {i: (m[-1]["content"], a) for i, m, a in frames["prompts"].select("prompt_id", "messages", "answer").iter_rows()}
    for key, request in wanted.items():
        value = values[key]
        if value["finish"] != "error":
            candidates.append(generate.candidate(request, value, producer, seed))
            ids = {k: candidates[-1][k] for k in ("prompt_id", "candidate_id")}
            ranks.append({**ids, "score": exact.score(*tasks[request.id], value["text"])})
    ranked = pl.DataFrame(ranks, schema={"prompt_id": pl.String, "candidate_id": pl.String, "score": pl.Float64})
    return {
        "candidates": schema.frame("candidates", candidates),
        "ranks": ranked.with_columns(
            pl.lit("exact").alias("method"),
            pl.col("score").fill_null(0).rank("dense", descending=True).over("prompt_id").cast(pl.Int32).alias("rank"),
            pl.lit(None, dtype=pl.Float64).alias("win_prob"),
        ),
        "logps": schema.frame("logps", scored),
    }


def _slice(settings: Settings, unit: str) -> Slice:
    own = settings.evaluate.model_dump(mode="json", include=set(KEYS))
    model = model_of(settings, unit)
    engine = {} if model.facts.draws_by_key else {"engine": model.identity()}
    return {**own, "seed": settings.seed, "references": [without(r) for r in compared_with(settings)], **engine}


def _models(settings: Settings, unit: str) -> list[Model]:
    """The run, and the primary reference that its samples are scored under."""
    references = [(r.model, r.revision) for r in compared_with(settings)]
    return list(dict.fromkeys([(f"run:{evaluated(settings, unit)}", None), *references]))


STAGE = Stage(
    name="evaluate",
    help="Answer held-out prompts with a trained model and check the answers.",
    version=VERSION,
    run=run,
    per="engine",
    writes=("candidates", "ranks", "logps"),
    units=lambda s: [evaluation_unit(r) for r in s.evaluated],
    reads=lambda s, u: [*PROMPTS, *source_drops(s), Part("sets", "sets", "preference")],
    slice=_slice,
    models=_models,
    per_engine=lambda s, u: s.evaluate.shards_per_engine or shares(model_of(s, u), s),
    engine=model_of,
    gpus=1,
)
