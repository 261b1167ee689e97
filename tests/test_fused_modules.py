"""Norms and gated MLPs with a gradient of their own: the models' outputs to the bit, exact gradients, and only where a class is
what they are."""

from typing import Any

import pytest
import torch
from models import model
from test_logprob import COMPLETIONS, PROMPTS
from torch import nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2MLP, Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP, Qwen2RMSNorm

from prefdata.models.forward import fused_modules, logprob
from prefdata.models.forward.fused_modules import _Gated, _Norm, fused


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks, the last one shorter."""
    monkeypatch.setattr(fused_modules, "BLOCK", 100)


def drawn(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))) * scale).requires_grad_()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_norms_gradient_is_that_of_its_formula(scale: float) -> None:
    """fp32 against autograd in fp64, where eps matters and where it does not."""
    x, weight, grad = drawn(1, 23, 32, scale=scale), drawn(32), drawn(23, 32).detach().unsqueeze(0)
    ours = torch.autograd.grad(_Norm.apply(x, weight, 1e-6), (x, weight), grad)
    a, w = (v.detach().double().requires_grad_() for v in (x, weight))
    exact = torch.autograd.grad(a / (a.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w, (a, w), grad.double())
    for found, true in zip(ours, exact, strict=True):
        assert (found - true).norm() <= 2e-6 * true.norm()


def test_a_gate_has_the_gradient_of_its_formula() -> None:
    gate, up, grad = drawn(1, 23, 32), drawn(23, 32), drawn(32, 23).detach()
    gate, up, grad = gate[0].detach().requires_grad_(), up, grad.t().contiguous()
    ours = torch.autograd.grad(_Gated.apply(gate, up), (gate, up), grad)
    g, u = (v.detach().double().requires_grad_() for v in (gate, up))
    exact = torch.autograd.grad(g * torch.sigmoid(g) * u, (g, u), grad.double())
    for found, true in zip(ours, exact, strict=True):
        assert (found - true).norm() <= 1e-6 * true.norm()
    assert torch.autograd.gradcheck(_Gated.apply, (g, u))


def test_known_classes_and_no_others() -> None:
    """Gemma's norm adds one to its weight and its MLP has another gate."""
    assert all(fused_modules._is_norm(kind) for kind in (LlamaRMSNorm, Qwen2RMSNorm))
    assert all(fused_modules._is_gated(kind) for kind in (LlamaMLP, Qwen2MLP))
    assert not any(fused_modules._is_norm(kind) for kind in (Gemma2RMSNorm, nn.LayerNorm, LlamaMLP))
    assert not any(fused_modules._is_gated(kind) for kind in (LlamaRMSNorm, nn.Linear))
    lm = model("gemma2", torch.float32)
    x = torch.randn(1, 3, 32)
    mlp = next(m for m in lm.modules() if isinstance(m, Gemma2MLP))
    before = mlp(x)
    with fused(lm):
        assert torch.equal(mlp(x), before)


def test_a_models_outputs_are_its_own_to_the_bit_and_its_gradients_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, found = model("llama", torch.float32), []
    for _ in range(2):
        sums = torch.cat(logprob.grouped_logps(lm, PROMPTS, COMPLETIONS))
        found.append((sums, torch.autograd.grad(sums.sum(), list(lm.parameters()))))
        monkeypatch.setattr(fused_modules, "_way", lambda module: None)
    (ours, grads), (theirs, others) = found
    assert torch.equal(ours, theirs)
    assert all((a - b).norm() <= 1e-5 * b.norm() for a, b in zip(grads, others, strict=True))


def test_a_packed_forward_runs_by_them_and_leaves_the_models_own(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, called = model("llama", torch.float32), []
    for kind in (_Norm, _Gated):
        monkeypatch.setattr(kind, "apply", lambda *args, own=kind.apply, name=kind.__name__: called.append(name) or own(*args))
    with torch.no_grad():
        logprob.prefix(lm, PROMPTS)
    layers = lm.config.num_hidden_layers
    assert (called.count("_Norm"), called.count("_Gated")) == (2 * layers + 1, layers)
    assert not [m for m in lm.modules() if "forward" in vars(m)]


def test_a_forward_that_somebody_put_there_stays() -> None:
    lm: Any = model("llama", torch.float32)
    norm = lm.model.norm
    norm.forward = own = lambda hidden: hidden
    with fused(lm), fused(lm):
        assert norm.forward is own
    assert norm.forward is own


def test_a_gate_keeps_its_inputs_alone() -> None:
    gate, up = drawn(1, 23, 32), drawn(1, 23, 32)
    assert {id(t) for t in _Gated.apply(gate, up).grad_fn.saved_tensors} == {id(gate), id(up)}
