"""Memory that a call takes, counted: all allocations, or the tensors as wide as a vocabulary."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


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


class Wide(TorchDispatchMode):
    """Within: bytes of living tensors whose last axis has so many entries, and the most there were at once. Weights' gradients
    [V, H] are none of them; what an operator allocates for itself is not seen."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns, self.held, self.most = columns, 0, 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and self._counts(tensor):
                self._count(tensor.untyped_storage())
        return out

    def _counts(self, tensor: torch.Tensor) -> bool:
        """Not of a weight [V, H] seen from its other side."""
        return tensor.dim() > 1 and tensor.shape[-1] == self.columns and tensor.stride(-1) == 1

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.seen:
            return
        self.seen.add(key)
        self.held += size
        self.most = max(self.most, self.held)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.held -= size
