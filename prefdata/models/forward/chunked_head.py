"""log softmax at single ids from hidden states and the head's weight: logits exist for one chunk of rows at a time.

The logits of a vocabulary of 128,256 entries are the largest tensor of a forward, and their gradient is as large. Here the
forward keeps hidden states and each row's log-sum-exp, and the backward makes each chunk's logits again. What a row's gradient
is multiplied by is known only when all log-probs of a batch are: nothing of it can be computed in the forward, as kernels for
cross-entropy do.

Shapes: K rows, H width of hidden states, V entries of the vocabulary, Q log-probs asked for.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from prefdata.models.forward.log_softmax import wide

BLOCK = {"cpu": 2**19, "cuda": 2**22}
"""Logits that are worked on at once, in fp32 at least: on a CPU such blocks stay in cache."""
BLOCKS = 5
"""Tensors of that size that live at once beside the chunk, at most."""


@dataclass(frozen=True)
class Tail:
    """What a model makes of its head's products x before they are logits: s x, or c tanh(s x / c)."""

    scale: float = 1.0
    cap: float | None = None

    def of(self, products: Tensor) -> Tensor:
        """Logits, in place."""
        if self.scale != 1.0:
            products.mul_(self.scale)
        return products if self.cap is None else products.div_(self.cap).tanh_().mul_(self.cap)

    def back(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """The gradient of the products from that of the logits, in place."""
        if self.cap is not None:
            gradient.mul_(1 - (logits / self.cap).square_())
        return gradient if self.scale == 1.0 else gradient.mul_(self.scale)


@dataclass(frozen=True)
class Head:
    """How logits are made: `tail` of the sum of the terms' products, in `dtype`, `rows` rows at a time."""

    tail: Tail
    dtype: torch.dtype
    rows: int


@dataclass(frozen=True)
class Asked:
    """Which log-probs: id `ids[q]` ([Q] int64) of row `rows[q]`, rows ascending; a row may be asked for several ids, for one of
    them twice, or for none."""

    rows: Sequence[int]
    ids: Tensor


def rows_of_a_chunk(columns: int, dtype: torch.dtype, device: torch.device, most_bytes: int) -> int:
    """How many rows of logits fit into `most_bytes` with what is computed beside them; one at least."""
    beside = BLOCKS * wide(dtype).itemsize * max(columns, _block(device))
    return max(1, (most_bytes - beside) // (columns * dtype.itemsize))


def log_probs_at(terms: Sequence[tuple[Tensor, Tensor]], bias: Tensor | None, head: Head, asked: Asked) -> Tensor:
    """log softmax(logits [K, V]) at the ids asked for: [Q], in fp32, or fp64 where `head.dtype` is, with gradient.

    `terms`: pairs (hidden states [K, H], weight [V, H]) whose products are summed, such as a head and its low-rank adapter,
    where H is the rank. `bias`: [V]. Hidden states and weights are cast to `head.dtype` for the products; gradients of weights
    and bias are summed over chunks in fp32 at least.
    """
    made: Tensor = _LogProbsAt.apply(head, asked, bias, *(t for pair in terms for t in pair))  # type: ignore[no-untyped-call]
    return made


def _block(device: torch.device) -> int:
    return BLOCK.get(device.type, BLOCK["cpu"])


@dataclass(frozen=True)
class _Block:
    """Rows that are worked on at once: their place in the chunk and in all rows, and where they are asked for."""

    here: slice
    rows: slice
    asked: slice


class _Chunks:
    """Products of chunks of rows, one chunk after the other in the same memory."""

    def __init__(self, head: Head, asked: Asked, bias: Tensor | None, tensors: Sequence[Tensor]) -> None:
        self.head, self.asked = head, asked
        self.hidden = [x.to(head.dtype) for x in tensors[::2]]
        self.weights = [x.to(head.dtype) for x in tensors[1::2]]
        self.bias = None if bias is None else bias.to(head.dtype)
        self.rows, self.columns = len(self.hidden[0]), len(self.weights[0])
        # as many as must be, of like size: a chunk of few rows reads the whole weight for them
        self.size = max(1, ceil(self.rows / max(1, ceil(self.rows / head.rows))))
        self.asked_rows = torch.tensor(list(asked.rows), dtype=torch.int64, device=asked.ids.device)
        self.memory = self.hidden[0].new_empty(min(self.size, self.rows), self.columns)

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Where a chunk lies, and its products [rows, V]."""
        for start in range(0, self.rows, self.size):
            chunk = slice(start, min(start + self.size, self.rows))
            yield chunk, self._products(chunk)

    def _products(self, chunk: slice) -> Tensor:
        made = self.memory[: chunk.stop - chunk.start]
        for number, (hidden, weight) in enumerate(zip(self.hidden, self.weights, strict=True)):
            if number:
                made.addmm_(hidden[chunk], weight.t())
            elif self.bias is None:
                torch.mm(hidden[chunk], weight.t(), out=made)
            else:
                torch.addmm(self.bias, hidden[chunk], weight.t(), out=made)
        return made

    def blocks(self, chunk: slice) -> Iterator[_Block]:
        size = max(1, _block(self.memory.device) // self.columns)
        for start in range(chunk.start, chunk.stop, size):
            stop = min(start + size, chunk.stop)
            asked = slice(bisect_left(self.asked.rows, start), bisect_left(self.asked.rows, stop))
            yield _Block(slice(start - chunk.start, stop - chunk.start), slice(start, stop), asked)

    def places(self, block: _Block) -> tuple[Tensor, Tensor]:
        """Row in the block and id of what is asked for."""
        return self.asked_rows[block.asked] - block.rows.start, self.asked.ids[block.asked]


class _LogProbsAt(torch.autograd.Function):
    """With g_q the gradient of log-prob q, of row k: logit v of the row has the gradient
    sum_q g_q (1[v = ids[q]] - exp(logit v - log-sum-exp))."""

    @staticmethod
    def forward(ctx: Any, head: Head, asked: Asked, bias: Tensor | None, *tensors: Tensor) -> Tensor:
        with torch.autocast(tensors[0].device.type, enabled=False):
            chunks = _Chunks(head, asked, bias, tensors)
            made = tensors[0].new_empty(len(asked.ids), dtype=wide(head.dtype))
            sums = made.new_empty(chunks.rows)
            for chunk, products in chunks:
                for block in chunks.blocks(chunk):
                    logits = head.tail.of(products[block.here].to(made.dtype))
                    row, id = chunks.places(block)
                    found = logits[row, id]
                    most = logits.amax(1)
                    rest = logits.sub_(most.unsqueeze(1)).exp_().sum(1).log_()
                    # as log softmax has it: the differences are small where the logits are large
                    made[block.asked] = found.sub_(most[row]).sub_(rest[row])
                    sums[block.rows] = most.add_(rest)
        ctx.head, ctx.asked = head, asked
        ctx.save_for_backward(sums, bias, *tensors)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        sums, bias, *tensors = ctx.saved_tensors
        with torch.autocast(tensors[0].device.type, enabled=False):
            chunks = _Chunks(ctx.head, ctx.asked, bias, tensors)
            made = _Gradients(ctx.head.dtype, bias, tensors, ctx.needs_input_grad[2:])
            for chunk, products in chunks:
                for block in chunks.blocks(chunk):
                    own = grads[0][block.asked]
                    _to_gradient(products[block.here], sums[block.rows], own, chunks.places(block), ctx.head.tail)
                made.add(chunk, products, chunks)
        return None, None, *made.cast()


class _Gradients:
    """Of bias, hidden states and weights, put together chunk by chunk; None where none is wanted. Each chunk adds to those of
    weights and bias, so they are in fp32 at least."""

    def __init__(self, dtype: torch.dtype, bias: Tensor | None, tensors: Sequence[Tensor], wanted: Sequence[bool]) -> None:
        self.inputs, self.begun = [bias, *tensors], False
        summed = [True, *(n % 2 == 1 for n in range(len(tensors)))]
        # the first chunk writes, which spares a pass over the weight; without any row there is none
        make = torch.empty_like if len(tensors[0]) else torch.zeros_like
        self.made = [
            make(x, dtype=wide(dtype) if sum_ else dtype) if x is not None and want else None
            for x, want, sum_ in zip(self.inputs, wanted, summed, strict=True)
        ]

    def add(self, chunk: slice, products: Tensor, chunks: _Chunks) -> None:
        """Where `products` [rows, V] holds the gradient of a chunk's products."""
        bias, *made = self.made
        if bias is not None:
            self._sum(bias, products.sum(0, dtype=bias.dtype))
        for hidden, weight, of_hidden, of_weight in zip(chunks.hidden, chunks.weights, made[::2], made[1::2], strict=True):
            if of_hidden is not None:
                torch.mm(products, weight, out=of_hidden[chunk])
            if of_weight is not None and of_weight.dtype == products.dtype:
                of_weight.addmm_(products.t(), hidden[chunk], beta=int(self.begun))  # 0: what was there counts for nothing
            elif of_weight is not None:
                self._sum(of_weight, products.t() @ hidden[chunk])
        self.begun = True

    def _sum(self, whole: Tensor, part: Tensor) -> None:
        if self.begun:
            whole += part
        else:
            whole.copy_(part)

    def cast(self) -> list[Tensor | None]:
        """In their inputs' dtypes."""
        pairs = zip(self.made, self.inputs, strict=True)
        return [None if made is None or of is None else made.to(of.dtype) for made, of in pairs]


def _to_gradient(products: Tensor, sums: Tensor, grad: Tensor, places: tuple[Tensor, Tensor], tail: Tail) -> None:
    """Put the gradient of a block's products where they stand."""
    logits = tail.of(products.to(sums.dtype))
    of_rows = torch.zeros_like(sums).index_put_((places[0],), grad, accumulate=True)
    # where nothing else needs the logits again they become the gradient
    made = logits.sub(sums.unsqueeze(1)) if tail.cap is not None else logits.sub_(sums.unsqueeze(1))
    made.exp_().mul_(-of_rows.unsqueeze(1)).index_put_(places, grad, accumulate=True)
    if tail.back(made, logits) is not products:
        products.copy_(made)
