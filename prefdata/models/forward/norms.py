"""RMS norms with a gradient of their own on a CPU, where a class does nothing else than this one.

Autograd's chain of a norm's single operations goes through a row of hidden states two dozen times, forward and back, and keeps
two copies of it. Here it is half as many, and one. Outputs are the models' own, to the bit; gradients are equal up to rounding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@contextmanager
def norming(model: Any) -> Iterator[None]:
    """Within: the model's norms run by this file, where their class is known to be the same."""
    found = [module for module in model.modules() if _known(module)]
    for module in found:
        module.forward = partial(_forward, module)
    try:
        yield
    finally:
        for module in found:
            del module.forward


def _known(module: Any) -> bool:
    """Whether a module is such a norm, and nobody has put another forward there."""
    kind: Any = type(module)
    return hasattr(module, "variance_epsilon") and "forward" not in vars(module) and _is_norm(kind)


@lru_cache
def _is_norm(kind: Any) -> bool:
    """Whether a class is x / sqrt(mean(x^2) + eps) * weight, by a trial."""
    draw = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=draw) for shape in ((3, 8), (8,)))
    try:
        given = kind.forward(SimpleNamespace(weight=weight, variance_epsilon=0.1), x)
    except (AttributeError, TypeError, RuntimeError):
        return False
    return isinstance(given, Tensor) and torch.equal(given, _normed(x, weight, 0.1)[0])


def _forward(module: Any, hidden: Tensor) -> Tensor:
    if hidden.device.type != "cpu" or not hidden.dtype == module.weight.dtype == torch.float32:
        return type(module).forward(module, hidden)  # type: ignore[no-any-return]
    return _Norm.apply(hidden, module.weight, module.variance_epsilon)  # type: ignore[no-untyped-call,no-any-return]


def _normed(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The norm of x [..., H] and 1 / its root mean square [..., 1], by the same operations as the models'."""
    made = x * x
    scale = made.mean(-1, keepdim=True).add_(eps).rsqrt_()
    return torch.mul(x, scale, out=made).mul_(weight), scale


class _Norm(torch.autograd.Function):
    """y = x r w with r = (mean(x^2) + eps)^-1/2: dx = r w dy - x r^3 mean(x w dy), dw = sum over tokens of x r dy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        made, scale = _normed(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        both = (x * grads[0]).reshape(-1, x.shape[-1])
        of_weight = torch.mv(both.t(), scale.reshape(-1))
        share = torch.mv(both, weight).reshape(scale.shape).mul_(scale.pow(3)).div_(-x.shape[-1])
        return (grads[0] * weight).mul_(scale).addcmul_(x, share), of_weight, None
