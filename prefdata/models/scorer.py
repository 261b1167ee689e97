"""Log-probs of candidates under one model, through THE log-prob forward; loaded when first asked."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any

import polars as pl

from prefdata.draws import item_key
from prefdata.errors import EngineError, snippet
from prefdata.models.chat import Refused
from prefdata.models.loading import context_of, load_model, release
from prefdata.models.settings import ReferenceSettings
from prefdata.models.tokens import Encoder, columns_of, load_encoder, require_rows
from prefdata.tables import schema
from prefdata.tables.finished import Value
from prefdata.tables.views import Frames, prompts_of

VERSION = 5
"""Raised when the log-probs of the forward change: what is stored is then made again."""


@dataclass(frozen=True)
class Item:
    """One candidate with its prompt."""

    prompt: dict[str, Any]
    candidate: dict[str, Any]


class Scorer:
    """One model with its encoder; loaded when first asked."""

    def __init__(self, path: str, settings: ReferenceSettings, dtype: str, batch_tokens: int) -> None:
        self.path, self.settings, self.dtype, self.batch_tokens = path, settings, dtype, batch_tokens
        self.checked = self.gave_numbers = False

    @cached_property
    def encoder(self) -> Encoder:
        return load_encoder(self.path, self.settings.revision, self.settings.template, self.settings.end)

    @cached_property
    def limit(self) -> int:
        context = context_of(self.path, self.settings.revision)
        return min(context, self.settings.max_tokens or context)

    @cached_property
    def model(self) -> Any:
        model = load_model(self.path, self.settings.revision, self.dtype)
        require_rows(self.encoder, model)
        return model

    def unload(self) -> None:
        """Forget the weights; they are loaded again when next asked."""
        self.__dict__.pop("model", None)
        release()

    def values(self, items: Sequence[Item]) -> list[Value]:
        """{"logp", "num_tokens"}, or what stands against it, for each item, in order: {"refused": the template's word},
        {"too_long": tokens}, {"lossy": decoded text}, {"not_finite": what the model gave}."""
        prompts, ids, values = self.encoded(items)
        fitting = [k for k, value in enumerate(values) if not value]
        for batch in self._batches(items, prompts, ids, fitting):
            owners = list(dict.fromkeys(items[k].prompt["prompt_id"] for k in batch))
            groups = [[k for k in batch if items[k].prompt["prompt_id"] == p] for p in owners]
            for group, sums in zip(groups, self._sums([prompts[p] for p in owners], groups, ids), strict=True):
                for k, total in zip(group, sums, strict=True):
                    values[k] = {"logp": total, "num_tokens": len(ids[k])} if isfinite(total) else {"not_finite": str(total)}
        self._require_numbers([values[k] for k in fitting])
        return values

    def _require_numbers(self, values: Sequence[Value]) -> None:
        """Raise EngineError where the model has given no finite log-prob at all, naming weights that are none."""
        self.gave_numbers = self.gave_numbers or not values or any("logp" in v for v in values)
        if not self.gave_numbers:
            wrong = next((n for n, weight in self.model.named_parameters() if not weight.isfinite().all()), None)
            why = f"the weights of {wrong} hold NaN or infinity" if wrong else "it overflows"
            raise EngineError(f"every log-prob is NaN: {why}", self.path, "use another checkpoint, or a wider dtype")

    def encoded(self, items: Sequence[Item]) -> tuple[dict[str, list[int]], list[list[int]], list[Value]]:
        """(ids of each prompt, ids of each answer, what stands against each item; {} where nothing does)."""
        unique = {i.prompt["prompt_id"]: i.prompt for i in items}
        columns = {p: columns_of(row) for p, row in unique.items()}
        prompts = dict(zip(unique, self.encoder.prompts_or_refusals(list(columns.values())), strict=True))
        answers, lossy = self.encoder.answers(
            [columns[i.prompt["prompt_id"]] for i in items],
            [i.candidate["response"] for i in items],
            [i.candidate["finish"] for i in items],
            [i.candidate.get("extras") for i in items],
        )
        ids: list[list[int]] = []
        against: list[Value] = []
        for k, (item, answer) in enumerate(zip(items, answers, strict=True)):
            prompt = prompts[item.prompt["prompt_id"]]
            refused = next((str(x.what) for x in (prompt, answer) if isinstance(x, Refused)), None)
            ids.append([] if isinstance(answer, Refused) else answer)
            length = len(ids[k]) + (0 if isinstance(prompt, Refused) else len(prompt))
            against.append({"refused": refused} if refused else {"too_long": length} if length > self.limit else {})
            if k in lossy and not against[k]:
                against[k] = {"lossy": snippet(lossy[k])}
        return {p: [] if isinstance(x, Refused) else x for p, x in prompts.items()}, ids, against

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


def problem(value: Value, name: str) -> tuple[str, str] | None:
    """(reason, detail) of the drop of an item that `name` cannot score."""
    match value:
        case {"refused": text}:
            return f"refused_by_template:{name}", text
        case {"too_long": tokens}:
            return f"too_long:{name}", f"{tokens} tokens"
        case {"lossy": text}:
            return "lossy_tokenizer", f"{name} reads {text}"
        case {"not_finite": text}:
            return f"not_finite:{name}", f"a log-prob of {text}"
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
            VERSION,
            *common,
            i.prompt["prompt_id"],
            i.prompt["tools"] or "",
            i.prompt["template_kwargs"] or "",
            i.candidate["candidate_id"],
            i.candidate["finish"],
        ): i
        for i in items
    }
