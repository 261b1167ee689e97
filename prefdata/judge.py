"""Stage `judge`: comparisons of candidates in both orders, in rounds over all prompts of the job.

A round asks each undecided prompt its next comparison; chunks of prompts are committed as they finish, so a kill
repeats at most one chunk of one round, and grouping changes no verdict.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import polars as pl

from prefdata import champion, chunked, tables
from prefdata.chunks import ChunkStore, Value
from prefdata.draws import item_key
from prefdata.engines import Completion, Engine, Request
from prefdata.errors import EngineError
from prefdata.generate import prompts_of
from prefdata.judges import JUDGES, Judge
from prefdata.parts import judge as settings_of
from prefdata.progress import Progress
from prefdata.run import Frames, Job
from prefdata.settings import JudgeSettings

STAGE_VERSION = 2
Pair = tuple[str, str]
Known = dict[str, champion.Outcomes]


def run(job: Job) -> None:
    """Ask until every prompt has its champion, then write the verdicts."""
    settings = settings_of(job.settings, job.unit)
    judge = JUDGES[settings.judge]
    known: Known = {}
    engine = cache(judge.engine)
    with ChunkStore(job.run.chunks("judge", job.unit)) as store:
        with Progress(f"judge {job.unit} comparisons", None) as progress:
            while asked := _round(job, settings, judge, engine, store, known):
                progress.advance(asked)
        chunked.told(job, store)
        _require_quality(known, settings)
        chunked.write(job, lambda frames: {"verdicts": _rows(frames, known, settings, judge, store)})


def _round(job: Job, settings: JudgeSettings, judge: Judge, engine: Any, store: ChunkStore, known: Known) -> int:
    """Ask every undecided prompt its next comparison in both orders; the number of comparisons asked."""
    asked = 0
    for frames in job.parts(prompts=settings.chunk_prompts):
        items: dict[str, tuple[Pair, str, Request]] = {}
        for prompt, texts in _groups(frames, settings):
            decided = known.setdefault(prompt["prompt_id"], {})
            pair = champion.next_pair(prompt["prompt_id"], list(texts), decided, job.settings.seed)
            if pair is None:
                continue
            asked += 1
            for order in ("ab", "ba"):
                items[_key(settings, judge, prompt, pair, order)] = (
                    pair,
                    order,
                    _request(judge, prompt, pair, order, texts),
                )
        _finish(items, judge, engine, store)
        values = store.get(list(items))
        for key, (pair, order, request) in items.items():
            outcomes = known[request.id].get(pair, (None, None))
            outcome = values[key]["outcome"]
            known[request.id][pair] = (outcome, outcomes[1]) if order == "ab" else (outcomes[0], outcome)
    return asked


def _groups(frames: Frames, settings: JudgeSettings) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """(prompt row, {candidate_id: response}) of each prompt with something to compare."""
    prompts = {r["prompt_id"]: r for r in prompts_of(frames, settings.splits).to_dicts()}
    kept = tables.alive(frames["candidates"], frames["drops"]).filter(pl.col("prompt_id").is_in(list(prompts)))
    for (prompt,), group in kept.group_by("prompt_id", maintain_order=True):
        texts = dict(zip(group["candidate_id"], group["response"], strict=True))
        if len(texts) > 1:
            yield prompts[str(prompt)], texts


def _key(settings: JudgeSettings, judge: Judge, prompt: Mapping[str, Any], pair: Pair, order: str) -> str:
    """A prompt's id says its messages; its final answer is asked with it too."""
    asked = (prompt["prompt_id"], prompt["answer"] or "")
    return item_key(STAGE_VERSION, settings.judge, judge.revision, judge.rubric_hash, *asked, *pair, order)


def _request(judge: Judge, prompt: dict[str, Any], pair: Pair, order: str, texts: dict[str, str]) -> Request:
    first, second = pair if order == "ab" else pair[::-1]
    return Request(prompt["prompt_id"], judge.ask(prompt, texts[first], texts[second]))


def _finish(items: dict[str, tuple[Pair, str, Request]], judge: Judge, engine: Any, store: ChunkStore) -> None:
    missing = store.missing(list(items))
    if missing:
        real: Engine = engine()
        replies = real.complete([items[k][2] for k in missing])
        store.put({k: value_of(judge, items[k][1], reply) for k, reply in zip(missing, replies, strict=True)})


def value_of(judge: Judge, order: str, reply: Completion) -> Value:
    """One stored verdict: outcome and margin about candidates a and b, whatever order they were shown in."""
    if reply.finish == "error":
        return {"outcome": "missing", "margin": None, "reason": reply.reason, "raw": reply.text, "tokens": 0}
    reading = judge.read(reply.text)
    shown = ("a", "b") if order == "ab" else ("b", "a")
    outcome = {"first": shown[0], "second": shown[1]}.get(reading.outcome, reading.outcome)
    margin = reading.margin if reading.margin is None or order == "ab" else -reading.margin
    return {
        "outcome": outcome,
        "margin": margin,
        "reason": reading.reason,
        "raw": reply.text,
        "tokens": reply.num_tokens,
    }


def _rows(frames: Frames, known: Known, settings: JudgeSettings, judge: Judge, store: ChunkStore) -> pl.DataFrame:
    """Verdict rows; a prompt's pairs were asked in insertion order, one a round."""
    rows = []
    for row in frames["prompts"].select("prompt_id", "answer").to_dicts():
        prompt = row["prompt_id"]
        pairs = list(known.get(prompt, {}))
        keys = {_key(settings, judge, row, p, o): (p, o) for p in pairs for o in ("ab", "ba")}
        for key, value in store.get(list(keys)).items():
            pair, order = keys[key]
            place = {"prompt_id": prompt, "a": pair[0], "b": pair[1], "order": order, "round": pairs.index(pair) + 1}
            rows.append({**place, "judge": f"{settings.name}@{judge.revision}", "rubric": judge.rubric_hash, **value})
    return tables.frame("verdicts", rows)


def _require_quality(known: Known, settings: JudgeSettings) -> None:
    """Raise EngineError where too many verdicts are missing or too few pairs agree in both orders."""
    pairs = [o for outcomes in known.values() for o in outcomes.values()]
    missing = sum(o == "missing" for pair in pairs for o in pair)
    if missing > settings.max_failed * 2 * len(pairs):
        raise EngineError(
            f"{missing} of {2 * len(pairs)} verdicts are missing",
            f"judge {settings.name}",
            "look at the reasons in the log, or raise judge.max_failed",
        )
    whole = [pair for pair in pairs if "missing" not in pair]
    agreeing = sum(a == b for a, b in whole)
    if agreeing < settings.min_consistency * len(whole):
        raise EngineError(
            f"only {agreeing} of {len(whole)} pairs agree in both orders",
            f"judge {settings.name}",
            "the judge looks at the place, not the answer: choose another, or lower judge.min_consistency",
        )
