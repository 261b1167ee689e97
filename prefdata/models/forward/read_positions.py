"""Modules of a model that work at some positions of a row only, where nobody reads what they would give at the others.

Most of a row are prompts, whose logits are never wanted, nor what the last layer makes of them beyond keys and values.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer

BY_TOKEN = ("q_proj", "o_proj", "mlp")
"""Modules of a layer that work on single tokens and give as many as they get; a model without such names does all the work."""


@contextmanager
def head_at(model: Any, row: Tensor, place: Tensor) -> Iterator[None]:
    """Within: the model's head sees its hidden states at these positions alone, as one row of K, and gives [1, K, V].

    Logits of padding and prompts are the largest tensors of a forward and nobody needs them. The model's own forward
    still runs to its end, so soft caps and scales of its logits apply.
    """

    def picked(head: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][row, place].unsqueeze(0), *args[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(picked)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def last_layer_at(model: Any, place: Tensor) -> Iterator[None]:
    """Within: the last layer's queries, output projection and MLP are computed at these positions of a row [1, T] alone; its
    hidden states at all others mean nothing. Keys and values are whole, for completions to read."""
    with ExitStack() as stack:
        for name, module in last_layer(model).named_modules():
            *around, own = name.split(".")
            if own in BY_TOKEN and not set(around) & set(BY_TOKEN):
                stack.enter_context(_at(module, place))
        yield


def decoder_layers(model: Any) -> list[torch.nn.Module]:
    """The model's decoder layers; none where they cannot be told."""
    return [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]


def last_layer(model: Any) -> torch.nn.Module:
    """The last of the model's decoder layers; an empty module where it cannot be told."""
    last = model.config.get_text_config().num_hidden_layers - 1
    holding = (m for m in decoder_layers(model) if any(getattr(part, "layer_idx", None) == last for part in m.modules()))
    return next(holding, torch.nn.Module())


@contextmanager
def _at(module: torch.nn.Module, place: Tensor) -> Iterator[None]:
    """Within: the module gets its input [1, T, H] at these positions, and what it gives stands there among zeros. One that is
    called with anything else does all the work."""
    length: int | None = None

    def picked(module: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        nonlocal length
        length = args[0].shape[1] if args and args[0].dim() == 3 else None
        return args if length is None else (args[0][:, place], *args[1:])

    def placed(module: torch.nn.Module, args: Any, output: Any) -> Any:
        if length is None:
            return output
        if isinstance(output, tuple):  # mixtures of experts give their routing too
            return (_among_zeros(output[0], place, length), *output[1:])
        return _among_zeros(output, place, length)

    hooks: list[Callable[[], None]] = [
        module.register_forward_pre_hook(picked).remove,
        module.register_forward_hook(placed).remove,
    ]
    try:
        yield
    finally:
        for remove in hooks:
            remove()


def _among_zeros(values: Tensor, place: Tensor, length: int) -> Tensor:
    return values.new_zeros(1, length, values.shape[-1]).index_copy(1, place, values)
