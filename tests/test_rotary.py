"""Positions turned by one operation: the same bits as the models' own, in output and gradient, and only where they are the same."""

from typing import Any

import pytest
import torch
from models import FAMILIES, model
from test_logprob import COMPLETIONS, PROMPTS
from transformers.models.glm import modeling_glm
from transformers.models.llama import modeling_llama

from prefdata.models.forward import logprob, rotary

OWN = modeling_llama.apply_rotary_pos_emb


def given(dtype: torch.dtype, heads: int = 3, width: int = 16) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Queries and keys as layers have them, heads beside one another, and angles whose halves differ."""
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randn(2, 7, n, width, generator=draw, dtype=dtype).transpose(1, 2) for n in (heads, 1)]
    cos, sin = (torch.randn(2, 7, width, generator=draw, dtype=dtype) for _ in range(2))
    return [x.requires_grad_() for x in rows], cos, sin


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_output_and_gradient_are_the_models_own_to_the_bit(dtype: torch.dtype) -> None:
    rows, cos, sin = given(dtype)
    theirs, ours = OWN(*rows, cos, sin), rotary._Ours(OWN)(*rows, cos, sin)
    grads = [torch.randn_like(x) for x in theirs]
    before, after = (torch.autograd.grad(made, rows, grads) for made in (theirs, ours))
    for a, b in zip((*theirs, *before), (*ours, *after), strict=True):
        assert torch.equal(a, b)
    assert all(x.transpose(1, 2).is_contiguous() for x in ours)


def test_the_gradient_is_that_of_its_formula() -> None:
    """Angles whose halves differ: models have equal halves, which would hide a swap."""
    rows, cos, sin = given(torch.float64)
    assert torch.autograd.gradcheck(lambda x: rotary._Ours(OWN)(x, x, cos, sin), rows[:1])


def test_what_turns_otherwise_is_left_alone() -> None:
    """Neighbours turned in place of halves; heads wider than the angles; another dtype."""
    assert rotary._halves(OWN)
    assert not rotary._halves(modeling_glm.apply_rotary_pos_emb)
    assert not rotary._halves(lambda query: query)
    called: list[Any] = []
    rows, cos, sin = given(torch.float32)
    ours = rotary._Ours(lambda *args, **options: called.append(args))
    ours(*rows, cos.double(), sin.double())
    ours(*rows, cos[..., :8], sin[..., :8])
    ours(*rows, cos, sin, 2)
    assert len(called) == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_a_models_log_probs_and_gradients_are_the_same_bits(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, found = model(family), []
    for _ in range(2):
        sums = torch.cat(logprob.grouped_logps(lm, PROMPTS, COMPLETIONS))
        found.append([sums, *torch.autograd.grad(sums.sum(), list(lm.parameters()))])
        monkeypatch.setattr(rotary, "_halves", lambda theirs: False)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_packed_forward_turns_by_it_and_leaves_the_models_own(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, turned = model(), []
    monkeypatch.setattr(rotary, "_turned", lambda x, cos, sin, own=rotary._turned: turned.append(1) or own(x, cos, sin))
    with torch.no_grad():
        logprob.prefix(lm, PROMPTS)
    assert len(turned) == 2 * lm.config.num_hidden_layers
    assert modeling_llama.apply_rotary_pos_emb is OWN
    with pytest.raises(RuntimeError, match="broken"), rotary.rotating(lm), rotary.rotating(lm):
        assert isinstance(modeling_llama.apply_rotary_pos_emb, rotary._Ours)
        raise RuntimeError("broken")
    assert modeling_llama.apply_rotary_pos_emb is OWN
