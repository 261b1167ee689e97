"""How a run's forwards are computed, where it asks for it: in bf16, by compiled layers, keeping only the layers' inputs."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException
from torch.utils.checkpoint import checkpoint

from prefdata.errors import ConfigError, EngineError
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
        if settings.compile_layers:
            held.enter_context(compiled(model))
        if settings.checkpoint_activations:
            held.enter_context(checkpointed(model))
        yield


@contextmanager
def compiled(model: Any) -> Iterator[None]:
    """Within: the layers but the last, whose rows are cut to those that are read, run as torch.compile makes them.

    One graph before attention and one behind it, for all layers and any number of tokens. What computes layers again
    (`checkpointed`) or gathers their weights (train/sharding.py) stands around it. Raises EngineError where it fails.
    """
    try:
        with _each(_but_last(model, "compiled", "compile_layers"), partial(torch.compile, dynamic=True)):
            yield
    except TorchDynamoException as error:
        said = str(error).strip().partition("\n")[0]
        raise EngineError(
            f"layers cannot be compiled: {said}", "compile_layers", "install a C++ compiler, or leave it out"
        ) from error


@contextmanager
def checkpointed(model: Any) -> Iterator[None]:
    """Within: a forward with gradient keeps each layer's input and computes the rest again in backward.

    The library's own switch is no help here: it knows nothing of the keys and values that completions read from their
    prompt's forward. Here the graph stays whole (checkpoints without reentry), so their gradient reaches the prompt.
    """
    # the last one's backward comes first: what it would compute again is what it holds
    with _each(_but_last(model, "computed again", "checkpoint_activations"), partial(partial, _again, model)):
        yield


def _but_last(model: Any, what: str, setting: str) -> list[Any]:
    """The decoder layers but the last. Raises ConfigError where a model has none that can be had one by one."""
    layers = decoder_layers(model)
    if not layers:
        raise ConfigError(f"{type(model).__name__} has no layers that can be {what}", setting, "leave it out")
    last = last_layer(model)
    return [layer for layer in layers if layer is not last]


@contextmanager
def _each(layers: Sequence[Any], made_of: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Within: each layer's forward is what is made of the one that it has."""
    before = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        layer.forward = made_of(layer.forward)
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            if own is None:
                del layer.forward
            else:
                layer.forward = own


def _again(model: Any, forward: Callable[..., Any], *args: Any, **options: Any) -> Any:
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
