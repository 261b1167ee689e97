"""Stage `score`: the log-prob of every candidate under one reference, through THE log-prob forward.

Each reference tokenises the text with its own tokenizer, template and end; only sums over its own ids are stored.
Nothing is truncated: a row longer than the reference's context is dropped, too_long:<reference>; an answer that the
reference's tokenizer cannot give back is dropped too, lossy_tokenizer, for its log-prob would be another text's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from prefdata.draws import item_key
from prefdata.models.scorer import Item, Scorer, pairs
from prefdata.models.settings import ReferenceSettings
from prefdata.recipe import fill
from prefdata.recipe.job import Job
from prefdata.recipe.units import policy_beside, reference
from prefdata.tables import schema
from prefdata.tables.finished import ChunkStore
from prefdata.tables.views import Frames

STAGE_VERSION = 4


def run(job: Job) -> None:
    """Fill the store with log-probs, write logps and drops."""
    own, score = reference(job.settings, job.unit), job.settings.score
    path = job.run.model_path(own.model)
    scorer = Scorer(path, own, score.dtype, score.batch_tokens)
    common = (job.run.revision(own.model, own.revision), score.dtype, own.template, own.end, own.max_tokens)
    policy = _policy(job, own)
    if policy is not None:
        _ = policy.limit, policy.encoder  # what cannot serve is refused before any work

    def items(frames: Frames) -> dict[str, Item]:
        return keyed(pairs(frames, job.settings.sets.splits), common)

    with ChunkStore(job.run.chunks("score", job.unit)) as store:
        fill.fill(job, store, score.chunk_prompts, items, fill.whole(scorer.values))
        fill.write(job, lambda frames: rows(frames, items(frames), store, own.name, policy))


def _policy(job: Job, own: ReferenceSettings) -> Scorer | None:
    """The policy's own encoder and limit, checked beside the primary reference where it is another model."""
    for name, revision in policy_beside(job.settings, job.unit):
        policy = own.model_copy(update={"model": name, "revision": revision, "max_tokens": None})
        return Scorer(job.run.model_path(name), policy, job.settings.score.dtype, 1)
    return None


def keyed(items: Sequence[Item], common: tuple[Any, ...]) -> dict[str, Item]:
    """Items by key: model revision, dtype, template, end, limit, stage version, prompt and candidate."""
    return {
        item_key(
            STAGE_VERSION,
            *common,
            i.prompt["prompt_id"],
            i.prompt["tools"] or "",
            i.prompt["template_kwargs"] or "",
            i.candidate["candidate_id"],
            i.candidate["finish"],
        ): i
        for i in items
    }


def rows(frames: Frames, items: Mapping[str, Item], store: ChunkStore, name: str, policy: Scorer | None) -> Frames:
    """logps of what was scored; drops of scope candidate for what was too long."""
    values = store.get(list(items))
    long_for_policy = _too_long(policy, items) if policy else {}
    made, drops = [], []
    for key, item in items.items():
        too_long, lossy = values[key].get("too_long"), values[key].get("lossy")
        if lossy is not None:
            drops.append(_drop(item, "lossy_tokenizer", f"{name} reads {lossy}"))
        elif too_long is not None or key in long_for_policy:
            who = name if too_long is not None else "policy"
            drops.append(_drop(item, f"too_long:{who}", f"{too_long or long_for_policy[key]} tokens"))
        else:
            ids = {"prompt_id": item.prompt["prompt_id"], "candidate_id": item.candidate["candidate_id"]}
            made.append({**ids, "reference": name, **values[key]})
    return {"logps": schema.frame("logps", made), "drops": schema.frame("drops", drops)}


def _too_long(policy: Scorer, items: Mapping[str, Item]) -> dict[str, int]:
    prompts = policy._prompts(list(items.values()))
    responses, finishes = zip(*[(i.candidate["response"], i.candidate["finish"]) for i in items.values()], strict=True)
    ids = policy.encoder.completions(responses, finishes)
    lengths = {k: len(prompts[i.prompt["prompt_id"]]) + len(c) for (k, i), c in zip(items.items(), ids, strict=True)}
    return {k: n for k, n in lengths.items() if n > policy.limit}


def _drop(item: Item, reason: str, detail: str) -> dict[str, Any]:
    return {
        "scope": "candidate",
        "prompt_id": item.prompt["prompt_id"],
        "candidate_id": item.candidate["candidate_id"],
        "source": item.prompt["source"],
        "source_row": item.prompt["source_row"],
        "stage": "score",
        "reason": reason,
        "detail": detail,
    }
