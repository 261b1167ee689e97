"""Stage `judge`: comparisons of candidates in rounds over all prompts of the job, or a score of each alone.

A round asks every undecided prompt its next comparisons. Replies are committed as they arrive, so a kill repeats what was in
flight and nothing else; what is asked depends on verdicts alone, so neither grouping nor the order of arrival changes one.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import polars as pl

from prefdata.draws import uniform
from prefdata.errors import EngineError
from prefdata.judging.askings import Asking, Order, ask, asking_of, key_of, require_present
from prefdata.judging.judge import Judge
from prefdata.judging.procedures import PROCEDURES
from prefdata.judging.procedures.verdicts import Outcome, Pair, contenders, settle
from prefdata.models.engines.protocol import Engine
from prefdata.progress import Progress
from prefdata.recipe import fill
from prefdata.recipe.job import Job
from prefdata.recipe.settings.judging import JudgeSettings
from prefdata.tables import schema
from prefdata.tables.finished import ChunkStore, Value
from prefdata.tables.messages import answer, as_text
from prefdata.tables.views import Frames, prompts_of

Orders = dict[str, tuple[str, float | None]]
"""Of one pair, the orders that were asked: outcome and margin."""


@dataclass
class Known:
    """What is known of every prompt's pairs, and in which round each was asked first."""

    pairs: dict[str, dict[Pair, Orders]] = field(default_factory=dict)
    rounds: dict[str, dict[Pair, int]] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    """Why verdicts are missing."""
    decided: set[str] = field(default_factory=set)
    """Prompts that need no further comparison."""
    round: int = 0

    def learn(self, asking: Asking, value: Value) -> None:
        id = asking.request.id
        self.pairs.setdefault(id, {}).setdefault(asking.pair, {})[asking.order] = (value["outcome"], value["margin"])
        self.rounds.setdefault(id, {}).setdefault(asking.pair, self.round)
        if value["outcome"] == "missing":
            self.reasons[value["reason"] or "missing"] += 1


def compare(job: Job, settings: JudgeSettings, judge: Judge, store: ChunkStore) -> None:
    """Rounds of comparisons."""
    known = Known()
    with ExitStack() as stack, Progress(f"judge {job.unit} comparisons", None) as progress:
        engine = cache(lambda: stack.enter_context(judge.engine(store.total("cost"))))
        known.round = 1
        while count := _round(job, settings, judge, engine, store, known, progress):
            print(f"judge {job.unit}: round {known.round}, {count} comparisons, each order counted", file=sys.stderr)
            known.round += 1
    fill.report_found(job, store)
    _require_quality(known, settings)
    fill.write(job, lambda frames: {"verdicts": _rows(frames, known, settings, judge, store)})


def _round(
    job: Job,
    settings: JudgeSettings,
    judge: Judge,
    engine: Callable[[], Engine],
    store: ChunkStore,
    known: Known,
    progress: Progress,
) -> int:
    """Ask every undecided prompt its next comparisons; how many askings there were, those found in the store included."""
    count = 0

    def askings() -> Iterator[Asking]:
        nonlocal count
        for frames in fill.chunks(job, settings.chunk_prompts, settings.splits):
            for asking in _askings(frames, job.settings.seed, settings, judge, known):
                count += 1
                yield asking

    def learn(asking: Asking, value: Value) -> None:
        known.learn(asking, value)
        progress.advance()

    ask(askings(), judge, engine, store, learn)
    return count


def _askings(frames: Frames, seed: int, settings: JudgeSettings, judge: Judge, known: Known) -> Iterator[Asking]:
    """What every undecided prompt of a part is asked next."""
    procedure = PROCEDURES[settings.procedure]
    for prompt, texts in _groups(frames, settings, known.decided):
        id = prompt["prompt_id"]
        own = known.pairs.get(id, {})
        complete = {pair: orders for pair, orders in own.items() if not _orders(id, pair, orders, seed, settings)}
        done = {pair: settle(_outcomes(orders)) for pair, orders in complete.items()}
        wanted = procedure.wanted(id, list(texts), done, seed)
        if not wanted:
            known.decided.add(id)
        for pair in wanted:
            for order in _orders(id, pair, own.get(pair, {}), seed, settings):
                yield asking_of(judge, prompt, pair, order, texts)


def _orders(prompt_id: str, pair: Pair, known: Orders, seed: int, settings: JudgeSettings) -> list[Order]:
    """The orders of a pair that are still to be asked: both, or one by a keyed draw and the other if its margin is small."""
    both: list[Order] = ["ab", "ba"]
    if settings.swap_margin is None:
        return [o for o in both if o not in known]
    if not known:
        return [both[uniform(seed, f"swap:{prompt_id}", pair[0], 0, (pair[1],)) < 0.5]]
    if len(known) == 2:
        return []
    _, margin = next(iter(known.values()))
    sure = margin is not None and abs(margin) >= settings.swap_margin
    return [] if sure else [o for o in both if o not in known]


def _outcomes(orders: Orders) -> dict[str, str]:
    return {order: outcome for order, (outcome, _) in orders.items()}


def _groups(frames: Frames, settings: JudgeSettings, decided: set[str]) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """(prompt row, {candidate_id: response}) of each undecided prompt with something to compare."""
    prompts = {r["prompt_id"]: r for r in prompts_of(frames, settings.splits).to_dicts() if r["prompt_id"] not in decided}
    if not prompts:
        return
    kept = schema.alive(frames["candidates"], frames["drops"]).filter(pl.col("prompt_id").is_in(list(prompts)))
    grouped = (
        contenders(kept, settings.truncated)
        .group_by("prompt_id", maintain_order=True)
        .agg("candidate_id", "response", "extras")
    )
    for prompt, ids, *said in grouped.iter_rows():
        if len(ids) > 1:
            texts = [as_text(answer(response, extras)) for response, extras in zip(*said, strict=True)]
            yield prompts[prompt], dict(zip(ids, texts, strict=True))


def _rows(frames: Frames, known: Known, settings: JudgeSettings, judge: Judge, store: ChunkStore) -> pl.DataFrame:
    """Verdict rows; a pair's round is the one in which it was asked first."""
    rows = []
    for row in frames["prompts"].select("prompt_id", "answer").to_dicts():
        prompt = row["prompt_id"]
        pairs = known.pairs.get(prompt, {})
        keys = {key_of(judge, row, p, o): (known.rounds[prompt][p], p, o) for p, orders in pairs.items() for o in orders}
        for key, value in store.get(list(keys)).items():
            number, pair, order = keys[key]
            place = {"prompt_id": prompt, "a": pair[0], "b": pair[1], "order": order, "round": number}
            kept = {k: v for k, v in value.items() if k != "transient"}
            rows.append({**place, "judge": f"{settings.name}@{judge.revision}", "rubric": judge.rubric_hash, **kept})
    return schema.frame("verdicts", rows)


def _require_quality(known: Known, settings: JudgeSettings) -> None:
    """Raise EngineError where too many verdicts are missing or too few pairs agree in both orders."""
    pairs_ = [_outcomes(orders) for own in known.pairs.values() for orders in own.values()]
    require_present(known.reasons, sum(map(len, pairs_)), settings)
    if settings.swap_margin is not None:
        return  # only pairs of a small margin are asked twice: that many of them disagree says nothing of the others
    whole = [settle(orders) for orders in pairs_ if len(orders) == 2]
    decided: list[Outcome] = [o for o in whole if o != "missing"]
    agreeing = sum(o != "inconsistent" for o in decided)
    if agreeing < settings.min_consistency * len(decided):
        raise EngineError(
            f"only {agreeing} of {len(decided)} pairs agree in both orders",
            f"judge {settings.name}",
            "its verdicts depend on the order of the answers: use another judge, or lower judge.min_consistency",
        )
