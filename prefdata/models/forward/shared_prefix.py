"""Prompts after their forward, with what their completions read of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from prefdata.models.forward.log_softmax import wide
from prefdata.models.forward.packed_attention import KeysValues


@dataclass(frozen=True)
class Prefix:
    """Keys and values by layer, tokens of each of B prompts, and what predicts each completion's first token: the final logits
    [B, V], or where those would hold too much the log-probs [Q] of the first tokens that were told beforehand, that of
    (prompt, id) at `places`."""

    layers: dict[int, KeysValues]
    lengths: Sequence[int]
    logits: Tensor | None
    firsts: Tensor | None = None
    places: Mapping[tuple[int, int], int] = field(default_factory=dict)

    def detached(self) -> "Prefix":
        """The same prefix without graph, for forwards whose gradient is not wanted."""
        layers = {i: (k.detach(), v.detach()) for i, (k, v) in self.layers.items()}
        logits, firsts = (None if x is None else x.detach() for x in (self.logits, self.firsts))
        return replace(self, layers=layers, logits=logits, firsts=firsts)

    def leaves(self) -> "Prefix":
        """The same prefix as the start of graphs of their own, whose gradients `backward` takes on: gradients of the weights
        then come from one call of the model at a time."""
        layers = {i: (_leaf(k), _leaf(v)) for i, (k, v) in self.layers.items()}
        logits, firsts = (None if x is None else _leaf(x) for x in (self.logits, self.firsts))
        return replace(self, layers=layers, logits=logits, firsts=firsts)

    def backward(self, leaves: "Prefix") -> None:
        """The gradients that have come to `leaves`, on through the prompts' own graph. Where none came they are zero: every
        rank goes through all of the graph."""
        pairs = list(zip(self._tensors(), leaves._tensors(), strict=True))
        roots = [(own, leaf) for own, leaf in pairs if own.requires_grad]
        grads = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for _, leaf in roots]
        torch.autograd.backward([own for own, _ in roots], grads)

    def _tensors(self) -> list[Tensor]:
        own = [x for pair in self.layers.values() for x in pair]
        return own + [x for x in (self.logits, self.firsts) if x is not None]

    @property
    def logits_bytes(self) -> int:
        """What its logits hold, with their copy in fp32 where they are narrower."""
        if self.logits is None:
            return 0
        dtypes = {self.logits.dtype, wide(self.logits.dtype)}
        return self.logits.numel() * sum(d.itemsize for d in dtypes)

    def first_logps(self, owner: Sequence[int], completions: Sequence[Sequence[int]], ids: Tensor, mask: Tensor) -> Tensor:
        """Log-probs of completions' first tokens, which are `ids` [N], 0 where the mask [N] is, of empty ones: [N], in fp32 or
        fp64."""
        if self.logits is not None:
            rows = torch.as_tensor(owner, dtype=torch.int64, device=ids.device)
            logits = self.logits.to(wide(self.logits.dtype))
            return (logits[rows, ids] - logits.logsumexp(1)[rows]) * mask
        assert self.firsts is not None
        asked = {n: self.places[b, c[0]] for n, (b, c) in enumerate(zip(owner, completions, strict=True)) if len(c)}
        places, found = (torch.tensor(list(some), dtype=torch.int64, device=ids.device) for some in (asked.values(), asked))
        return self.firsts.new_zeros(len(ids)).index_put((found,), self.firsts[places])


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)


def first_ids(completions: Sequence[Sequence[Sequence[int]]]) -> tuple[dict[tuple[int, int], int], list[int]]:
    """Of each prompt's completions, by (prompt, id of a first token) where its log-prob will lie, prompts ascending; and the
    ids in that order."""
    pairs = [(b, i) for b, group in enumerate(completions) for i in sorted({c[0] for c in group if len(c)})]
    return {pair: place for place, pair in enumerate(pairs)}, [i for _, i in pairs]
