"""The forwards of one micro-batch: prompts once for all their completions, or a prompt for each completion."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prefdata.models.forward import logprob
from prefdata.models.forward.shared_prefix import Prefix
from train.examples import Example
from train.objectives.negatives import Vector

WEIGHED_TOKENS = {"cpu": 3072, "cuda": 16_384}
"""Tokens of a forward without gradient, by device, prompts counted for each completion: bounds its logits, whatever the pool.
A GPU is fed by many tokens at once; on a CPU blocks that stay in cache are faster."""


def shares(model: Any, batch: Sequence[Example]) -> bool:
    """Whether prompts run once: where the model can and it pays."""
    longest = max(len(e.prompt) + max(map(len, e.completions)) for e in batch)
    return logprob.sharing_pays([e.completions for e in batch]) and logprob.shares_prefix(model, longest)


def pool_calls(model: Any, batch: Sequence[Example], first: int) -> int:
    """How often `pooled` calls the model, at most."""
    if not shares(model, batch):
        return 1
    return len(logprob.runs([len(e.prompt) + len(c) for e in batch for c in e.completions[first:]], _weighed_tokens(model)))


def _weighed_tokens(model: Any) -> int:
    return WEIGHED_TOKENS.get(model.device.type, WEIGHED_TOKENS["cpu"])


class Shared:
    """The shared-prefix forwards of one micro-batch. `apart`: gradients of the prompts' forward are computed after those of the
    completions'. A weight that both use has then one gradient at a time: sharded layers reduce each at once, where else the
    first of every layer would wait for the second."""

    def __init__(self, model: Any, batch: Sequence[Example], apart: bool = False) -> None:
        self.model, self.batch = model, batch
        self.prefix = self.read = logprob.prefix(model, [e.prompt for e in batch], [e.completions for e in batch])
        if apart:
            self.read = self.prefix.leaves()

    def weighed(self, first: int) -> list[Vector]:
        """Log-probs of completions[first:], without grad: one fp64 array [pool] a prompt."""
        return [s.cpu().numpy() for s in self.pooled(first)]

    def pooled(self, first: int) -> list[Tensor]:
        """As `weighed`, on the model's device."""
        pools = [e.completions[first:] for e in self.batch]
        with torch.no_grad():
            return logprob.pool_logps(self.model, self.prefix.detached(), pools, _weighed_tokens(self.model))

    def trained(self, places: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Log-probs with grad of the chosen [B] and of the negatives [B, M] (0 at padding)."""
        return _arrange(self._logps(self.read, [[0, *p] for p in places]), places)

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradient to the model's."""
        loss.backward()  # type: ignore[no-untyped-call]
        if self.read is not self.prefix:
            self.prefix.backward(self.read)

    def _logps(self, prefix: Prefix, places: Sequence[Sequence[int]]) -> Tensor:
        owner = [b for b, group in enumerate(places) for _ in group]
        rows = [self.batch[b].completions[n] for b, group in enumerate(places) for n in group]
        return logprob.candidate_logps(self.model, prefix, owner, rows)


class Rows(Shared):
    """The same with a prompt for each completion: where there is nothing to share, or the model's attention cannot."""

    def __init__(self, model: Any, batch: Sequence[Example]) -> None:
        self.model, self.batch = model, batch

    def pooled(self, first: int) -> list[Tensor]:
        places = [list(range(first, len(e.completions))) for e in self.batch]
        with torch.no_grad():
            return list(torch.split(self._rows(places), [len(p) for p in places]))

    def trained(self, places: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        return _arrange(self._rows([[0, *p] for p in places]), places)

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def _rows(self, places: Sequence[Sequence[int]]) -> Tensor:
        prompts = [self.batch[b].prompt for b, group in enumerate(places) for _ in group]
        rows = [self.batch[b].completions[n] for b, group in enumerate(places) for n in group]
        return logprob.separate_logps(self.model, prompts, rows)


Forward = Shared


def forward_of(model: Any, batch: Sequence[Example], apart: bool = False) -> Forward:
    """`apart`: as Shared has it; rows are a single forward anyway."""
    return Shared(model, batch, apart) if shares(model, batch) else Rows(model, batch)


def _arrange(sums: Tensor, places: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Flat log-probs, chosen first in each group, as [B] and [B, M]."""
    width = max((len(p) for p in places), default=0)
    groups = torch.split(sums, [1 + len(p) for p in places])
    rejected = [torch.cat([g[1:], g.new_zeros(width - len(g) + 1)]) for g in groups]
    return torch.stack([g[0] for g in groups]), torch.stack(rejected)
