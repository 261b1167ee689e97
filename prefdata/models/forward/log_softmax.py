"""log softmax at one id a row, without the whole table: the logits of a forward are its largest tensor, and torch's own
cross-entropy makes three more of their size. Here blocks of rows that stay in cache, and one such tensor for the gradient."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = {"cpu": 2**19, "cuda": 2**25}
"""Logits of a block."""


def log_softmax_at(logits: Tensor, ids: Tensor) -> Tensor:
    """log softmax(logits [K, V])[ids [K]]: [K], with gradient; in fp32, or fp64 where the logits are."""
    made: Tensor = _LogSoftmaxAt.apply(logits, ids)  # type: ignore[no-untyped-call]
    return made


def wide(dtype: torch.dtype) -> torch.dtype:
    """fp32 at least."""
    return torch.promote_types(dtype, torch.float32)


def _blocks(logits: Tensor) -> Iterator[slice]:
    rows, columns = logits.shape
    size = max(1, BLOCK.get(logits.device.type, BLOCK["cpu"]) // columns)
    return (slice(start, start + size) for start in range(0, rows, size))


class _LogSoftmaxAt(torch.autograd.Function):
    """The derivative by logit j of row k: 1[j = ids[k]] - softmax(logits[k])[j]."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(logits, ids)
        made = logits.new_empty(len(logits), 1, dtype=wide(logits.dtype))
        for rows in _blocks(logits):
            made[rows] = torch.log_softmax(logits[rows], 1, dtype=made.dtype).gather(1, ids[rows].unsqueeze(1))
        return made.squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logits, ids = ctx.saved_tensors
        made, grad = torch.empty_like(logits), grads[0].unsqueeze(1)
        for rows in _blocks(logits):
            some = made[rows]
            shares = some if some.dtype == grad.dtype else torch.empty_like(some, dtype=grad.dtype)
            torch.softmax(logits[rows], 1, dtype=grad.dtype, out=shares)
            shares.mul_(-grad[rows]).scatter_add_(1, ids[rows].unsqueeze(1), grad[rows])
            if shares is not some:
                some.copy_(shares)
        return made, None
