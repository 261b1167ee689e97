"""How a run's forwards are computed: in bf16 where it asks for it, keeping only the layers' inputs where it asks for that."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from prefdata.errors import ConfigError
from prefdata.models.forward import packed_attention
from prefdata.models.forward.read_positions import decoder_layers, last_layer
from train.settings import TrainingSettings


@contextmanager
def forwards(model: Any, settings: TrainingSettings) -> Iterator[None]:
    """Within: forwards of `model` as the settings ask."""
    with ExitStack() as held:
        if settings.precision == "bfloat16":
            # no cache of cast weights: whether one filled without gradient serves a pass with it is torch's own affair
            held.enter_context(torch.autocast(model.device.type, torch.bfloat16, cache_enabled=False))
        if settings.checkpoint_activations:
            held.enter_context(checkpointed(model))
        yield


@contextmanager
def checkpointed(model: Any) -> Iterator[None]:
    """Within: a forward with gradient keeps each layer's input and computes the rest again in backward.

    The library's own switch is no help here: it knows nothing of the keys and values that completions read from their
    prompt's forward. Here the graph stays whole (checkpoints without reentry), so their gradient reaches the prompt.
    """
    layers = decoder_layers(model)
    last = last_layer(model)  # its backward comes first: what it would compute again is what it holds
    if not layers:
        raise ConfigError(
            f"{type(model).__name__} has no layers that can be computed again", "checkpoint_activations", "leave it out"
        )
    layers = [layer for layer in layers if layer is not last]
    for layer in layers:
        layer.forward = partial(_again, layer.forward, model)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _again(forward: Callable[..., Any], model: Any, *args: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **options)
    packed = model.config.get_text_config()._attn_implementation == packed_attention.NAME

    def contexts() -> tuple[Any, Any]:
        # what the forward had, which is gone by the time of its backward
        return nullcontext(), packed_attention.packing(model) if packed else nullcontext()

    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, context_fn=contexts, **options)


def warn_of_slow_bf16(model: Any) -> None:
    """Say so where this processor multiplies bf16 matrices slower than fp32 ones."""
    if model.device.type != "cpu":
        return
    slower = _matmul_s(torch.bfloat16) / _matmul_s(torch.float32)
    if slower > 1:
        print(f"train: bf16 products take {slower:.1f} times as long as fp32 ones on this processor", file=sys.stderr)


def _matmul_s(dtype: torch.dtype, size: int = 512, rounds: int = 5) -> float:
    matrix = torch.ones(size, size, dtype=dtype)
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - started)
    return min(times)
