"""Stage `noise`: token-swap noise of the chosen answer (MC-PO paper, section 5).

Two tokens of the chosen completion, drawn among positions holding different ids, change places; the decoded text must
differ, re-encode to as many tokens and hold no new U+FFFD. Up to `tries` draws, then the row is counted noise_failed.
All chosen answers of a part are encoded, decoded and checked in batches.
"""

from dataclasses import dataclass
from typing import Any

import polars as pl

from prefdata.draws import uniform
from prefdata.models.tokens import Encoder, load_encoder
from prefdata.recipe.job import Job, each_part
from prefdata.recipe.prompts import PROMPTS
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Slice, Stage, without
from prefdata.stages.graph import OF_DROPPED, pool, ranks_of
from prefdata.tables import schema
from prefdata.tables.drops import drop
from prefdata.tables.ids import candidate_id
from prefdata.tables.views import Frames, chosen

PRODUCER = "swap"


@dataclass
class _Attempt:
    """One noise candidate to be made: its parent's row, the parent's ids, its number."""

    parent: dict[str, Any]
    ids: list[int]
    number: int


def noise(frames: Frames, job: Job) -> Frames:
    """candidates, ranks -> candidates of origin noise, and drops of scope row for those that could not be made.

    Only prompts of the preference set's splits get noise.
    """
    settings, seed = job.settings.noise, job.settings.seed
    mine = frames["splits"].filter(pl.col("split").is_in(job.settings.sets.splits))
    kept = schema.alive(frames["candidates"], frames["drops"]).join(mine, on="prompt_id", how="semi", maintain_order="left")
    parents = kept.join(chosen(frames["ranks"], seed), on=["prompt_id", "candidate_id"], how="semi")
    if parents.is_empty():
        return {t: schema.TABLES[t].empty() for t in ("candidates", "drops")}
    (name, revision), *_ = job.stage.models(job.settings, job.unit)
    encoder = _encoder(job.model_path(name), revision)
    made, failed = swap(parents, encoder, settings.copies, settings.tries, seed)
    sources = {r["prompt_id"]: r for r in frames["prompts"].select("prompt_id", "source", "source_row").to_dicts()}
    drops = [
        drop(
            "row",
            "noise",
            "noise_failed",
            sources[a.parent["prompt_id"]],
            detail=f"noise {a.number} of {a.parent['candidate_id']}: {settings.tries} swaps without a valid text",
        )
        for a in failed
    ]
    return {"candidates": schema.frame("candidates", made), "drops": schema.frame("drops", drops)}


_ENCODERS: dict[tuple[str, str | None], Encoder] = {}


def _encoder(path: str, revision: str | None) -> Encoder:
    """The tokenizer, loaded once a process: noise needs its plain text side only."""
    key = (path, revision)
    if key not in _ENCODERS:
        _ENCODERS[key] = load_encoder(path, revision, template="plain", end="none")
    return _ENCODERS[key]


def swap(
    parents: pl.DataFrame, encoder: Encoder, copies: int, tries: int, seed: int
) -> tuple[list[dict[str, Any]], list[_Attempt]]:
    """Noise of every parent: (rows of candidates, attempts that failed)."""
    rows = parents.to_dicts()
    ids = encoder.contents([r["response"] for r in rows])
    open_ = [_Attempt(r, i, n) for r, i in zip(rows, ids, strict=True) for n in range(copies)]
    made: list[dict[str, Any]] = []
    for attempt in range(tries):
        swapped = [_swapped(a, seed, attempt) for a in open_]
        texts = [encoder.decode(s) if s else "" for s in swapped]
        lengths = [len(i) for i in encoder.contents(texts)]
        waiting = []
        for a, new, text, length in zip(open_, swapped, texts, lengths, strict=True):
            if new is not None and _valid(a, text, length):
                made.append(_row(a, text))
            else:
                waiting.append(a)
        open_ = waiting
        if not open_:
            break
    return made, open_


def _swapped(a: _Attempt, seed: int, attempt: int) -> list[int] | None:
    """The ids with two different ones exchanged; None where all ids are the same."""
    if len(set(a.ids)) < 2:
        return None
    first = _pick(list(range(len(a.ids))), a, seed, attempt, 0)
    second = _pick([p for p in range(len(a.ids)) if a.ids[p] != a.ids[first]], a, seed, attempt, 1)
    new = list(a.ids)
    new[first], new[second] = new[second], new[first]
    return new


def _pick(places: list[int], a: _Attempt, seed: int, attempt: int, which: int) -> int:
    u = uniform(seed, "swap", a.parent["candidate_id"], a.number, (attempt, which))
    return places[int(u * len(places))]


def _valid(a: _Attempt, text: str, length: int) -> bool:
    parent = a.parent["response"]
    return text != parent and length == len(a.ids) and text.count("�") <= parent.count("�") and bool(text.strip())


def _row(a: _Attempt, text: str) -> dict[str, Any]:
    prompt = a.parent["prompt_id"]
    return {
        "prompt_id": prompt,
        "candidate_id": candidate_id(prompt, text, "noise", PRODUCER, None, a.number, a.parent["extras"]),
        "response": text,
        "origin": "noise",
        "producer": PRODUCER,
        "sample": a.number,
        "finish": a.parent["finish"],
        "num_tokens": len(a.ids),
        "parent_id": a.parent["candidate_id"],
        "extras": a.parent["extras"],
    }


def _none_wanted(job: Job, shard: int) -> bool:
    return job.settings.noise.copies == 0 or not job.models


def _slice(settings: Settings, unit: str) -> Slice:
    tokenizer = [(r.model, r.revision) for r in settings.score.references[:1]]
    whose = {"method": settings.sets.method, "splits": settings.sets.splits}
    return {**without(settings.noise), "seed": settings.seed, "tokenizer": tokenizer, **whose}


STAGE = Stage(
    name="noise",
    help="Make token-swap noise of the chosen answers.",
    version=2,
    run=each_part(noise, nothing=_none_wanted),
    writes=("candidates", "drops"),
    reads=lambda s, u: [*PROMPTS, *pool(s, s.sets.method), ranks_of(s, s.sets.method)],
    slice=_slice,
    columns={
        "prompts": ("prompt_id", "source", "source_row"),
        "candidates": ("prompt_id", "candidate_id", "response", "finish", "extras"),
        "drops": OF_DROPPED,
    },
    models=lambda s, u: [(r.model, r.revision) for r in s.score.references[:1]],
)
