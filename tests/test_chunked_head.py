"""Log-probs from hidden states by chunks of rows against numpy, row by row, and finite differences."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from allocated import peak_bytes
from hypothesis import given
from hypothesis import strategies as st

from prefdata.models.forward import chunked_head
from prefdata.models.forward.chunked_head import Asked, Head, Tail, log_probs_at, rows_of_a_chunk

FP64 = torch.float64
TAILS = [Tail(), Tail(0.3), Tail(1.0, 2.0), Tail(3.0, 5.0)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(chunked_head.BLOCK, "cpu", 20)


def tensors(
    rows: int, columns: int, width: int, seed: int = 0, bias: bool = True, dtype: torch.dtype = FP64
) -> list[torch.Tensor]:
    """Hidden states, weight and, where wanted, bias."""
    draw = torch.Generator().manual_seed(seed)
    shapes = [(rows, width), (columns, width)] + [(columns,)] * bias
    return [torch.randn(s, generator=draw, dtype=FP64).to(dtype).requires_grad_() for s in shapes]


def numpy_rows(
    terms: list[tuple[np.ndarray, np.ndarray]], bias: np.ndarray, tail: Tail, asked: list[tuple[int, int]], grad: np.ndarray
) -> tuple[list[float], list[np.ndarray], np.ndarray]:
    """Log-probs, the gradients of their weighted sum by each hidden state and weight, and by the bias: one row and one question
    after the other, by the Jacobian of the whole row."""
    values, made, of_bias = [], [np.zeros_like(x) for pair in terms for x in pair], np.zeros_like(bias)
    for (row, id), weight in zip(asked, grad, strict=True):
        x = sum((w @ h[row] for h, w in terms), bias) * tail.scale
        slope = np.full(len(x), tail.scale) if tail.cap is None else tail.scale / np.cosh(x / tail.cap) ** 2
        z = x if tail.cap is None else tail.cap * np.tanh(x / tail.cap)
        log_p = z - np.logaddexp.reduce(z)
        values.append(float(log_p[id]))
        jacobian = np.eye(len(z)) - np.exp(log_p)
        of_x = weight * jacobian[id] * slope
        of_bias += of_x
        for n, (h, w) in enumerate(terms):
            made[2 * n][row] += of_x @ w
            made[2 * n + 1] += np.outer(of_x, h[row])
    return values, made, of_bias


@given(
    rows=st.integers(0, 6),
    columns=st.integers(1, 12),
    width=st.integers(1, 4),
    chunk=st.integers(1, 8),
    block=st.integers(1, 40),
    tail=st.sampled_from(TAILS),
    has_bias=st.booleans(),
    has_adapter=st.booleans(),
    data=st.data(),
)
def test_values_and_gradients_are_numpys(
    rows: int,
    columns: int,
    width: int,
    chunk: int,
    block: int,
    tail: Tail,
    has_bias: bool,
    has_adapter: bool,
    data: st.DataObject,
) -> None:
    """To 1e-12 whatever the chunks and blocks: no row, one row, rows asked for nothing or for one id twice, fewer ids than a
    chunk has rows, a bias, a second product."""
    pairs = st.tuples(st.integers(0, rows - 1), st.integers(0, columns - 1))
    asked = sorted(data.draw(st.lists(pairs, max_size=9))) if rows else []
    hidden, weight, *bias = tensors(rows, columns, width, bias=has_bias)
    terms = [(hidden, weight)] + ([tuple(tensors(rows, columns, 2, 1, bias=False))] if has_adapter else [])
    grad = torch.randn(len(asked), generator=torch.Generator().manual_seed(2), dtype=FP64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(chunked_head.BLOCK, "cpu", block)
        questions = Asked([row for row, _ in asked], torch.tensor([id for _, id in asked], dtype=torch.int64))
        values = log_probs_at(terms, bias[0] if bias else None, Head(tail, FP64, chunk), questions)
        inputs = [*(x for pair in terms for x in pair), *bias]
        found = torch.autograd.grad((values * grad).sum(), inputs)
    plain = [(h.detach().numpy(), w.detach().numpy()) for h, w in terms]
    exact, gradients, of_bias = numpy_rows(
        plain, bias[0].detach().numpy() if bias else np.zeros(columns), tail, asked, grad.numpy()
    )
    np.testing.assert_allclose(values.detach().numpy(), exact, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(found, [*gradients, of_bias], strict=False):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("chunk", [1, 3, 9])
def test_finite_differences(tail: Tail, chunk: int) -> None:
    asked = Asked([0, 0, 2, 3, 3, 4], torch.tensor([1, 1, 6, 0, 5, 2]))

    def values(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return log_probs_at([(hidden, weight)], bias, Head(tail, FP64, chunk), asked)

    assert torch.autograd.gradcheck(values, tensors(5, 7, 3))


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_what_is_frozen_gets_no_gradient_and_changes_no_other(wanted: int) -> None:
    asked, head = Asked(range(5), torch.arange(5)), Head(Tail(), FP64, 2)
    inputs = tensors(5, 7, 3)
    hidden, weight, bias = inputs
    whole = torch.autograd.grad(log_probs_at([(hidden, weight)], bias, head, asked).sum(), inputs)
    for number, x in enumerate(inputs):
        x.requires_grad_(number == wanted)
    log_probs_at([(hidden, weight)], bias, head, asked).sum().backward()
    assert [x.grad is not None for x in inputs] == [n == wanted for n in range(3)]
    assert torch.equal(inputs[wanted].grad, whole[wanted])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_products_with_a_wide_sum(dtype: torch.dtype) -> None:
    """A sum of 5,000 equal shares is none in bf16, where 256 + 1 is 256."""
    hidden, weight = torch.zeros(3, 2, dtype=dtype), torch.ones(5000, 2, dtype=dtype)
    values = log_probs_at([(hidden, weight)], None, Head(Tail(), dtype, 2), Asked(range(3), torch.tensor([0, 7, 9])))
    assert values.dtype == torch.float32
    assert values.tolist() == pytest.approx([-math.log(5000)] * 3, abs=1e-5)


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_gradients_of_many_chunks_do_not_stall_in_bf16(weights: torch.dtype) -> None:
    """1,000 chunks, each of which adds less than a rounding of the sum so far: the gradient is within a rounding or two of the
    one in fp64, in the weight's own dtype."""
    rows = 1000
    hidden = torch.ones(rows, 1, dtype=torch.bfloat16)
    weight = torch.tensor([[0.0], [1.0]], dtype=weights, requires_grad=True)
    head = Head(Tail(), torch.bfloat16, 1)
    log_probs_at([(hidden, weight)], None, head, Asked(range(rows), torch.ones(rows, dtype=torch.int64))).sum().backward()
    share = 1 / (1 + math.e)
    assert weight.grad.dtype == weights
    assert weight.grad.flatten().tolist() == pytest.approx([-rows * share, rows * share], rel=2**-7)


def test_impossible_tokens_have_no_share() -> None:
    """Ids that a bias of -inf rules out: log-prob -inf where asked for, no gradient where not, nothing undefined."""
    hidden, weight, _ = tensors(2, 3, 2)
    bias = torch.tensor([0.0, -math.inf, 1.0], dtype=FP64)
    asked = Asked([0, 1], torch.tensor([2, 1]))
    values = log_probs_at([(hidden, weight)], bias, Head(Tail(), FP64, 1), asked)
    assert values[1] == -math.inf
    values[0].backward()
    assert weight.grad[1].tolist() == [0.0, 0.0]
    assert hidden.grad[1].tolist() == [0.0, 0.0]
    assert hidden.grad.isfinite().all()


def test_nothing_is_asked_for() -> None:
    hidden, weight, bias = tensors(0, 5, 3)
    values = log_probs_at([(hidden, weight)], bias, Head(Tail(), FP64, 4), Asked([], torch.zeros(0, dtype=torch.int64)))
    assert values.shape == (0,)
    values.sum().backward()
    assert hidden.grad.shape == (0, 3)
    assert not weight.grad.any()


def test_a_gradient_of_a_gradient_is_refused() -> None:
    hidden, weight, _ = tensors(2, 3, 2)
    values = log_probs_at([(hidden, weight)], None, Head(Tail(), FP64, 1), Asked([0, 1], torch.tensor([0, 1])))
    (first,) = torch.autograd.grad(values.sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError):
        first.sum().backward()


def test_a_batch_under_autocast_is_no_batch_in_bf16() -> None:
    """What products are computed in is said by the head alone, in backward too, which runs outside of autocast."""
    hidden, weight, _ = tensors(4, 30, 8, dtype=torch.float32)
    asked = Asked(range(4), torch.arange(4))
    plain = log_probs_at([(hidden, weight)], None, Head(Tail(), torch.float32, 3), asked)
    with torch.autocast("cpu", torch.bfloat16):
        other = log_probs_at([(hidden, weight)], None, Head(Tail(), torch.float32, 3), asked)
        (gradient,) = torch.autograd.grad(other.sum(), weight)
    assert torch.equal(plain, other)
    assert torch.equal(gradient, torch.autograd.grad(plain.sum(), weight)[0])


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> int:
    """2 MiB for logits, with blocks of their share."""
    monkeypatch.setitem(chunked_head.BLOCK, "cpu", 2**14)
    return 2**21


@pytest.mark.parametrize("tail", [Tail(), Tail(0.5, 3.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, FP64])
@pytest.mark.parametrize("rows", [300, 1500])
def test_logits_stay_within_their_room(rows: int, dtype: torch.dtype, tail: Tail, room: int) -> None:
    """Forward and backward, by the allocator's own events, at any number of rows; beside them stand the hidden states' and the
    weight's gradients, with the weight's product in bf16. The whole way holds more, which the count does see."""
    columns, width = 2003, 4
    hidden, weight, _ = tensors(rows, columns, width, dtype=dtype)
    ids = torch.randint(0, columns, (rows,), generator=torch.Generator().manual_seed(0))
    head = Head(tail, dtype, rows_of_a_chunk(columns, dtype, hidden.device, room))
    other = 8 * (3 * rows * width + 3 * columns * width + 6 * rows)

    def step(log_probs: object) -> None:
        torch.autograd.grad(log_probs().sum(), (hidden, weight))

    most = peak_bytes(partial(step, lambda: log_probs_at([(hidden, weight)], None, head, Asked(range(rows), ids))))
    assert room // 2 < most < room + other
    if rows == 1500:
        plain = peak_bytes(partial(step, lambda: (hidden @ weight.t()).log_softmax(1).gather(1, ids[:, None])))
        assert plain > 2 * rows * columns * dtype.itemsize > 4 * room


def test_a_row_that_exceeds_its_room_is_a_chunk() -> None:
    assert rows_of_a_chunk(10**9, torch.float32, torch.device("cpu"), 2**20) == 1
