"""What the head of a model gives for the ids asked for: from all logits where they fit, else by chunks of rows.

Both within the model's own call: weights that are sharded over processes are whole there, and what the call returns is what
their gradients are reduced by.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from prefdata.errors import EngineError
from prefdata.models.forward import log_softmax
from prefdata.models.forward.chunked_head import Asked, Head, Tail, log_probs_at, rows_of_a_chunk
from prefdata.models.forward.log_softmax import log_softmax_at, wide
from prefdata.models.forward.read_positions import head_at

LOGITS_BYTES = 2**28
"""What logits, their gradients and what is computed beside them may hold at once."""
CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
SCALES = ("logits_scaling", "logit_scale", "lm_head_multiplier", "output_multiplier")
"""Keys of transformers' configs for what is done to logits; one model multiplies by the scale that another divides by."""
Places = tuple[Tensor, Tensor]
"""Row and column of the head's input [rows, tokens]: [K] each."""


def log_probs(model: Any, call: Callable[[], Any], ids: Tensor, at: Places | None = None, held: int = 0) -> Tensor:
    """log softmax of the logits that `call()`, a call of the model, gives, at one id a row: [K]; in fp32, or fp64 where the
    logits are. `at`: which hidden states the head sees; None: all of its one row. `held`: bytes of other logits that live."""
    if held + _whole_bytes(model, len(ids)) <= LOGITS_BYTES or not chunkable(model):
        with _at(model, at):
            return log_softmax_at(call().logits.squeeze(0), ids)
    with _at(model, at), answering(model, Asked(range(len(ids)), ids), held):
        made: Tensor = call().logits
        return made


def _at(model: Any, at: Places | None) -> AbstractContextManager[None]:
    return nullcontext() if at is None else head_at(model, *at)


def _whole_bytes(model: Any, rows: int) -> int:
    """What log_softmax_at holds for so many rows at most: logits, what made them, their gradient, and blocks."""
    columns, dtype = _columns(model), _dtype(model)
    copies = 2 if torch.is_grad_enabled() else 1
    if tails(model) != [Tail()]:
        copies += 2
    block = min(rows * columns, max(columns, log_softmax.BLOCK.get(model.device.type, log_softmax.BLOCK["cpu"])))
    return rows * columns * copies * dtype.itemsize + 2 * block * wide(dtype).itemsize


def prefix_fits(model: Any, rows: int) -> bool:
    """Whether the logits of so many prompts are kept until their completions come by: they leave room for those, or the model's
    head is one that cannot work in chunks. Their own log-sum-exp and its gradient hold six more of their size."""
    dtype = _dtype(model)
    return not chunkable(model) or rows * _columns(model) * (2 * dtype.itemsize + 6 * wide(dtype).itemsize) <= LOGITS_BYTES // 2


@contextmanager
def answering(model: Any, asked: Asked, held: int = 0) -> Iterator[None]:
    """Within: a call of the model gives the log-probs asked for, [Q], in place of its logits; rows are its head's input's, of
    [1, K, H]. The model itself makes the first row's logits alone, which show what it does to its head's products.

    Raises EngineError where that is nothing that is known here.
    """
    head = model.get_output_embeddings()
    seen: dict[str, Tensor] = {}

    def first(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen["hidden"] = args[0].squeeze(0)
        return (args[0][:, :1].detach(), *args[1:])

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        seen["products"] = output.detach()

    def answer(module: nn.Module, args: Any, output: Any) -> Any:
        dtype = _dtype(model)
        rows = rows_of_a_chunk(_columns(model), dtype, model.device, LOGITS_BYTES - held)
        tail = _tail(model, seen["products"], output.logits.detach())
        terms, bias = _terms(head, seen["hidden"])
        output.logits = log_probs_at(terms, bias, Head(tail, dtype, rows), asked)
        return output

    hooks = [
        head.register_forward_pre_hook(first),
        head.register_forward_hook(keep),
        # before the hooks of sharded models, which look at what the call returns
        model.register_forward_hook(answer, prepend=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def chunkable(model: Any) -> bool:
    """Whether the head is a linear layer, with plain low-rank adapters at most."""
    head = model.get_output_embeddings()
    base = getattr(head, "base_layer", head)
    if not isinstance(base, nn.Linear) or type(base).forward is not nn.Linear.forward:
        return False
    if base is head:
        return True
    if getattr(head, "lora_variant", True) or head.merged:  # DoRA and the like
        return False
    return all(head.lora_B[a].bias is None and isinstance(head.lora_dropout[a], nn.Identity) for a in _adapters(head))


def _adapters(head: Any) -> list[str]:
    return [] if head.disable_adapters else [a for a in head.active_adapters if a in head.lora_A]


def _terms(head: Any, hidden: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor | None]:
    """Pairs of hidden states and weights whose products the head sums, and its bias."""
    base = getattr(head, "base_layer", head)
    terms = [(hidden, base.weight)]
    for name in _adapters(head) if base is not head else []:
        down = head.lora_A[name]
        terms.append((down(hidden.to(down.weight.dtype)) * head.scaling[name], head.lora_B[name].weight))
    return terms, base.bias


def _base(model: Any) -> Any:
    head = model.get_output_embeddings()
    return getattr(head, "base_layer", head)


def _columns(model: Any) -> int:
    return int(_base(model).weight.shape[0])


def _dtype(model: Any) -> torch.dtype:
    """What the head's products are computed in."""
    kind = model.device.type
    if torch.is_autocast_enabled(kind) and _base(model).weight.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return _base(model).weight.dtype  # type: ignore[no-any-return]


def tails(model: Any) -> list[Tail]:
    """What may be done to the products, by the model's config; the likeliest first."""
    config = model.config.get_text_config()
    cap = next((float(v) for name in CAPS if (v := getattr(config, name, None))), None)
    found = [float(v) for name in SCALES if (v := getattr(config, name, None))]
    scales = [s for v in found for s in (v, 1 / v)] or [1.0]
    made = [Tail(s, c) for c, s in product([cap, None] if cap else [None], dict.fromkeys([*scales, 1.0]))]
    return list(dict.fromkeys(made))


def _tail(model: Any, products: Tensor, logits: Tensor) -> Tail:
    """Which of them gives these logits [1, 1, V] of these products."""
    dtype = wide(products.dtype)
    near = 4 * torch.finfo(products.dtype).eps  # the model rounds after each of its operations
    for tail in tails(model):
        if torch.allclose(tail.of(products.to(dtype, copy=True)), logits.to(dtype), rtol=near, atol=0.0, equal_nan=True):
            return tail
    raise EngineError(
        f"{type(model).__name__} makes of its head's products something other than scaled or capped logits",
        f"a forward whose logits exceed {LOGITS_BYTES >> 20} MiB",
        "lower micro_tokens or batch_tokens until they fit",
    )
