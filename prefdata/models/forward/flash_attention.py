"""Attention of packed rows on a GPU in bf16 and fp16: FlashAttention's kernels for rows of any lengths (arXiv 2307.08691).

One call within the segments, one from each prompt's segments to the prompt, joined by log-sum-exp as
`packed_attention._Split` does. Nothing is compiled, no mask is made. fp32 goes other ways.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from prefdata.models.forward import flex_attention

_forward = torch.ops.aten._flash_attention_forward
_backward = torch.ops.aten._flash_attention_backward


@dataclass(frozen=True)
class Rows:
    """Where rows that lie behind each other begin and the last one ends, int32, and the longest one's tokens."""

    ends: Tensor
    longest: int


def rows(lengths: Sequence[int], device: torch.device) -> Rows:
    return Rows(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device), max(lengths))


@dataclass(frozen=True)
class Places:
    """Of a packed row: its segments; and its families (all segments of one prompt, for every prompt, none may be there) with
    the prompts before them."""

    segments: Rows
    families: Rows | None = None
    prompts: Rows | None = None


def places(segments: Sequence[int], owners: Sequence[int], prompts: Sequence[int], device: torch.device) -> Places:
    """`owners`: the prompt of each segment; those of one prompt lie behind each other, in the order of the prompts."""
    if not prompts:
        return Places(rows(segments, device))
    if list(owners) != sorted(owners):
        raise ValueError(f"segments are not in the order of their prompts: {list(owners)}")
    tokens = [0] * len(prompts)
    for owner, length in zip(owners, segments, strict=True):
        tokens[owner] += length
    return Places(rows(segments, device), rows(tokens, device), rows(prompts, device))


def attend(
    query: Tensor, key: Tensor, value: Tensor, prefix: tuple[Tensor, Tensor] | None, where: Places, scale: float | None
) -> Tensor:
    """query [1, h, T, d], key and value [1, k, T, d], the prefix's [1, k, P, d] -> [1, T, h, d]."""
    inputs = [x[0].transpose(0, 1) for x in (query, key, value, *(prefix or ()))]
    if prefix is None:
        inputs += [None, None]
    made: Tensor = _Flash.apply(*inputs, where, scale)  # type: ignore[no-untyped-call]
    return made.unsqueeze(0)


class _Flash(torch.autograd.Function):
    """[T, h, d] each."""

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
        own = where.segments
        ends = (own.ends, own.ends, own.longest, own.longest)
        out, sums, *ctx.own = _forward(query, key, value, *ends, 0.0, True, False, scale=scale)[:4]
        if keys is not None:
            between = _between(where)
            there, their, *ctx.other = _forward(query, keys, values, *between, 0.0, False, False, scale=scale)[:4]
            # softmax over both parts is the mean of either's, weighed by its share exp(lse) of the whole sum
            share = torch.sigmoid(their - sums).t().unsqueeze(-1)
            out = out.to(share.dtype).lerp_(there.to(share.dtype), share).to(query.dtype)
            sums = torch.logaddexp(sums, their)
        ctx.save_for_backward(query, key, value, keys, values, out, sums)
        ctx.where, ctx.scale = where, scale
        joined: Tensor = out
        return joined

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, keys, values, out, sums = ctx.saved_tensors
        grad, own = grads[0].contiguous(), ctx.where.segments
        ends = (own.ends, own.ends, own.longest, own.longest)
        # given the whole's output and sum, the kernel gives a part's share of the whole's gradient
        with _reproducible():
            made = _backward(grad, query, key, value, out, sums, *ends, 0.0, True, *ctx.own, scale=ctx.scale)
        if keys is None:
            return *made, None, None, None, None
        between = _between(ctx.where)
        with _reproducible():
            before = _backward(grad, query, keys, values, out, sums, *between, 0.0, False, *ctx.other, scale=ctx.scale)
        return made[0] + before[0], *made[1:], *before[1:], None, None


@contextmanager
def _reproducible() -> Iterator[None]:
    """The kernel adds a query's gradient in the order of its blocks: a resumed run is then bit for bit the unbroken one."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _between(where: Places) -> tuple[Tensor, Tensor, int, int]:
    assert where.families is not None
    assert where.prompts is not None
    return where.families.ends, where.prompts.ends, where.families.longest, where.prompts.longest


@lru_cache
def works(heads: int, key_heads: int, width: int, dtype: torch.dtype, device: torch.device) -> bool:
    """As `flex_attention.works`."""
    if dtype not in (torch.bfloat16, torch.float16):
        return False
    try:
        with torch.enable_grad(), torch.autocast(device.type, enabled=False):
            shape = (heads, key_heads, width, dtype, device)
            found, exact = (flex_attention._tried(by, *shape) for by in (_by_flash, flex_attention._by_dot_products))
    except Exception as error:
        return _refused(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
    apart = max(float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True))
    return apart <= flex_attention.TOLERANCE[dtype] or _refused(f"it is off by {apart:.1e}")


def _refused(reason: str) -> bool:
    print(f"FlashAttention is not used on this device ({reason}); FlexAttention is tried", file=sys.stderr)
    return False


def _by_flash(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    where = places(flex_attention.SEGMENTS, flex_attention.OWNERS, flex_attention.PROMPTS, query.device)
    cut = [sum(flex_attention.PROMPTS), sum(flex_attention.SEGMENTS)]
    (keys, key), (values, value) = (torch.split(x, cut, 2) for x in (key, value))
    return attend(query, key, value, (keys, values), where, None).transpose(1, 2)
