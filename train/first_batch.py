"""What a run finds out before its first step, and says: that packed rows give plain rows' log-probs, and what sharing saves."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from prefdata.models.forward import logprob
from train.examples import Example, micro_batches
from train.processes import SINGLE, World
from train.sharding import settled

CHECKED = 4
"""Prompts of the check."""


def check(
    model: Any, data: Sequence[Example], batch_prompts: int, micro_tokens: int, world: World = SINGLE, narrow: bool = False
) -> None:
    """Compare one small batch's log-probs with plain rows, which stops the run where they differ (EngineError); the first rank
    says how rows are run, of the first batch's size, and what the clock says to it. `narrow`: products are in bf16.

    The clock decides nothing: a choice by it would make two runs of one recipe differ.
    """
    few = next(micro_batches(data[:CHECKED], micro_tokens))
    logprob.require_equal_rows(model, [e.prompt for e in few], [e.completions for e in few], not narrow)
    said = _description(model, data[:batch_prompts], few)  # of all ranks alike: their weights may be in shards
    settled(model)
    if world.first:
        print(f"train: {said}", file=sys.stderr)


def _description(model: Any, batch: Sequence[Example], few: Sequence[Example]) -> str:
    prompts, completions = [e.prompt for e in batch], [e.completions for e in batch]
    lengths = [len(p) + len(c) for p, group in zip(prompts, completions, strict=True) for c in group]
    separate, once = sum(lengths), sum(e.tokens() for e in batch)
    if not logprob.shares_prefix(model, max(lengths)):
        places = max(lengths) * len(lengths)
        return (
            "this model's attention cannot share a prefix; rows are padded to their batch's longest, "
            f"{1 - separate / places:.0%} at most of the positions are padding"
        )
    if not logprob.sharing_pays(completions):
        return "each completion runs with its prompt, packed without padding: there is nothing to share"
    said = f"prompts run once, packed without padding: {once} tokens a batch, not {separate}"
    if not logprob.sharing_pays([e.completions for e in few]):
        return said
    return f"{said}; of {len(few)} prompts a forward takes {_time_share(model, few):.2f} of the time of packed rows"


@torch.no_grad()
def _time_share(model: Any, few: Sequence[Example]) -> float:
    """Time of the forward that shares prompts over that of packed rows, the better of two each."""
    prompts, owner = [e.prompt for e in few], [b for b, e in enumerate(few) for _ in e.completions]
    rows = [c for e in few for c in e.completions]

    def shared() -> Tensor:
        return logprob.candidate_logps(model, logprob.prefix(model, prompts), owner, rows)

    def separate() -> Tensor:
        return logprob.packed_logps(model, [prompts[b] for b in owner], rows)

    return min(map(_seconds, [shared] * 2)) / min(map(_seconds, [separate] * 2))


def _seconds(call: Callable[[], Tensor]) -> float:
    started = time.perf_counter()
    call().sum().item()  # a GPU has finished when it can be read
    return time.perf_counter() - started
