"""Stage `score`: the log-prob of every candidate under one reference, through THE log-prob forward.

Each reference tokenises the text with its own tokenizer, template and end; only sums over its own ids are stored.
Nothing is truncated: a row longer than the reference's context is dropped, too_long:<reference>; an answer that the
reference's tokenizer cannot give back is dropped too, lossy_tokenizer, for its log-prob would be another text's.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from prefdata.draws import item_key
from prefdata.errors import snippet
from prefdata.models.loading import context_of, load_model
from prefdata.models.tokens import Encoder, load_encoder
from prefdata.recipe import fill
from prefdata.recipe.job import Frames, Job
from prefdata.recipe.settings import ReferenceSettings
from prefdata.recipe.units import policy_beside, reference
from prefdata.stages.generate import prompts_of
from prefdata.tables import schema
from prefdata.tables.finished import ChunkStore, Value

STAGE_VERSION = 4


@dataclass(frozen=True)
class Item:
    """One candidate with its prompt."""

    prompt: dict[str, Any]
    candidate: dict[str, Any]


class Scorer:
    """One model with its encoder; loaded when first asked."""

    def __init__(self, path: str, settings: ReferenceSettings, dtype: str, batch_tokens: int) -> None:
        self.path, self.settings, self.dtype, self.batch_tokens = path, settings, dtype, batch_tokens
        self.checked = False

    @cached_property
    def encoder(self) -> Encoder:
        return load_encoder(self.path, self.settings.revision, self.settings.template, self.settings.end)

    @cached_property
    def limit(self) -> int:
        context = context_of(self.path, self.settings.revision)
        return min(context, self.settings.max_tokens or context)

    @cached_property
    def model(self) -> Any:
        return load_model(self.path, self.settings.revision, self.dtype)

    def values(self, items: Sequence[Item]) -> list[Value]:
        """{"logp", "num_tokens"}, {"too_long": tokens} or {"lossy": decoded text} for each item, in order."""
        prompts = self._prompts(items)
        responses = [i.candidate["response"] for i in items]
        contents = self.encoder.contents(responses)
        ids = self.encoder.ended(contents, [i.candidate["finish"] for i in items])
        lengths = [len(prompts[i.prompt["prompt_id"]]) + len(c) for i, c in zip(items, ids, strict=True)]
        values: list[Value] = [{"too_long": n} for n in lengths]
        fitting = [k for k, n in enumerate(lengths) if n <= self.limit]
        for k, text in self.encoder.unfaithful([contents[k] for k in fitting], [responses[k] for k in fitting]).items():
            values[fitting[k]] = {"lossy": snippet(text)}
        fitting = [k for k in fitting if "lossy" not in values[k]]
        for batch in self._batches(items, prompts, ids, fitting):
            owners = list(dict.fromkeys(items[k].prompt["prompt_id"] for k in batch))
            groups = [[k for k in batch if items[k].prompt["prompt_id"] == p] for p in owners]
            for group, sums in zip(groups, self._sums([prompts[p] for p in owners], groups, ids), strict=True):
                for k, total in zip(group, sums, strict=True):
                    values[k] = {"logp": total, "num_tokens": len(ids[k])}
        return values

    def _prompts(self, items: Sequence[Item]) -> dict[str, list[int]]:
        unique = {i.prompt["prompt_id"]: i.prompt for i in items}
        asked = [(p["messages"], p["tools"], p["template_kwargs"]) for p in unique.values()]
        return dict(zip(unique, self.encoder.prompts(asked), strict=True))

    def _batches(
        self, items: Sequence[Item], prompts: dict[str, list[int]], ids: list[list[int]], fitting: list[int]
    ) -> Iterator[list[int]]:
        """Items of whole prompts, those of like length together: at most `batch_tokens` padded prompt tokens."""
        from prefdata.models.forward.logprob import batches

        groups: dict[str, list[int]] = {}
        for k in fitting:
            groups.setdefault(items[k].prompt["prompt_id"], []).append(k)
        order = sorted(groups, key=lambda p: (len(prompts[p]), p))
        for some in batches([len(prompts[p]) for p in order], self.batch_tokens):
            yield [k for i in some for k in groups[order[i]]]

    def _sums(self, prompts: list[list[int]], groups: list[list[int]], ids: list[list[int]]) -> list[list[float]]:
        import torch

        from prefdata.models.forward.logprob import grouped_logps, require_equal_rows

        completions = [[ids[k] for k in g] for g in groups]
        if not self.checked:
            require_equal_rows(self.model, prompts[:2], [c[:2] for c in completions[:2]])
            self.checked = True
        with torch.no_grad():
            sums = grouped_logps(self.model, prompts, completions, self.batch_tokens)
        return [s.tolist() for s in sums]


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


def pairs(frames: Frames, splits: Sequence[str]) -> list[Item]:
    """Every candidate that is alive, with its prompt, in table order."""
    prompts = {r["prompt_id"]: r for r in prompts_of(frames, splits).to_dicts()}
    kept = schema.alive(frames["candidates"], frames["drops"]).filter(pl.col("prompt_id").is_in(list(prompts)))
    return [Item(prompts[c["prompt_id"]], c) for c in kept.to_dicts()]


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
