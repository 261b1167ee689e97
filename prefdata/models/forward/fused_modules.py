"""RMS norms and gated MLPs with a gradient of their own on a CPU, where a class does nothing else than these do.

What lies between the products of a layer is bound by memory: autograd's chain of single operations reads and writes a row of
activations two dozen times where three would do, and keeps a third more of them. Here the chain runs over blocks of tokens that
stay in a core's cache. Outputs are the models' own, to the bit; gradients are equal up to rounding.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers.activations import SiLUActivation

BLOCK = 2**17
"""Numbers of a block: a few such tensors fit in a core's cache, and torch gives tensors of half the size to one core alone."""


@contextmanager
def fused(model: Any) -> Iterator[None]:
    """Within: the model's norms and gated MLPs run by this file, where its classes are known to be the same."""
    ways = [(module, _way(module)) for module in model.modules() if "forward" not in vars(module)]
    found = [(module, way) for module, way in ways if way is not None]
    for module, way in found:
        module.forward = partial(way, module)
    try:
        yield
    finally:
        for module, _ in found:
            del module.forward


def _way(module: Any) -> Callable[[Any, Tensor], Tensor] | None:
    kind: Any = type(module)
    if hasattr(module, "variance_epsilon") and _is_norm(kind):
        return _norm
    if hasattr(module, "gate_proj") and _is_gated(kind):
        return _gated
    return None


@lru_cache
def _is_norm(kind: Any) -> bool:
    """Whether a class is x / sqrt(mean(x^2) + eps) * weight, by a trial."""
    x, weight = _drawn(3, 8), _drawn(8)
    given = _tried(kind, SimpleNamespace(weight=weight, variance_epsilon=0.1), x)
    return given is not None and torch.equal(given, _normed(x, weight, 0.1)[0])


@lru_cache
def _is_gated(kind: Any) -> bool:
    """Whether a class is down(silu(gate(x)) * up(x)), by a trial with projections that have nothing in common."""
    gate, up, down = _drawn(8, 6), _drawn(8, 6), _drawn(6, 8)
    layers = {"gate_proj": gate.__rmatmul__, "up_proj": up.__rmatmul__, "down_proj": down.__rmatmul__}
    given = _tried(kind, SimpleNamespace(**layers, act_fn=F.silu), x := _drawn(3, 8))
    return given is not None and torch.equal(given, (F.silu(x @ gate) * (x @ up)) @ down)


def _tried(kind: Any, stand_in: SimpleNamespace, x: Tensor) -> Tensor | None:
    """What a class's forward gives with these attributes; None where it wants others."""
    try:
        given = kind.forward(stand_in, x)
    except Exception:
        return None
    return given if isinstance(given, Tensor) else None


def _drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + shape[0]))


def _norm(module: Any, hidden: Tensor) -> Tensor:
    if hidden.device.type != "cpu" or not hidden.dtype == module.weight.dtype == torch.float32 or not hidden.is_contiguous():
        return type(module).forward(module, hidden)  # type: ignore[no-any-return]
    return _Norm.apply(hidden, module.weight, module.variance_epsilon)  # type: ignore[no-untyped-call,no-any-return]


def _gated(module: Any, x: Tensor) -> Tensor:
    if x.device.type != "cpu" or not isinstance(module.act_fn, (torch.nn.SiLU, SiLUActivation)):
        return type(module).forward(module, x)  # type: ignore[no-any-return]
    gate, up = module.gate_proj(x), module.up_proj(x)
    return module.down_proj(_Gated.apply(gate, up))  # type: ignore[no-untyped-call,no-any-return]


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Rows of the same number of tensors' last dimension, the same of each at a time."""
    rows = [x.reshape(-1, x.shape[-1]) for x in tensors]
    size = max(1, BLOCK // max(x.shape[1] for x in rows))
    return zip(*(torch.split(x, size) for x in rows), strict=True)


def _normed(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The norm of x [..., H] and 1 / its root mean square [..., 1], by the same operations as the models'."""
    made, scale = torch.empty_like(x), x.new_empty(*x.shape[:-1], 1)
    for some, out, by in _blocks(x, made, scale):
        torch.mul(some, some, out=out)
        torch.mean(out, -1, keepdim=True, out=by)
        by.add_(eps).rsqrt_()
        torch.mul(some, by, out=out)
        out.mul_(weight)
    return made, scale


class _Norm(torch.autograd.Function):
    """y = x r w with r = (mean(x^2) + eps)^-1/2: dx = r (w dy - x r^2 mean(x w dy)), dw = sum over tokens of x r dy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        made, scale = _normed(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        made, of_weight = torch.empty_like(x), torch.zeros_like(weight)
        for some, by, grad, out in _blocks(x, scale, grads[0], made):
            both = some * grad
            of_weight.add_(torch.mv(both.t(), by.squeeze(1)))
            share = torch.mv(both, weight).unsqueeze(1).mul_(by.pow(3)).div_(-x.shape[-1])
            torch.mul(grad, weight, out=out)
            out.mul_(by).addcmul_(some, share)
        return made, of_weight, None


class _Gated(torch.autograd.Function):
    """silu(gate) * up, of which only gate and up are kept."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        of_gate, of_up = torch.empty_like(gate), torch.empty_like(up)
        for g, u, grad, to_gate, to_up in _blocks(gate, up, grads[0], of_gate, of_up):
            torch.ops.aten.silu.out(g, out=to_up).mul_(grad)
            torch.ops.aten.silu_backward.grad_input(grad * u, g, grad_input=to_gate)
        return of_gate, of_up
