"""Ranks in lockstep: every call of a sharded model gathers weights from all ranks, so all must make the same calls in the same
order. They agree on what a step holds before it begins; a rank that has less to do runs one token in its place, times zero."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from train.examples import Example
from train.micro_batch import Forward, forward_of
from train.objectives.negatives import Vector
from train.processes import World
from train.sharding import in_shards, settled


@dataclass(frozen=True)
class Slot:
    """The calls of the model in a micro-batch: whether prompts have one of their own (`apart`), so many without gradient at
    most, and that of what is trained on."""

    apart: bool = False
    pooled: int = 0

    @property
    def calls(self) -> int:
        return self.apart + self.pooled + 1


def agreed(world: World, own: Sequence[Slot]) -> list[Slot]:
    """What the micro-batches of all ranks ask for, by their number: as many as any rank has."""
    rows = zip_longest(*world.gathered(list(own)), fillvalue=Slot())
    return [Slot(any(s.apart for s in row), max(s.pooled for s in row)) for row in rows]


def slots(
    model: Any, world: World, cut: Sequence[list[Example]], slot_of: Callable[[list[Example]], Slot]
) -> list[Slot] | list[None]:
    """What all ranks make of their micro-batches: as many at least as are cut here; None each where every rank may go its own
    way."""
    return agreed(world, [slot_of(micro) for micro in cut]) if in_shards(model) else [None] * len(cut)


def forward_in(model: Any, batch: Sequence[Example], slot: Slot | None) -> "Forward | InStep":
    """The forwards of a micro-batch, as its slot has them where there is one."""
    return forward_of(model, batch) if slot is None else InStep(model, batch, slot)


def idle(model: Any, slot: Slot, within: AbstractContextManager[None]) -> None:
    """A slot of a rank that has no rows for it, backward included. `within`: what forwards run in."""
    with within:
        zeros = [nothing(model) for _ in range(slot.apart)]
        _spend(model, slot.pooled)
        zeros.append(nothing(model))
    for zero in reversed(zeros):
        zero.backward()  # type: ignore[no-untyped-call]


class InStep:
    """The forwards of a micro-batch as its slot has them."""

    def __init__(self, model: Any, batch: Sequence[Example], slot: Slot) -> None:
        self.model, self.slot, self.pooled_is_done = model, slot, False
        with _counted(model, int(slot.apart)) as left:
            self.own = forward_of(model, batch, apart=True)
        self.spare = [nothing(model) for _ in range(left())]

    def weighed(self, first: int) -> list[Vector]:
        return [s.cpu().numpy() for s in self.pooled(first)]

    def pooled(self, first: int) -> list[Tensor]:
        with _counted(self.model, self.slot.pooled) as left:
            found = self.own.pooled(first)
        self._fill(left())
        return found

    def trained(self, places: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        if not self.pooled_is_done:
            self._fill(self.slot.pooled)
        with _counted(self.model, 1) as left:
            chosen, rejected = self.own.trained(places)
        # where every completion is one token there is no call
        return (chosen + nothing(self.model) if left() else chosen), rejected

    def backward(self, loss: Tensor) -> None:
        self.own.backward(loss)
        for zero in self.spare:
            zero.backward()  # type: ignore[no-untyped-call]

    def _fill(self, calls: int) -> None:
        self.pooled_is_done = True
        _spend(self.model, calls)


@contextmanager
def even(model: Any, world: World, calls: int) -> Iterator[None]:
    """Within, without gradient: at most `calls` calls of the model, at the end as many on every rank, its weights in shards
    again. Without gradient all calls are alike, whatever they are for."""
    if not in_shards(model):
        yield
        return
    with _counted(model, max(world.gathered(calls))) as left:
        yield
    _spend(model, left())
    settled(model)


def nothing(model: Any) -> Tensor:
    """A call with one token, times zero."""
    token = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
    zero: Tensor = model(input_ids=token, use_cache=False).logits.double().sum() * 0
    return zero


def _spend(model: Any, calls: int) -> None:
    with torch.no_grad():
        for _ in range(calls):
            nothing(model)


@contextmanager
def _counted(model: Any, most: int) -> Iterator[Any]:
    """Within: calls of the model are counted; gives a function for how many are left of `most`. Raises RuntimeError where there
    are more, for which the other ranks would not wait."""
    made = 0

    def count(*args: Any) -> None:
        nonlocal made
        made += 1
        if made > most:
            raise RuntimeError(f"a micro-batch calls the model more than {most} times, which the ranks agreed on")

    hook = model.register_forward_pre_hook(count, prepend=True)
    try:
        yield lambda: most - made
    finally:
        hook.remove()
