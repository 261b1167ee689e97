"""Attention of packed rows on a GPU: FlexAttention (arXiv 2412.05496), one kernel for a row, whatever its segments and prompts.

Keys are the packed prompts' and behind them the row's own; a block mask, made once a row, says which of them a token sees:
its prompt's, and its segment's up to itself. Blocks that nobody sees are not computed. torch compiles the kernel for rows of
any length; a handful of graphs for each dtype (with and without gradient, rows of one block, prompts or none).
"""

import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, create_mask, flex_attention

TOLERANCE = {torch.float32: 1e-2, torch.bfloat16: 5e-2, torch.float16: 2e-2}
"""Of the norm. Tensor cores may round fp32 to the 11 bits of TF32, bf16 has 8: this tells kernels that are wrong from those
that round."""

GRAPHS = 64
"""More than every dtype and kind of row can need."""


def visible(
    segments: Sequence[int], owners: Sequence[int], prompts: Sequence[int], device: torch.device
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The mask of a row: lengths of its segments, each one's prompt, lengths of the packed prompts before it in the keys."""
    count, tokens = len(segments), torch.tensor(segments, device=device)
    segment = torch.repeat_interleave(torch.arange(count, device=device), tokens)
    before = sum(prompts)
    prompt = torch.repeat_interleave(torch.arange(len(prompts), device=device), torch.tensor(prompts, device=device).long())
    none = torch.full((before,), -1, device=device)
    # by key: its prompt (-1: none), its segment (-1: none); by query: its segment's prompt (-2: none)
    prompt_of_key = torch.cat([prompt, torch.full_like(segment, -1)])
    segment_of_key = torch.cat([none, segment])
    own = torch.tensor([*owners] or [-2] * count, device=device)[segment]

    def mask(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        here = (segment_of_key[key] == segment[query]) & (key - before <= query)
        return here | (prompt_of_key[key] == own[query])

    return mask


def block_mask(segments: Sequence[int], owners: Sequence[int], prompts: Sequence[int], device: torch.device) -> BlockMask:
    tokens = sum(segments)
    return create_block_mask(visible(segments, owners, prompts, device), None, None, tokens, sum(prompts) + tokens, device)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scale: float | None) -> Tensor:
    """query [1, h, T, d], key and value [1, k, P + T, d] -> [1, h, T, d]."""
    # not the kernel for decoding, which torch takes for rows of less than 128 tokens and then has none for grouped heads
    options = {"FORCE_USE_FLEX_ATTENTION": True}
    kernel = _kernel(query.device.type)
    made: Tensor = kernel(query, key, value, block_mask=mask, scale=scale, enable_gqa=True, kernel_options=options)
    return made


@lru_cache
def _kernel(device: str) -> Any:
    """Compiled for GPUs; elsewhere as it is, which tests compare with."""
    if device != "cuda":
        return flex_attention
    # one dtype takes eight graphs, torch's limit: beyond it attention would run unfused, in the memory of all scores
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
    return torch.compile(flex_attention, dynamic=True)


@lru_cache
def works(heads: int, key_heads: int, width: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether this machine computes attention of such heads, and its gradients, as plain scaled dot products do: tried once;
    says so where it does not."""
    try:
        # whoever asks may be scoring, or in a forward with bf16 products
        with torch.enable_grad(), torch.autocast(device.type, enabled=False):
            found, exact = (_tried(by, heads, key_heads, width, dtype, device) for by in (_by_flex, _by_dot_products))
    except Exception as error:  # no compiler, no kernel for the shape: there is another way
        return _refused(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
    apart = max(float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True))
    return apart <= TOLERANCE.get(dtype, 1e-6) or _refused(f"it is off by {apart:.1e}")


def _refused(reason: str) -> bool:
    print(f"FlexAttention is not used on this device ({reason}); completions are padded instead", file=sys.stderr)
    return False


SEGMENTS, OWNERS, PROMPTS = (70, 3, 130), (0, 0, 1), (40, 150)
"""What is tried: several blocks of 128 tokens, prompts and segments that end within one."""


def _tried(
    by: Callable[..., Tensor], heads: int, key_heads: int, width: int, dtype: torch.dtype, device: torch.device
) -> list[Tensor]:
    """Output and gradients of queries, keys and values of fixed numbers, fp64."""
    draw = torch.Generator().manual_seed(0)
    tokens = sum(SEGMENTS)

    def numbers(heads: int, length: int) -> Tensor:
        return torch.randn(1, heads, length, width, generator=draw).to(device, dtype)

    query, key, value = numbers(heads, tokens), *(numbers(key_heads, sum(PROMPTS) + tokens) for _ in range(2))
    weights = numbers(heads, tokens)
    inputs = [x.requires_grad_() for x in (query, key, value)]
    out = by(*inputs)
    grads = torch.autograd.grad((out * weights).sum(), inputs)
    return [x.detach().double().cpu() for x in (out, *grads)]


def _by_flex(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return attend(query, key, value, block_mask(SEGMENTS, OWNERS, PROMPTS, query.device), None)


def _by_dot_products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    mask = create_mask(visible(SEGMENTS, OWNERS, PROMPTS, query.device), None, None, query.shape[2], key.shape[2], query.device)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
