"""Packed attention: both ways against single rows, with the extras that models bring, and its safety catches."""

from typing import Any

import pytest
import torch
from models import FAMILIES, model
from test_logprob import COMPLETIONS, PROMPTS, oracle

from prefdata.models.forward import logprob, packed_attention

WEIGHTS = torch.tensor([1.0, -2.0, 3.0, 0.5, 7.0, -1.0], dtype=torch.float64)


def sums_and_gradients(lm: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
    sums = torch.cat(logprob.grouped_logps(lm, PROMPTS, COMPLETIONS))
    return sums.detach(), list(torch.autograd.grad((sums * WEIGHTS).sum(), list(lm.parameters())))


@pytest.mark.parametrize("family", FAMILIES)
def test_both_ways_are_the_same_function(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """fp64, log-probs to 1e-10 and gradients to 1e-7 of their norm; grouped heads in all but gpt2."""
    lm = model(family)
    sums, grads = sums_and_gradients(lm)
    monkeypatch.setattr(packed_attention, "_plain", lambda *args: False)
    other, others = sums_and_gradients(lm)
    assert (sums - other).abs().max() < 1e-10
    for a, b in zip(grads, others, strict=True):
        assert (a - b).norm() <= 1e-7 * (1 + b.norm())


def test_the_kernels_serve_a_plain_model_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast way is taken where it can be: otherwise the tests of it would test the other one."""
    monkeypatch.setattr(packed_attention, "_joined", lambda *args, **options: pytest.fail("padded"))
    sums_and_gradients(model("llama"))


def test_scores_are_capped_where_the_model_caps_them() -> None:
    """A soft cap that bites, which only the model's own eager attention computes."""
    lm = model("gemma2", attn_logit_softcapping=0.05)
    lm.set_attn_implementation("eager")
    with torch.no_grad():
        ours = torch.cat(logprob.grouped_logps(lm, PROMPTS, COMPLETIONS))
        exact = torch.stack([oracle(lm, p, c) for p, group in zip(PROMPTS, COMPLETIONS, strict=True) for c in group])
        uncapped = torch.cat(logprob.grouped_logps(model("gemma2"), PROMPTS, COMPLETIONS))
    assert (ours - exact).abs().max() < 1e-5  # the eager softmax is fp32
    assert (uncapped - exact).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_within_their_rounding_of_rows(dtype: torch.dtype) -> None:
    """Two layers of 8-bit (bf16) or 11-bit (fp16) mantissas: a token's log-prob moves by about 2^-6 or 2^-9 of its logits."""
    lm = model("llama", dtype)
    with torch.no_grad():
        ours = torch.cat(logprob.grouped_logps(lm, PROMPTS, COMPLETIONS))
        flat = [(p, c) for p, group in zip(PROMPTS, COMPLETIONS, strict=True) for c in group]
        rows = logprob.row_logps(lm, [p for p, _ in flat], [c for _, c in flat])
    tokens = torch.tensor([max(len(c), 1) for _, c in flat])
    assert ((ours - rows).abs() / tokens).max() < (0.25 if dtype == torch.bfloat16 else 0.03)


def test_the_models_own_attention_is_back_after_a_failure() -> None:
    lm = model()
    own = lm.config._attn_implementation
    with pytest.raises(RuntimeError, match="broken"), packed_attention.packing(lm):
        assert lm.config._attn_implementation == packed_attention.NAME
        raise RuntimeError("broken")
    assert lm.config._attn_implementation == own


def test_a_model_that_does_not_pass_the_packing_on_fails_loudly() -> None:
    """The row's mask has no width: an attention that used it, or came without `packed`, cannot give a wrong number."""
    lm = model()
    packed = packed_attention.Packed([2], "sdpa", lm.device)
    with pytest.raises((RuntimeError, IndexError, ValueError)):
        packed_attention.run(lm, [[3, 4]], [0], packed)
    with packed_attention.packing(lm), pytest.raises(TypeError, match="packed"):
        lm(input_ids=torch.tensor([[3, 4]]))


def test_a_prompt_without_candidates_and_prompts_out_of_order() -> None:
    """A prompt between two others may have no completion to run; owners in any other order are refused."""
    lm = model()
    shared = logprob.prefix(lm, PROMPTS)
    ours = logprob.candidate_logps(lm, shared, [0, 2], [[10, 11, 2], [19, 19, 19]])
    exact = torch.stack([oracle(lm, PROMPTS[0], [10, 11, 2]), oracle(lm, PROMPTS[2], [19, 19, 19])])
    assert (ours - exact).abs().max() < 1e-9
    grads, others = (torch.autograd.grad((x * WEIGHTS[:2]).sum(), list(lm.parameters())) for x in (ours, exact))
    assert all((a - b).norm() <= 1e-7 * (1 + b.norm()) for a, b in zip(grads, others, strict=True))
    with pytest.raises(ValueError, match="ascending"):
        logprob.candidate_logps(lm, shared, [2, 0], [[10, 11, 2], [19, 19, 19]])
