"""Stage `online`: what each segment of an online run was like: its answers, its judge, how far its start has moved.

On a keyed sample of the segment's prompts the start answers greedily too. The judge compares that answer with the best sample
(y_0), and our own forward gives its log-prob under the start and under the policy that the run began with.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from prefdata.draws import hash64, item_key
from prefdata.judging.measures import win_rate
from prefdata.judging.measures.of_verdicts import facts_of, gather, scored_facts
from prefdata.judging.registry import KINDS
from prefdata.judging.text_pairs import TextPair
from prefdata.models.engines.protocol import Request
from prefdata.models.identity import Model
from prefdata.models.loading import release
from prefdata.models.scorer import Item, Scorer
from prefdata.models.settings import ReferenceSettings
from prefdata.recipe import places
from prefdata.recipe.job import Job
from prefdata.recipe.prompts import PROMPTS
from prefdata.recipe.settings.online import Segment
from prefdata.recipe.settings.segments import recipe_of
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Slice, Stage, without
from prefdata.recipe.units import Part, generator_unit, in_segment, judge_unit, reference_unit
from prefdata.stages import generate
from prefdata.stages.judge import slice_of
from prefdata.tables.finished import ChunkStore, Value
from prefdata.tables.messages import answer, as_text, prompt_of

VERSION = 1
OF_STEPS = ("ess", "ess_share", "draw_shortest", "accuracy")
"""Metrics of the training that are averaged over the segment's steps."""
Facts = dict[str, Any]


@dataclass(frozen=True)
class Greedy:
    """A prompt of the sample, its best sample (y_0), and the greedy answer with its log-ratio of start to first policy."""

    prompt: Facts
    best: str
    answer: str
    log_ratio: float | None


def run(job: Job) -> None:
    """Write report/online/<segment>.json."""
    segment = _segment(job.settings, job.unit)
    recipe = recipe_of(job.settings, segment)
    made, judged, drops = _parts(segment, recipe)
    with job.store() as store:
        greedy = _greedy(job, segment, recipe, store)
        release()  # the judge may need the device's memory
        pairs = [TextPair(g.prompt, g.best, g.answer) for g in greedy]
        [verdicts] = win_rate.of_all(job, recipe.judge[0], {"best": pairs}, store).values() if pairs else [[]]
    facts = {
        "run": segment.run,
        "segment": segment.number,
        "of": segment.count,
        "start": segment.start,
        "made_with": job.revision(segment.start, segment.revision),
        "references": [_reference(job, segment, r) for r in recipe.score.references],
        "judge": _judge(recipe, job.parts(of=[*PROMPTS, made, Part("drops", "generate", made.unit), judged])),
        "temperatures": recipe.generate.temperatures,
        **_answers(job, made),
        "drops": dict(sum((Counter(m["reasons"]) for part in drops for m in job.manifests(part)), Counter())),
        "rows": sum(m["rows"] for m in job.manifests(_sets(segment))),
        "best_against_greedy": win_rate.facts_of("best sample", pairs, verdicts) if pairs else None,
        "log_ratio": _mean_se([g.log_ratio for g in greedy if g.log_ratio is not None]),
        "training": _training(job, segment),
    }
    job.write_json(places.online(job.unit), facts)


def _segment(settings: Settings, unit: str) -> Segment:
    return next(s for s in settings.segments if s.name == unit)


def _parts(segment: Segment, recipe: Settings) -> tuple[Part, Part, list[Part]]:
    """The segment's candidates, its verdicts, and what was dropped on the way to its set."""
    made = in_segment(generator_unit(recipe.generate.models[0]), segment)
    judged = in_segment(judge_unit(recipe.judge[0]), segment)
    scored = [Part("drops", "score", in_segment(reference_unit(r), segment)) for r in recipe.score.references]
    drops = [Part("drops", "generate", made), *scored, Part("drops", "sets", _sets(segment).unit)]
    return Part("candidates", "generate", made), Part("verdicts", "judge", judged), drops


def _sets(segment: Segment) -> Part:
    return Part("sets", "sets", segment.set)


def _reference(job: Job, segment: Segment, reference: ReferenceSettings) -> Facts:
    return {"name": reference.name, "model": reference.model, "made_with": job.revision(reference.model, reference.revision)}


def _judge(recipe: Settings, parts: Any) -> Facts:
    own = recipe.judge[0]
    found = gather(parts, own, recipe.judge)
    facts = facts_of(own, found) if KINDS[own.kind].compares else scored_facts(own, found)
    return {k: facts[k] for k in ("judge", "calls", "consistency", "missing") if k in facts}


def _answers(job: Job, made: Part) -> Facts:
    """Prompts that were answered, answers that were kept, how long they are."""
    kept = pl.concat([f["candidates"].select("prompt_id", "finish", "response") for f in job.parts(of=[*PROMPTS, made])])
    return {
        "prompts": kept["prompt_id"].n_unique(),
        "answers": kept.height,
        "mean_characters": kept["response"].str.len_chars().mean(),
        "truncated": (kept["finish"] == "length").mean(),
    }


# ---- the greedy answers ----


def _greedy(job: Job, segment: Segment, recipe: Settings, store: ChunkStore) -> list[Greedy]:
    wanted = _sampled(job, segment)
    model = recipe.generate.models[0]
    start = ReferenceSettings(
        name="start", model=segment.start, revision=segment.revision, template=model.template, end=model.end
    )
    first = job.settings.parts(segment.run)[0]
    initial = start.model_copy(update={"name": "initial", "model": first.start, "revision": first.revision})
    texts = _texts(job, recipe, start, [prompt for prompt, _ in wanted], store)
    answered = [(*pair, value) for pair, value in zip(wanted, texts, strict=True) if value["finish"] != "error"]
    items = [Item(prompt, _candidate(value)) for prompt, _, value in answered]
    ratios = [
        None if None in pair else pair[0] - pair[1]  # type: ignore[operator]
        for pair in zip(_logps(job, start, items, store), _logps(job, initial, items, store), strict=True)
    ]
    return [Greedy(p, best, v["text"], ratio) for (p, best, v), ratio in zip(answered, ratios, strict=True)]


def _sampled(job: Job, segment: Segment) -> list[tuple[Facts, str]]:
    """(prompt, y_0) of at most `greedy_prompts` rows of the segment's set, by a keyed draw."""
    assert job.settings.online is not None
    rows = []
    for frames in job.parts(of=[*PROMPTS, _sets(segment)]):
        prompts = {r["prompt_id"]: r for r in frames["prompts"].to_dicts()}
        for row in frames["sets"].to_dicts():
            best = row["candidates"][0]
            rows.append((prompts[row["prompt_id"]], as_text(answer(best["response"], best["extras"]))))
    rows.sort(key=lambda pair: (hash64(job.settings.seed, "greedy", pair[0]["prompt_id"]), pair[0]["prompt_id"]))
    return rows[: job.settings.online.greedy_prompts]


def _texts(job: Job, recipe: Settings, start: ReferenceSettings, prompts: Sequence[Facts], store: ChunkStore) -> list[Value]:
    from prefdata.models.engines.transformers import TransformersEngine

    made_with = job.revision(start.model, start.revision)
    most = recipe.generate.max_tokens
    asked = [Request(p["prompt_id"], tuple(prompt_of(p)), 0.0, 0, most, p["tools"], p["template_kwargs"]) for p in prompts]
    keys = [item_key("greedy", VERSION, made_with, start.template, start.end, most, r.id) for r in asked]
    if missing := store.missing(keys):
        engine = TransformersEngine(
            job.model_path(start.model), start.revision, start.template, start.end, made_with, job.settings.seed
        )
        some = [r for k, r in zip(keys, asked, strict=True) if k in set(missing)]
        store.put(dict(zip(missing, generate.complete(engine, some), strict=True)))
    values = store.get(keys)
    return [values[k] for k in keys]


def _candidate(value: Value) -> Facts:
    return {"candidate_id": "greedy", "response": value["text"], "finish": value["finish"]}


def _logps(job: Job, model: ReferenceSettings, items: Sequence[Item], store: ChunkStore) -> list[float | None]:
    """Log-probs in nats; None where the model cannot score an answer."""
    score = job.settings.score
    made_with = job.revision(model.model, model.revision)
    keys = [
        item_key("greedy logp", VERSION, made_with, score.dtype, i.prompt["prompt_id"], i.candidate["response"]) for i in items
    ]
    if missing := store.missing(keys):
        scorer = Scorer(job.model_path(model.model), model, score.dtype, score.batch_tokens)
        by_key = dict(zip(keys, items, strict=True))
        store.put(dict(zip(missing, scorer.values([by_key[k] for k in missing]), strict=True)))
    values = store.get(keys)
    return [values[k].get("logp") for k in keys]


def _mean_se(values: Sequence[float]) -> Facts | None:
    if not values:
        return None
    se = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "se": se, "n": len(values)}


# ---- its training ----


def _training(job: Job, segment: Segment) -> Facts:
    """Steps of the part, and means over them."""
    lines = job.input(places.metrics(segment.model)).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    known = {name: [r[name] for r in rows if r.get(name) is not None] for name in OF_STEPS}
    return {"steps": len(rows), "to": rows[-1]["step"], **{n: float(np.mean(v)) for n, v in known.items() if v}}


def _reads(settings: Settings, unit: str) -> list[Part]:
    segment = _segment(settings, unit)
    made, judged, drops = _parts(segment, recipe_of(settings, segment))
    return [*PROMPTS, made, judged, *drops, _sets(segment)]


def _models(settings: Settings, unit: str) -> list[Model]:
    segment = _segment(settings, unit)
    recipe, first = recipe_of(settings, segment), settings.parts(segment.run)[0]
    own = recipe.judge[0].model
    named = [(segment.start, segment.revision), (first.start, first.revision)]
    named += [(r.model, r.revision) for r in recipe.score.references] + (own.files() if own else [])
    return list(dict.fromkeys(named))


def _slice(settings: Settings, unit: str) -> Slice:
    segment = _segment(settings, unit)
    recipe, score = recipe_of(settings, segment), settings.score
    sampling = without(recipe.generate, "models", "shards_per_engine", "max_failed", "chunk_prompts")
    model = recipe.generate.models[0]
    assert settings.online is not None
    return {
        "segment": [segment.number, segment.count],
        "prompts": settings.online.greedy_prompts,
        "sampling": sampling,
        "encoding": [model.template, model.end],
        "dtype": score.dtype,
        "judge": slice_of(recipe, judge_unit(recipe.judge[0])),
        "seed": settings.seed,
    }


STAGE = Stage(
    name="online",
    help="Say what each segment of an online run was like: answers, judge, best against greedy, how far the policy moved.",
    version=VERSION,
    run=run,
    per="run",
    units=lambda s: [segment.name for segment in s.segments],
    reads=_reads,
    reads_files=lambda s, u: [places.metrics(_segment(s, u).model)],
    writes_files=lambda s, u: [places.online(u)],
    slice=_slice,
    models=_models,
    engine=lambda s, u: recipe_of(s, _segment(s, u)).judge[0].model,
    gpus=1,
)
