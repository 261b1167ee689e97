"""log softmax at single ids against torch's whole table in fp64, values and gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefdata.models.forward import log_softmax
from prefdata.models.forward.log_softmax import log_softmax_at


def oracle(logits: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values, and the gradient of their weighted sum, from x - log sum exp x."""
    x = logits.detach().double().requires_grad_()
    values = x[torch.arange(len(x)), ids] - x.logsumexp(1)
    (values * weights.double()).sum().backward()
    assert x.grad is not None
    return values.detach(), x.grad


@given(rows=st.integers(1, 9), columns=st.integers(1, 12), block=st.integers(1, 40), scale=st.sampled_from([0.1, 5.0, 1000.0]))
def test_values_and_gradients_are_the_tables(rows: int, columns: int, block: int, scale: float) -> None:
    """Whatever the blocks, one row a block included, and with gaps of a thousand nats."""
    draw = torch.Generator().manual_seed(rows * 100 + columns)
    logits = (torch.randn(rows, columns, generator=draw, dtype=torch.float64) * scale).requires_grad_()
    ids = torch.randint(0, columns, (rows,), generator=draw)
    weights = torch.randn(rows, generator=draw, dtype=torch.float64)
    before = logits.detach().clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(log_softmax.BLOCK, "cpu", block)
        values = log_softmax_at(logits, ids)
        (values * weights).sum().backward()
    expected, gradient = oracle(before, ids, weights)
    assert torch.equal(logits, before)
    assert values.dtype == torch.float64
    torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(logits.grad, gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_logits_are_widened_by_the_block(dtype: torch.dtype) -> None:
    """Values in fp32 whatever the logits are; the gradient as wide as the logits, a rounding of the exact one."""
    logits = (torch.randn(7, 50, generator=torch.Generator().manual_seed(1)) * 3).to(dtype).requires_grad_()
    ids, weights = torch.arange(7), torch.linspace(-1, 1, 7)
    values = log_softmax_at(logits, ids)
    (values * weights).sum().backward()
    expected, gradient = oracle(logits, ids, weights)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values.double(), expected, rtol=1e-6, atol=1e-6)
    assert logits.grad is not None
    assert logits.grad.dtype == dtype
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(logits.grad.double(), gradient, rtol=2 * rounding, atol=1e-6)


def test_impossible_tokens_have_no_share() -> None:
    """Ids that a model rules out by -inf: log-prob -inf where asked for, no gradient where not, nothing undefined."""
    logits = torch.tensor([[0.0, -torch.inf, 1.0], [0.0, -torch.inf, 1.0]], requires_grad=True)
    values = log_softmax_at(logits, torch.tensor([2, 1]))
    assert values[1] == -torch.inf
    values[0].backward()
    share = torch.e / (1 + torch.e)
    torch.testing.assert_close(logits.grad, torch.tensor([[share - 1, 0.0, 1 - share], [0.0, 0.0, 0.0]]))


def test_no_rows() -> None:
    logits = torch.zeros(0, 5, requires_grad=True)
    values = log_softmax_at(logits, torch.zeros(0, dtype=torch.int64))
    assert values.shape == (0,)
    values.sum().backward()
    assert logits.grad is not None
    assert logits.grad.shape == (0, 5)


def test_a_gradient_of_a_gradient_is_refused() -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    (first,) = torch.autograd.grad(log_softmax_at(logits, torch.tensor([0, 1])).sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError):
        first.sum().backward()
