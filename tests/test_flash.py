"""FlashAttention's rows of any lengths, with kernels of fp64 dot products in place of the GPU's: how two parts are joined."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import model
from test_logprob import COMPLETIONS, PROMPTS, oracle
from torch import Tensor

from prefdata.models.forward import flash_attention, flex_attention, logprob, packed_attention

CPU = torch.device("cpu")


def scores(query: Tensor, key: Tensor, causal: bool, scale: float | None) -> Tensor:
    """[h, q, k] of one row's part; -inf where a query does not look."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    made = torch.einsum("qhd,khd->hqk", query, key) * (scale or query.shape[-1] ** -0.5)
    return made.masked_fill(torch.ones(made.shape[-2:], dtype=torch.bool).triu(1), -torch.inf) if causal else made


def pieces(ends: Tensor, other: Tensor) -> list[tuple[slice, slice]]:
    a, b = ends.tolist(), other.tolist()
    return [(slice(*p), slice(*q)) for p, q in zip(pairwise(a), pairwise(b), strict=True)]


def forward(
    q: Tensor, k: Tensor, v: Tensor, e: Tensor, f: Tensor, m: int, n: int, drop: float, causal: bool, debug: bool, *, scale: Any
) -> Any:
    out, sums = torch.zeros_like(q), torch.full((q.shape[1], q.shape[0]), -torch.inf, dtype=q.dtype)
    for here, there in pieces(e, f):
        assert here.stop - here.start <= m
        assert there.stop - there.start <= n
        seen = scores(q[here], k[there], causal, scale)
        values = v[there].repeat_interleave(q.shape[1] // v.shape[1], 1)
        out[here] = torch.einsum("hqk,khd->qhd", seen.softmax(-1), values)
        sums[:, here] = seen.logsumexp(-1)
    return out, sums, torch.zeros(2), torch.zeros(1), torch.zeros(0)


def backward(
    g: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    sums: Tensor,
    e: Tensor,
    f: Tensor,
    m: int,
    n: int,
    drop: float,
    causal: bool,
    seed: Tensor,
    offset: Tensor,
    *,
    scale: Any,
) -> Any:
    """By the formulas of arXiv 2307.08691, given the whole's output and log-sum-exp."""
    assert torch.are_deterministic_algorithms_enabled()
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    times, by = q.shape[1] // k.shape[1], scale or q.shape[-1] ** -0.5
    for here, there in pieces(e, f):
        share = (scores(q[here], k[there], causal, scale) - sums[:, here, None]).exp()
        keys, values = (x[there].repeat_interleave(times, 1) for x in (k, v))
        rest = (g[here] * out[here]).sum(-1).t()
        ds = share * (torch.einsum("qhd,khd->hqk", g[here], values) - rest[..., None]) * by
        dq[here] += torch.einsum("hqk,khd->qhd", ds, keys)
        for whole, made in (
            (dk, torch.einsum("hqk,qhd->khd", ds, q[here])),
            (dv, torch.einsum("hqk,qhd->khd", share, g[here])),
        ):
            whole[there] += made.unflatten(1, (-1, times)).sum(2)
    return dq, dk, dv


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash_attention, "_forward", forward)
    monkeypatch.setattr(flash_attention, "_backward", backward)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("heads", "key_heads"), [(2, 2), (4, 2)])
def test_two_parts_joined_are_one_softmax_in_output_and_gradients(heads: int, key_heads: int) -> None:
    """Against one masked softmax over prompts and segments, also where a prompt has no segment at all."""
    prompts, segments, owners = [3, 2, 4], [2, 1, 3, 2], [0, 0, 2, 2]
    torch.manual_seed(0)
    total, before = sum(segments), sum(prompts)
    query = torch.randn(1, heads, total, 8, dtype=torch.float64, requires_grad=True)
    key, value = (torch.randn(1, key_heads, before + total, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight = torch.randn(1, total, heads, 8, dtype=torch.float64)
    (keys, own), (values, ours) = (x.split([before, total], 2) for x in (key, value))
    where = flash_attention.places(segments, owners, prompts, CPU)
    out = flash_attention.attend(query, own, ours, (keys, values), where, None)
    grads = torch.autograd.grad((out * weight).sum(), (query, key, value))
    mask = flex_attention.visible(segments, owners, prompts, CPU)
    none = torch.tensor(0)
    seen = torch.tensor(
        [[bool(mask(none, none, torch.tensor(q), torch.tensor(k))) for k in range(before + total)] for q in range(total)]
    )
    wide = [x.repeat_interleave(heads // key_heads, 1) for x in (key, value)]
    exact = torch.nn.functional.scaled_dot_product_attention(query, *wide, attn_mask=seen).transpose(1, 2)
    wanted = torch.autograd.grad((exact * weight).sum(), (query, key, value))
    assert (out - exact).abs().max() < 1e-12
    assert max(float((a - b).abs().max()) for a, b in zip(grads, wanted, strict=True)) < 1e-12


@pytest.mark.usefixtures("kernels")
def test_its_log_probs_are_those_of_single_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, used = model("llama"), list[int]()

    def way(query: Tensor, key: Tensor) -> Callable[..., Tensor]:
        used.append(1)
        return packed_attention._flashed

    monkeypatch.setattr(packed_attention, "_way", way)
    with torch.no_grad():
        ours = torch.cat(logprob.grouped_logps(lm, PROMPTS, COMPLETIONS))
        exact = torch.stack([oracle(lm, p, c) for p, group in zip(PROMPTS, COMPLETIONS, strict=True) for c in group])
    assert used
    assert (ours - exact).abs().max() < 1e-9


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.data())
def test_families_are_all_segments_of_each_prompt(segments: list[int], data: st.DataObject) -> None:
    prompts = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    owners = sorted(data.draw(st.sampled_from(range(len(prompts)))) for _ in segments)
    where = flash_attention.places(segments, owners, prompts, CPU)
    assert where.families is not None
    tokens = [sum(n for n, o in zip(segments, owners, strict=True) if o == p) for p in range(len(prompts))]
    assert where.families.ends.diff().tolist() == tokens
    assert where.families.longest == max(tokens)
    assert where.segments.ends.diff().tolist() == segments


def test_segments_in_another_order_are_refused() -> None:
    with pytest.raises(ValueError, match="not in the order of their prompts"):
        flash_attention.places([1, 1], [1, 0], [2, 2], CPU)


def test_fp32_and_a_device_without_it_go_other_ways(capsys: pytest.CaptureFixture[str]) -> None:
    flash_attention.works.cache_clear()
    assert not flash_attention.works(4, 2, 16, torch.float32, torch.device("cuda"))
    assert not flash_attention.works(4, 2, 16, torch.bfloat16, CPU)
    assert "FlashAttention is not used on this device" in capsys.readouterr().err
