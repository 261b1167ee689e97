"""Stage `generate`: candidates sampled from a model, `per_temperature` at each temperature."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import polars as pl

from prefdata import chunked, tables
from prefdata.chunks import ChunkStore, Value
from prefdata.draws import item_key
from prefdata.engines import Engine, Request
from prefdata.parts import generator
from prefdata.rows import candidate_id
from prefdata.run import Frames, Job

STAGE_VERSION = 1


def run(job: Job) -> None:
    """Fill the store, write candidates and drops (too_long:<producer>: the prompt leaves no room)."""
    model, settings = generator(job.settings, job.unit), job.settings.generate
    path = job.run.model_path(model.model)
    revision = job.run.revision(model.model, model.revision)
    producer = f"{model.name}@{revision}"

    @cache
    def engine() -> Engine:
        from prefdata.engines.transformers import TransformersEngine

        return TransformersEngine(path, model.revision, model.template, model.end, producer, job.settings.seed)

    def items(frames: Frames) -> dict[str, Request]:
        common = (producer, job.settings.seed, model.template, model.end, settings.max_tokens)
        return keyed(requests(prompts_of(frames, settings.splits), sampling(settings), settings.max_tokens), common)

    with ChunkStore(job.run.chunks("generate", job.unit)) as store:
        chunked.fill(job, store, settings.chunk_prompts, items, lambda some: complete(engine(), some))
        chunked.write(job, lambda frames: rows(frames, items(frames), store, producer, job.settings.seed))


def sampling(settings: Any) -> list[tuple[float, int]]:
    """(temperature, sample) of every candidate of a prompt; sample counts over all temperatures."""
    pairs = [t for t in settings.temperatures for _ in range(settings.per_temperature)]
    return [(t, sample) for sample, t in enumerate(pairs)]


def prompts_of(frames: Frames, splits: Sequence[str]) -> pl.DataFrame:
    """The prompts that are alive and in one of the splits."""
    alive = tables.alive(frames["prompts"], frames["drops"])
    return alive.join(frames["splits"].filter(pl.col("split").is_in(list(splits))), on="prompt_id", how="semi")


def requests(prompts: pl.DataFrame, asked: Sequence[tuple[float, int]], max_tokens: int) -> list[Request]:
    """One request a prompt and sample."""
    return [
        Request(
            row["prompt_id"],
            tuple(row["messages"]),
            temperature,
            sample,
            max_tokens,
            row["tools"],
            row["template_kwargs"],
        )
        for row in prompts.to_dicts()
        for temperature, sample in asked
    ]


def keyed(asked: Sequence[Request], common: tuple[Any, ...]) -> dict[str, Request]:
    """Requests by their item key: model revision, seed, template, limits, stage version and the request itself."""
    return {
        item_key(STAGE_VERSION, *common, r.id, r.temperature, r.sample, r.tools or "", r.template_kwargs or ""): r
        for r in asked
    }


def complete(engine: Engine, some: Sequence[Request]) -> list[Value]:
    """The engine's completions as values of the store."""
    return [{"text": c.text, "finish": c.finish, "num_tokens": c.num_tokens, "reason": c.reason} for c in engine.complete(some)]


def rows(frames: Frames, asked: Mapping[str, Request], store: ChunkStore, producer: str, seed: int) -> Frames:
    """Candidates of what was completed, drops of the prompts that left no room."""
    values = store.get(list(asked))
    made = [candidate(r, values[k], producer, seed) for k, r in asked.items() if values[k]["finish"] != "error"]
    failed = {r.id: values[k]["reason"] for k, r in asked.items() if values[k]["finish"] == "error"}
    sources = frames["prompts"].filter(pl.col("prompt_id").is_in(list(failed)))
    drops = [
        {
            "scope": "prompt",
            "prompt_id": p["prompt_id"],
            "source": p["source"],
            "source_row": p["source_row"],
            "stage": "generate",
            "reason": f"too_long:{producer.partition('@')[0]}" if failed[p["prompt_id"]] == "no_room" else "failed",
            "detail": json.dumps(failed[p["prompt_id"]]),
        }
        for p in sources.to_dicts()
    ]
    return {"candidates": tables.frame("candidates", made), "drops": tables.frame("drops", drops)}


def candidate(request: Request, value: Value, producer: str, seed: int) -> dict[str, Any]:
    """One row of candidates."""
    ids = (request.id, value["text"], "generated", producer, request.temperature, request.sample)
    return {
        "prompt_id": request.id,
        "candidate_id": candidate_id(*ids),
        "response": value["text"],
        "origin": "generated",
        "producer": producer,
        "temperature": request.temperature,
        "seed": seed,
        "sample": request.sample,
        "finish": value["finish"],
        "num_tokens": value["num_tokens"],
    }
