"""THE log-prob forward against an oracle that runs one unpadded row at a time through plain log_softmax."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import FAMILIES, VOCABULARY, model

from prefdata.models.forward import logprob

PROMPTS = [[1, 5, 6, 7, 8], [1, 9], [3]]
COMPLETIONS = [[[10, 11, 2], [12]], [[13, 14, 15, 16, 17, 2]], [[18, 2], [], [19, 19, 19]]]


def oracle(lm, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """Sum over completion tokens of log_softmax at the token before, one row alone, no cache, no padding."""
    logits = lm(torch.tensor([prompt + completion]), use_cache=False).logits[0].double()
    table = torch.log_softmax(logits, -1)
    return sum((table[len(prompt) - 1 + i, token] for i, token in enumerate(completion)), torch.zeros((), dtype=torch.float64))


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_and_gradients_equal_single_rows(family: str) -> None:
    """fp64: log-probs to 1e-9, gradients to 1e-6 (Llama-family norms compute in fp32 inside)."""
    lm = model(family)
    assert logprob.shares_prefix(lm, 12)
    groups = logprob.grouped_logps(lm, PROMPTS, COMPLETIONS)
    exact = [torch.stack([oracle(lm, p, c) for c in group]) for p, group in zip(PROMPTS, COMPLETIONS, strict=True)]
    for ours, theirs in zip(groups, exact, strict=True):
        assert (ours - theirs).abs().max() < 1e-9
    weights = torch.tensor([1.0, -2.0, 3.0, 0.5, 7.0, -1.0], dtype=torch.float64)
    parameters = list(lm.parameters())
    mine = torch.autograd.grad((torch.cat(groups) * weights).sum(), parameters)
    plain = torch.autograd.grad((torch.cat(exact) * weights).sum(), parameters)
    gap = torch.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(mine, plain, strict=True)))
    assert gap / torch.sqrt(sum((b**2).sum() for b in plain)) < 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_fallback_equals_single_rows(family: str) -> None:
    lm = model(family)
    flat = [(p, c) for p, group in zip(PROMPTS, COMPLETIONS, strict=True) for c in group]
    with torch.no_grad():
        ours = logprob.row_logps(lm, [p for p, _ in flat], [c for _, c in flat])
        exact = torch.stack([oracle(lm, p, c) for p, c in flat])
    assert (ours - exact).abs().max() < 1e-9


def test_fp32_over_512_tokens_is_within_1e_4_of_fp64() -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, VOCABULARY, (4, 532), generator=generator).tolist()
    prompts, completions = [r[:20] for r in ids], [[r[20:]] for r in ids]
    with torch.no_grad():
        single, double = (
            torch.cat(logprob.grouped_logps(model(dtype=d), prompts, completions)) for d in (torch.float32, torch.float64)
        )
    assert single.dtype == torch.float64
    assert (single - double).abs().max() < 1e-4 * (double.abs().max() / 512).clamp(min=1)


def test_alone_equals_in_any_batch_and_is_never_positive() -> None:
    lm = model(dtype=torch.float32)
    with torch.no_grad():
        together = torch.cat(logprob.grouped_logps(lm, PROMPTS, COMPLETIONS))
        alone = torch.cat(
            [logprob.grouped_logps(lm, [p], [[c]])[0] for p, g in zip(PROMPTS, COMPLETIONS, strict=True) for c in g]
        )
    assert (together - alone).abs().max() < 6 * 1e-5
    assert (together <= 0).all()


@settings(max_examples=20)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(3, VOCABULARY - 1), min_size=1, max_size=7),
            st.lists(st.lists(st.integers(3, VOCABULARY - 1), max_size=6), min_size=1, max_size=3),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_shape_equals_single_rows(batch: list[tuple[list[int], list[list[int]]]]) -> None:
    lm = model()
    with torch.no_grad():
        ours = logprob.grouped_logps(lm, [p for p, _ in batch], [c for _, c in batch])
        for (prompt, completions), sums in zip(batch, ours, strict=True):
            for completion, total in zip(completions, sums, strict=True):
                assert abs(total - oracle(lm, prompt, completion)) < 1e-9


def test_short_windows_and_recurrent_layers_do_not_share() -> None:
    short = model("mistral", sliding_window=8)
    assert not logprob.shares_prefix(short, 9)
    assert logprob.shares_prefix(short, 8)
    gemma = model("gemma2", sliding_window=8)
    assert not logprob.shares_prefix(gemma, 9)
    with torch.no_grad():  # and the answer is right all the same
        prompt, completion = list(range(3, 15)), [20, 21, 22]
        ours = logprob.grouped_logps(short, [prompt], [[completion]])[0][0]
        assert abs(ours - oracle(short, prompt, completion)) < 1e-9


def test_an_empty_prompt_is_an_error() -> None:
    with pytest.raises(ValueError, match="empty prompt"):
        logprob.prefix(model(), [[1], []])


def test_detached_prefix_gives_no_gradient_to_the_prompt() -> None:
    lm = model()
    shared = logprob.prefix(lm, PROMPTS).detached()
    assert not shared.logits.requires_grad
    assert not any(k.requires_grad or v.requires_grad for k, v in shared.layers.values())
