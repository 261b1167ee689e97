"""Norms with a gradient of their own: the models' outputs to the bit, exact gradients, and only where a class is what they are."""

from typing import Any

import pytest
import torch
from models import model
from test_logprob import COMPLETIONS, PROMPTS
from torch import nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from prefdata.models.forward import logprob, norms
from prefdata.models.forward.norms import norming


def drawn(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))) * scale).requires_grad_()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_norms_gradient_is_that_of_its_formula(scale: float) -> None:
    """fp32 against autograd in fp64, where eps matters and where it does not."""
    x, weight, grad = drawn(1, 23, 32, scale=scale), drawn(32), drawn(23, 32).detach().unsqueeze(0)
    ours = torch.autograd.grad(norms._Norm.apply(x, weight, 1e-6), (x, weight), grad)
    a, w = (v.detach().double().requires_grad_() for v in (x, weight))
    exact = torch.autograd.grad(a / (a.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w, (a, w), grad.double())
    for found, true in zip(ours, exact, strict=True):
        assert (found - true).norm() <= 2e-6 * true.norm()


def test_heads_that_lie_apart_have_the_gradient_of_rows_side_by_side() -> None:
    """Queries whose heads were turned to the front before they are normed."""
    x, weight, grad = drawn(2, 5, 3, 8), drawn(8), drawn(2, 3, 5, 8).detach()
    apart = x.transpose(1, 2)
    found = torch.autograd.grad(norms._Norm.apply(apart, weight, 1e-6), (x, weight), grad)
    true = torch.autograd.grad(norms._Norm.apply(apart.contiguous(), weight, 1e-6), (x, weight), grad)
    assert all((a - b).norm() <= 2e-6 * b.norm() for a, b in zip(found, true, strict=True))


def test_known_classes_and_no_others() -> None:
    """Gemma's norm adds one to its weight."""
    assert all(norms._is_norm(kind.forward) for kind in (LlamaRMSNorm, Qwen2RMSNorm))
    assert not any(norms._is_norm(kind.forward) for kind in (Gemma2RMSNorm, nn.LayerNorm, LlamaMLP, nn.Identity))


def test_a_models_outputs_are_its_own_to_the_bit_and_its_gradients_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, found = model("llama", torch.float32), []
    for _ in range(2):
        sums = torch.cat(logprob.grouped_logps(lm, PROMPTS, COMPLETIONS))
        found.append((sums, torch.autograd.grad(sums.sum(), list(lm.parameters()))))
        monkeypatch.setattr(norms, "_is_norm", lambda forward: False)
    (ours, grads), (theirs, others) = found
    assert torch.equal(ours, theirs)
    assert all((a - b).norm() <= 1e-5 * b.norm() for a, b in zip(grads, others, strict=True))


def test_a_packed_forward_runs_by_them_and_leaves_the_models_own(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, called, before = model("llama", torch.float32), [], LlamaRMSNorm.forward
    monkeypatch.setattr(norms._Norm, "apply", lambda *args, own=norms._Norm.apply: called.append(1) or own(*args))
    with torch.no_grad():
        logprob.prefix(lm, PROMPTS)
    assert len(called) == 2 * lm.config.num_hidden_layers + 1
    assert LlamaRMSNorm.forward is before


def test_the_forward_of_a_parent_class_is_put_back_as_a_parents() -> None:
    class Own(LlamaRMSNorm):
        pass

    with norming(nn.Sequential(Own(8))):
        assert Own.forward is not LlamaRMSNorm.forward
    assert "forward" not in vars(Own)


def test_a_class_has_one_forward_however_deep() -> None:
    """A compiler would make another graph for another."""
    norm = LlamaRMSNorm(8)
    with norming(norm):
        within = LlamaRMSNorm.forward
        with norming(norm):
            assert LlamaRMSNorm.forward is within
        assert LlamaRMSNorm.forward is within


def test_another_dtype_runs_as_the_model_has_it() -> None:
    """Theirs computes fp64 in fp32, and gives fp64 back."""
    norm, x = LlamaRMSNorm(8).double(), torch.randn(3, 8, dtype=torch.float64)
    before = norm(x)
    with norming(norm):
        assert torch.equal(norm(x), before)


def test_a_forward_that_somebody_put_there_stays() -> None:
    lm: Any = model("llama", torch.float32)
    norm = lm.model.norm
    norm.forward = own = lambda hidden: hidden
    with norming(lm), norming(lm):
        assert norm.forward is own
    assert norm.forward is own


def test_a_norm_keeps_one_row() -> None:
    x, weight = drawn(1, 23, 32), drawn(32)
    kept = norms._Norm.apply(x, weight, 1e-6).grad_fn.saved_tensors
    assert sum(t.numel() for t in kept) == x.numel() + weight.numel() + 23
