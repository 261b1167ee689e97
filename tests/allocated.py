"""Memory that a call takes, counted: all allocations, or the tensors as wide as a vocabulary."""

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from train.memory import Held


def peak_bytes(call: Callable[[], Any]) -> int:
    """The most that a call holds at once beyond what was there, by the allocator's own events (CPU)."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        kept = call()
    del kept
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


class Wide(Held):
    """Of tensors whose last axis has so many entries: logits and their gradients, no weights' [V, H]."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns

    def counts(self, tensor: torch.Tensor) -> bool:
        """A weight seen from its other side lies the other way."""
        return tensor.dim() > 1 and tensor.shape[-1] == self.columns and tensor.stride(-1) == 1
