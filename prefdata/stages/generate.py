"""Stage `generate`: candidates sampled from a model, `per_temperature` at each temperature."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial
from typing import Any

import polars as pl

from prefdata.draws import hash64, item_key
from prefdata.errors import EngineError, snippet
from prefdata.models.engines.protocol import NO_ROOM, REFUSED, Completion, Engine, Request, in_order
from prefdata.models.engines.registry import Start, started
from prefdata.recipe import fill
from prefdata.recipe.job import Job
from prefdata.recipe.prompts import PROMPTS, prompt_drops
from prefdata.recipe.settings.data import GenerateSettings
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Slice, Stage, shares, without
from prefdata.recipe.units import generator, generator_unit
from prefdata.sources.transcripts import leaks
from prefdata.stages.segmented import number_of, of_segment
from prefdata.tables import schema
from prefdata.tables.drops import drop
from prefdata.tables.finished import ChunkStore, Value
from prefdata.tables.ids import candidate_id
from prefdata.tables.messages import prompt_of
from prefdata.tables.views import Frames, prompts_of

KEYS_VERSION = 3
"""In every key: answers of another way to ask are other answers."""
NEVER_ASKED = {NO_ROOM: "too_long", REFUSED: "refused_by_template"}
"""Reasons of engines that are about a prompt, which no sample of it can mend, and what its drop is called."""
EMPTY, LEAKING = "empty_answer", "role_leakage"


def run(job: Job) -> None:
    """Fill the store, write candidates and drops (too_long:<producer>: the prompt leaves no room)."""
    model, settings = generator(job.settings, job.unit), job.settings.generate
    producer = f"{model.name}@{model.made_with(job.revision)}"
    common = (producer, job.settings.seed, json.dumps(model.identity(), sort_keys=True), settings.max_tokens)

    def items(frames: Frames) -> dict[str, Request]:
        prompts = of_segment(prompts_of(frames, settings.splits), job.settings)
        wanted = requests(prompts, sampling(settings), settings.max_tokens)
        if not model.facts.draws_by_key:
            wanted = [replace(r, seed=seed_of(job.settings.seed, producer, r)) for r in wanted]
        return keyed(wanted, common)

    with job.store() as store, ExitStack() as stack:
        start = Start(
            model,
            job.model_path(model.id) if model.files() else model.id,
            producer,
            job.settings.seed,
            job.server_log("generate", job.unit),
            store.total("cost"),
            store.total("num_tokens") > 0,
        )
        engine = cache(lambda: stack.enter_context(started(start)))

        def together(some: Sequence[Request]) -> list[Value]:
            return complete(engine(), some)

        def one_by_one(wanted: Mapping[str, Request]) -> Iterator[dict[str, Value]]:
            return as_they_finish(engine(), wanted)

        compute = fill.whole(together) if model.facts.draws_by_key else one_by_one
        fill.fill(job, store, settings.chunk_prompts, settings.splits, items, compute)
        made = partial(rows, store=store, producer=producer, seed=job.settings.seed, reasoning_end=model.reasoning_end)
        _require_few_failures(job, settings, items, store)
        fill.write(job, lambda frames: with_segment(made(frames, items(frames)), job.settings))


def with_segment(made: Frames, settings: Settings) -> Frames:
    """What was made in a segment says so."""
    number = pl.lit(number_of(settings), dtype=pl.Int32).alias("segment")
    return {**made, "candidates": made["candidates"].with_columns(number)}


def seed_of(seed: int, producer: str, request: Request) -> int:
    """The seed of one sample: 63 bits, a function of the prompt, the model, the temperature and the sample's number."""
    return hash64(seed, "sample", request.id, producer, request.temperature, request.sample) >> 1


def _require_few_failures(
    job: Job, settings: GenerateSettings, items: Callable[[Frames], Mapping[str, Request]], store: ChunkStore
) -> None:
    reasons, count = Counter[str](), 0
    for frames in job.parts(prompts=fill.AT_ONCE):
        values = store.get(list(items(frames)))
        count += len(values)
        reasons.update(v["reason"] for v in values.values() if v["finish"] == "error" and v["reason"] not in NEVER_ASKED)
    if reasons.total() > settings.max_failed * count:
        raise EngineError(
            f"{reasons.total()} of {count} answers failed: {dict(reasons.most_common(5))}",
            f"generate {job.unit}",
            f"look at the model or the server, or raise {'online' if job.settings.segment else 'generate'}.max_failed",
        )


def sampling(settings: Any) -> list[tuple[float, int]]:
    """(temperature, sample) of every candidate of a prompt; sample counts over all temperatures."""
    pairs = [t for t in settings.temperatures for _ in range(settings.per_temperature)]
    return [(t, sample) for sample, t in enumerate(pairs)]


def requests(prompts: pl.DataFrame, samples: Sequence[tuple[float, int]], max_tokens: int) -> list[Request]:
    """One request a prompt and sample."""
    return [
        Request(
            row["prompt_id"],
            tuple(prompt_of(row)),
            temperature,
            sample,
            max_tokens,
            row["tools"],
            row["template_kwargs"],
        )
        for row in prompts.to_dicts()
        for temperature, sample in samples
    ]


def keyed(wanted: Sequence[Request], common: tuple[Any, ...]) -> dict[str, Request]:
    """Requests by their item key: model revision, seed, template, limits, stage version and the request itself."""
    return {
        item_key(KEYS_VERSION, *common, r.id, r.temperature, r.sample, r.tools or "", r.template_kwargs or ""): r
        for r in wanted
    }


def complete(engine: Engine, some: Sequence[Request]) -> list[Value]:
    """The engine's completions as values of the store."""
    return [_value(c) for c in in_order(engine.complete(some))]


def as_they_finish(engine: Engine, wanted: Mapping[str, Request]) -> Iterator[dict[str, Value]]:
    """Each completion by itself: what was paid for is kept, whatever happens to the others."""
    keys = list(wanted)
    for place, completion in engine.complete(wanted.values()):
        yield {keys[place]: _value(completion)}


def _value(completion: Completion) -> Value:
    kept = ("text", "finish", "num_tokens", "reason", "cost", "transient")
    return {name: getattr(completion, name) for name in kept}


def rows(
    frames: Frames,
    wanted: Mapping[str, Request],
    store: ChunkStore,
    producer: str,
    seed: int,
    reasoning_end: str | None = None,
) -> Frames:
    """Candidates of what was completed; drops of the prompts that left no room, and of single answers that failed, say nothing
    or go on as somebody else, as a source's are dropped."""
    values = store.get(list(wanted))
    made, failed = [], list[tuple[str, str, str]]()
    for key, request in wanted.items():
        value = values[key]
        text = None if value["finish"] == "error" else answer_of(value["text"], reasoning_end)
        if text is None:
            failed.append((request.id, value["reason"] or "unended_reasoning", value["text"]))
        elif not text.strip():
            failed.append((request.id, EMPTY, f"{value['num_tokens']} tokens, sample {request.sample}"))
        elif leaks(text):
            failed.append((request.id, LEAKING, f"sample {request.sample}: {snippet(text)}"))
        else:
            made.append(candidate(request, value, producer, seed, text))
    prompts = {p["prompt_id"]: p for p in frames["prompts"].to_dicts()}
    model = producer.partition("@")[0]
    unasked = {id: why for id, why, _ in failed if why in NEVER_ASKED}
    said = {id: text for id, _, text in failed}
    drops = [
        drop("prompt", "generate", f"{NEVER_ASKED[why]}:{model}", prompts[id], detail=said[id] or why)
        for id, why in unasked.items()
    ]
    for id, why, text in failed:
        if why in (EMPTY, LEAKING):
            drops.append(drop("row", "generate", why, prompts[id], detail=text))
        elif why not in NEVER_ASKED:
            drops.append(drop("row", "generate", "failed_answer", prompts[id], detail=why))
    return {"candidates": schema.frame("candidates", made), "drops": schema.frame("drops", drops)}


def answer_of(text: str, reasoning_end: str | None) -> str | None:
    """What follows the reasoning, less the white space before it; None where the reasoning never ended or nothing follows."""
    if reasoning_end is None:
        return text
    _, ended, answer = text.partition(reasoning_end)
    return (answer.lstrip() or None) if ended else None


def candidate(request: Request, value: Value, producer: str, seed: int, response: str | None = None) -> dict[str, Any]:
    """One row of candidates. `response`: the answer, where it is not the whole text."""
    text = value["text"] if response is None else response
    ids = (request.id, text, "generated", producer, request.temperature, request.sample)
    return {
        "prompt_id": request.id,
        "candidate_id": candidate_id(*ids),
        "response": text,
        "raw": value["text"] if text != value["text"] else None,
        "origin": "generated",
        "producer": producer,
        "temperature": request.temperature,
        "seed": seed if request.seed is None else request.seed,
        "sample": request.sample,
        "finish": value["finish"],
        "num_tokens": value["num_tokens"],
    }


def _slice(settings: Settings, unit: str) -> Slice:
    own = generator(settings, unit)
    model = {**own.identity(), "name": own.name, "reasoning_end": own.reasoning_end}
    return {**without(settings.generate, "models", "shards_per_engine", "max_failed"), "model": model, "seed": settings.seed}


STAGE = Stage(
    name="generate",
    help="Sample candidates from a model at several temperatures.",
    version=4,
    run=run,
    per="engine",
    writes=("candidates", "drops"),
    units=lambda s: [generator_unit(m) for m in s.generate.models],
    reads=lambda s, u: [*PROMPTS, *prompt_drops(s)],
    slice=_slice,
    models=lambda s, u: generator(s, u).files(),
    per_engine=lambda s, u: s.generate.shards_per_engine or shares(generator(s, u), s),
    engine=generator,
)
