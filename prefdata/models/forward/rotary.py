"""Rotary position embedding as one operation of the graph, in place of transformers' own where that gives the same, to the bit.

Theirs turns the halves of each head by slices and a concatenation, whose gradients are rows of zeros first: on a CPU it took
longer than the products of queries and keys whose results it turns.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

NAME = "apply_rotary_pos_emb"
"""What files of transformers' models call it."""


@contextmanager
def rotating(model: Any) -> Iterator[None]:
    """Within: the model turns its queries and keys by this file, where its own function does nothing else."""
    home = _home(model)
    theirs = None if home is None else getattr(home, NAME)
    if home is None or not _halves(theirs):
        yield
        return
    setattr(home, NAME, _Ours(theirs))
    try:
        yield
    finally:
        setattr(home, NAME, theirs)


def _home(model: Any) -> ModuleType | None:
    """The file that the model's layers are written in, where it has such a function."""
    files = (sys.modules.get(type(module).__module__) for module in model.modules())
    return next((file for file in files if file is not None and hasattr(file, NAME)), None)


@lru_cache
def _halves(theirs: Any) -> bool:
    """Whether a function turns the halves of each head as `_turned` does: other models turn neighbours, or a part of a head."""
    draw = torch.Generator().manual_seed(0)
    query, key, cos, sin = (torch.randn(1, *n, 3, 8, generator=draw, dtype=torch.float64) for n in ((4,), (2,), (), ()))
    try:
        given = theirs(query, key, cos, sin)
        return all(torch.equal(a, _turned(x, cos, sin)) for a, x in zip(given, (query, key), strict=True))
    except (TypeError, ValueError, RuntimeError):
        return False


@dataclass(frozen=True)
class _Ours:
    """Stands where `theirs` stood, and calls it for everything but queries and keys [B, h, T, d] with angles [B, T, d] of one
    dtype."""

    theirs: Any

    def __call__(
        self, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, *more: Any, **options: Any
    ) -> tuple[Tensor, Tensor]:
        plain = query.dim() == 4 and cos.dim() == 3 and query.shape[-1] == cos.shape[-1]
        alike = query.dtype == key.dtype == cos.dtype == sin.dtype
        if more or options or not (plain and alike) or torch.compiler.is_compiling():  # a compiler joins theirs by itself
            return self.theirs(query, key, cos, sin, *more, **options)  # type: ignore[no-any-return]
        return _Turn.apply(query, cos, sin), _Turn.apply(key, cos, sin)  # type: ignore[no-untyped-call]


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B, h, T, d] by angles [B, T, d]: the halves (a, b) of each head become (a cos - b sin, b cos + a sin)."""
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    half = x.shape[-1] // 2
    made = x * cos
    made[..., :half].sub_(x[..., half:] * sin[..., :half])
    made[..., half:].add_(x[..., :half] * sin[..., half:])
    return made


class _Turn(torch.autograd.Function):
    """Linear in x: the gradient is turned back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        # an output's half b sin went to a, and a sin to b: the same with sines swapped between the halves and negative
        return _turned(grads[0], cos, -sin.roll(sin.shape[-1] // 2, -1)), None, None
