"""Attention for GPUs as far as a CPU can run it: the mask, the forward, and the trial that decides. Its backward needs a GPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import FAMILIES, model
from test_logprob import COMPLETIONS, PROMPTS, oracle
from torch import Tensor

from prefdata.models.forward import flex_attention, logprob, packed_attention

CPU = torch.device("cpu")


@given(st.lists(st.integers(1, 4), max_size=3), st.data())
def test_a_token_sees_its_prompt_and_its_segment_up_to_itself(prompts: list[int], data: st.DataObject) -> None:
    segments = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    owners = sorted(data.draw(st.sampled_from(range(len(prompts)))) for _ in segments) if prompts else []
    mask = flex_attention.visible(segments, owners, prompts, CPU)
    seen = set()
    for number, length in enumerate(segments):
        start = sum(segments[:number])
        for query in range(start, start + length):
            if owners:
                first = sum(prompts[: owners[number]])
                seen |= {(query, key) for key in range(first, first + prompts[owners[number]])}
            seen |= {(query, sum(prompts) + key) for key in range(start, query + 1)}
    tokens, none = sum(segments), torch.tensor(0)
    every = [(q, k) for q in range(tokens) for k in range(sum(prompts) + tokens)]
    assert {(q, k) for q, k in every if mask(none, none, torch.tensor(q), torch.tensor(k))} == seen


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "gemma2"])  # it caps its scores
def test_its_log_probs_are_those_of_single_rows(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, used = model(family), list[int]()

    def way(query: Tensor, key: Tensor) -> Callable[..., Tensor]:
        used.append(1)
        return packed_attention._flexed

    monkeypatch.setattr(packed_attention, "_way", way)
    with torch.no_grad():
        ours = torch.cat(logprob.grouped_logps(lm, PROMPTS, COMPLETIONS))
        exact = torch.stack([oracle(lm, p, c) for p, group in zip(PROMPTS, COMPLETIONS, strict=True) for c in group])
    assert used
    assert (ours - exact).abs().max() < 1e-9


def test_a_device_that_cannot_is_found_out_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A CPU, for one: it has no backward there."""
    flex_attention.works.cache_clear()
    assert not flex_attention.works(4, 2, 16, torch.float32, CPU)
    assert "FlexAttention is not used on this device (NotImplementedError" in capsys.readouterr().err


@pytest.mark.parametrize(("factor", "right"), [(1.0, True), (1.1, False)])
def test_a_kernel_that_is_wrong_is_told_from_one_that_is_right(
    factor: float, right: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def dense(query: Tensor, key: Tensor, value: Tensor, mask: Any, scale: float | None) -> Tensor:
        seen = mask.mask_mod(None, None, torch.arange(query.shape[2])[:, None], torch.arange(key.shape[2]))
        return torch.nn.functional.scaled_dot_product_attention(query, key, value * factor, attn_mask=seen, enable_gqa=True)

    monkeypatch.setattr(flex_attention, "attend", dense)
    flex_attention.works.cache_clear()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):  # as the forward that first asks may be
        assert flex_attention.works(4, 2, 16, torch.float32, CPU) is right
    flex_attention.works.cache_clear()
    assert ("it is off by" in capsys.readouterr().err) is not right


def test_devices_choose_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    class There:
        device, shape, dtype = torch.device("cuda"), (1, 4, 5, 16), torch.bfloat16

    monkeypatch.setattr(packed_attention.flash_attention, "works", lambda *args: False)  # which a GPU here may compute
    for works, way in ((True, packed_attention._flexed), (False, packed_attention._joined)):
        monkeypatch.setattr(flex_attention, "works", lambda *args, works=works: works)
        assert packed_attention._way(There(), There()) is way
    assert packed_attention._way(torch.zeros(1, 4, 5, 16), torch.zeros(1, 2, 5, 16)) is packed_attention._split
