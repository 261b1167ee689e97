"""The transformers engine: batched sampling whose every token is a keyed draw, and label log-probs."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from prefdata.draws import uniform
from prefdata.kinds import End, Template
from prefdata.models.engines.prompts import WITHOUT_ROOM, prompts_of
from prefdata.models.engines.protocol import Completion, Replies, Request, batches, chosen
from prefdata.models.forward import logprob
from prefdata.models.loading import context_of, load_model
from prefdata.models.tokens import load_encoder, require_rows

BATCH_ROWS = 256


class TransformersEngine:
    """Holds one model. `producer` (model@revision) and `seed` key the draws."""

    def __init__(self, path: str, revision: str | None, template: Template, end: End, producer: str, seed: int) -> None:
        self.encoder = load_encoder(path, revision, template, end)
        self.model = load_model(path, revision)
        require_rows(self.encoder, self.model)
        self.context = context_of(path, revision)
        self.producer, self.seed = producer, seed
        self.stops = self._stops()

    def _stops(self) -> frozenset[int]:
        """Whatever ends an answer under this model: the template's end, eos, and the generation config's."""
        configured = getattr(self.model.generation_config, "eos_token_id", None)
        ids = configured if isinstance(configured, list) else [configured]
        return frozenset(int(i) for i in (*ids, self.encoder.end_id, self.encoder.tokenizer.eos_token_id) if i is not None)

    def complete(self, requests: Iterable[Request]) -> Replies:
        """Sample every request; a prompt that leaves no room is an error with the reason no_room."""
        first = 0
        for some in batches(requests, BATCH_ROWS):
            yield from enumerate(self._batch(some), first)
            first += len(some)

    @torch.no_grad()
    def _batch(self, requests: list[Request]) -> list[Completion]:
        prompts, refused = prompts_of(self.encoder, requests)
        fitting = [i for i, p in enumerate(prompts) if 0 < len(p) < self.context]
        made = dict(zip(fitting, self._sample([requests[i] for i in fitting], [prompts[i] for i in fitting]), strict=True))
        return [made.get(i) or refused.get(i, WITHOUT_ROOM) for i in range(len(requests))]

    def _sample(self, requests: list[Request], prompts: list[list[int]]) -> list[Completion]:
        if not requests:
            return []
        unique = {tuple(p): None for p in prompts}
        place = {p: i for i, p in enumerate(unique)}
        rows = torch.tensor([place[tuple(p)] for p in prompts], device=self.model.device)
        cache, mask, logits = self._started(list(unique), rows)
        lengths = mask.sum(1)
        limits = [min(r.max_tokens, self.context - len(p)) for r, p in zip(requests, prompts, strict=True)]
        written: list[list[int]] = [[] for _ in requests]
        finish: list[str | None] = [None] * len(requests)
        for position in range(max(limits)):
            tokens = self._draw(logits, requests, position, finish)
            for i, token in enumerate(tokens):
                if finish[i] is None:
                    written[i].append(token)
                    ended, cut = token in self.stops, len(written[i]) >= limits[i]
                    finish[i] = "stop" if ended else "length" if cut else None
            if all(finish):
                break
            mask = torch.cat([mask, mask.new_ones(len(requests), 1)], 1)
            step = torch.tensor(tokens, device=mask.device).unsqueeze(1)
            places = (lengths + position).unsqueeze(1)
            out = self.model(input_ids=step, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True)
            logits = out.logits[:, -1]
        return [self._completion(w, str(f)) for w, f in zip(written, finish, strict=True)]

    def _started(self, prompts: list[tuple[int, ...]], rows: Tensor) -> tuple[Any, Tensor, Tensor]:
        """Each prompt run once: cache, mask [rows, P] and last logits [rows, V], one row for each entry of `rows`."""
        ids, mask = logprob.pad(prompts, "left", self.model.device)
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            past_key_values=DynamicCache(),  # full layers only: a sliding one would cut long prompts
            use_cache=True,
            logits_to_keep=1,
        )
        cache = out.past_key_values
        cache.batch_select_indices(rows)
        return cache, mask[rows], out.logits[rows, -1]

    def _completion(self, ids: list[int], finish: str) -> Completion:
        text = self.encoder.decode(ids[:-1] if finish == "stop" else ids)
        return Completion(text, "stop" if finish == "stop" else "length", len(ids))

    def _draw(self, logits: Tensor, requests: list[Request], position: int, finish: list[str | None]) -> list[int]:
        """Greedy at temperature 0, else the inverse CDF of one keyed u; pad (0) for rows that ended."""
        rows = logits.double().cpu().numpy()
        return [0 if finish[i] else self._token(rows[i], request, position) for i, request in enumerate(requests)]

    def _token(self, logits: Any, request: Request, position: int) -> int:
        if request.temperature == 0:
            return int(logits.argmax())
        weights = np.exp((logits - logits.max()) / request.temperature)
        total = np.cumsum(weights)
        key = (self.producer, request.temperature, request.sample, position)
        u = uniform(self.seed, "sample", request.id, 0, key)
        return int(np.searchsorted(total, u * total[-1], side="right"))

    def choose(self, requests: Iterable[Request], labels: Sequence[str]) -> Replies:
        """Log-prob of each label's tokens as the beginning of the answer (no end token), by one forward."""
        first, ids = 0, self.encoder.contents(labels)
        for some in batches(requests, BATCH_ROWS):
            yield from enumerate(self._choices(some, ids, labels), first)
            first += len(some)

    @torch.no_grad()
    def _choices(self, requests: list[Request], ids: list[list[int]], labels: Sequence[str]) -> list[Completion]:
        prompts, refused = prompts_of(self.encoder, requests)
        room = self.context - max(map(len, ids))
        fitting = [i for i, p in enumerate(prompts) if 0 < len(p) <= room]
        sums = logprob.grouped_logps(self.model, [prompts[i] for i in fitting], [ids] * len(fitting)) if fitting else []
        made = {i: chosen(labels, s.tolist(), len(prompts[i])) for i, s in zip(fitting, sums, strict=True)}
        return [made.get(i) or refused.get(i, WITHOUT_ROOM) for i in range(len(requests))]
