"""Attention of a packed row on a CPU: torch's fused kernel within each segment and to its prompt, joined by log-sum-exp.

With the joined output and log-sum-exp, the kernel's own backward is exact for either part (as in Ring Attention, Liu et al.
2023, arXiv 2310.01889). One operation of the graph a layer, which takes the row apart and puts it together once: a slice for
each segment would cost as much as a short segment's products.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_fused_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True)
class Places:
    """Tokens of each segment, of each family (all segments of one prompt, which lie together), of each prompt; and which prompt
    each family has. A row of prompts has no families."""

    segments: list[int]
    families: list[int]
    prompts: list[int]
    owners: list[int]


def places(lengths: Sequence[int], owners: Sequence[int], prompts: Sequence[int]) -> Places:
    """`lengths`: of the segments; `owners`: the prompt of each, ascending; `prompts`: their lengths."""
    families: dict[int, int] = {}
    for owner, length in zip(owners, lengths, strict=False):  # a row of prompts has no owners
        families[owner] = families.get(owner, 0) + length
    return Places(list(lengths), list(families.values()), list(prompts), list(families))


def attend(
    query: Tensor, key: Tensor, value: Tensor, prefix: tuple[Tensor, Tensor] | None, where: Places, scale: float | None
) -> Tensor:
    """query [1, h, T, d] -> [1, T, h, d]; `prefix`: keys and values of the prompts, for a row with families."""
    made: Tensor = _Split.apply(query, key, value, *(prefix or (None, None)), where, scale)  # type: ignore[no-untyped-call]
    return made.transpose(1, 2)


def last_only(query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], scale: float | None) -> Tensor:
    """Attention within the segments of each one's last token, zeros for the others: [1, T, h, d]."""
    parts = _parts(list(lengths), query, key, value)
    return torch.cat([_last(q, k, v, scale) for q, k, v in parts], 2).transpose(1, 2)


def _last(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    last = F.scaled_dot_product_attention(query[:, :, -1:], key, value, scale=scale, enable_gqa=True)
    return F.pad(last, (0, 0, query.shape[2] - 1, 0))


def _parts(lengths: list[int], *rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Of each tensor [1, h, T, ...] the parts of so many tokens. Not slices, whose gradients are whole rows of zeros."""
    return zip(*(torch.split(x, lengths, 2) for x in rows), strict=True)


def _row(parts: Iterable[Tensor]) -> Tensor:
    """Parts [1, h, tokens, d] behind one another, with the heads of a token side by side, as the kernel leaves them."""
    return torch.cat([x.transpose(1, 2) for x in parts], 1).transpose(1, 2)


class _Split(torch.autograd.Function):
    """Each segment's attention to itself and, in a row with families, to its prompt."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        keys: Tensor | None,
        values: Tensor | None,
        where: Places,
        scale: float | None,
    ) -> Tensor:
        made = [_fused(q, k, v, 0.0, True, scale=scale) for q, k, v in _parts(where.segments, query, key, value)]
        out, sums = _row(o for o, _ in made), torch.cat([s for _, s in made], 2)
        if keys is not None and values is not None:
            prompts = list(_parts(where.prompts, keys, values))
            for (q, here, mine), owner in zip(_parts(where.families, query, out, sums), where.owners, strict=True):
                there, their = _fused(q, *prompts[owner], 0.0, False, scale=scale)
                # softmax over both parts is the mean of either's, weighed by its share exp(lse) of the whole sum
                here.lerp_(there, torch.sigmoid(their - mine).to(out.dtype).unsqueeze(-1))
                torch.logaddexp(mine, their, out=mine)
        # no more of the row than where its parts lie: its keys and values have a graph that leads back here
        ctx.where, ctx.scale = where, scale
        ctx.save_for_backward(query, key, value, keys, values, out, sums)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, keys, values, out, sums = ctx.saved_tensors
        where = ctx.where

        def share(causal: bool, grad: Tensor, query: Tensor, out: Tensor, sums: Tensor, key: Tensor, value: Tensor) -> Any:
            """Given the whole's output and sum: this part's share of the whole's gradient."""
            return _fused_backward(grad, query, key, value, out, sums, 0.0, causal, scale=ctx.scale)

        row = (grads[0], query, out, sums)
        within = [share(True, *some) for some in _parts(where.segments, *row, key, value)]
        made = [_row(some) for some in zip(*within, strict=True)]
        if keys is None:
            return (*made, None, None, None, None)
        prompts = list(_parts(where.prompts, keys, values))
        found = {
            owner: share(False, *some, *prompts[owner])
            for some, owner in zip(_parts(where.families, *row), where.owners, strict=True)
        }
        made[0] += _row(some[0] for some in found.values())
        for part in (1, 2):  # a prompt may have no completion here
            made.append(_row(found[b][part] if b in found else torch.zeros_like(p[0]) for b, p in enumerate(prompts)))
        return (*made, None, None)
