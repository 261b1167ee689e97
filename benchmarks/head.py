"""The head of a model with 128,256 entries, from hidden states to log-probs and back: chunks of rows against all logits.

The peer is what the forward does where all logits fit: one product, `log_softmax_at`, its gradient and two products back.
Memory is counted by the allocator's own events; the gradients of hidden states and weight are no logits and are taken off.
`user_time` is the processor's time of this process, which a busy machine changes less than the clock's.

python benchmarks/head.py >> benchmarks/results/head.jsonl && python benchmarks/render.py
"""

import resource
import sys
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import llama
import torch
from figures import interleaved, line
from torch import Tensor
from torch.nn.functional import linear
from torch.profiler import ProfilerActivity, profile

from prefdata.models.forward import head
from prefdata.models.forward.chunked_head import Asked, Head, Tail, log_probs_at, rows_of_a_chunk
from prefdata.models.forward.log_softmax import log_softmax_at
from prefdata.models.forward.read_positions import head_at

VOCABULARY = 128_256
WIDTH, ROWS = 1024, 768
"""Of the timed head; its logits and their gradient are 750 MiB."""
NARROW = 32
"""Width of the head whose memory is counted: its logits are as large as any other's."""
THREADS = 2


def inputs(rows: int, width: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, weight and ids."""
    draw = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, width, generator=draw) for n in (rows, VOCABULARY))
    ids = torch.randint(0, VOCABULARY, (rows,), generator=draw)
    return hidden.to(dtype).requires_grad_(), (weight / width**0.5).to(dtype).requires_grad_(), ids


def chunked(hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
    rows = rows_of_a_chunk(VOCABULARY, weight.dtype, weight.device, head.LOGITS_BYTES)
    return log_probs_at([(hidden, weight)], None, Head(Tail(), weight.dtype, rows), Asked(range(len(ids)), ids))


def whole(hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
    return log_softmax_at(linear(hidden, weight), ids)


Way = Callable[[Tensor, Tensor, Tensor], Tensor]


def gradients(way: Way, hidden: Tensor, weight: Tensor, ids: Tensor) -> tuple[Tensor, ...]:
    """Forward and backward."""
    wanted = [x for x in (hidden, weight) if x.requires_grad]
    return torch.autograd.grad(way(hidden, weight, ids).sum(), wanted)


def logits_mib(way: Way, rows: int, dtype: torch.dtype) -> float:
    """MiB that a forward and backward hold at most beyond what they are given and what they give; of the weight's gradient
    also the sum in fp32 and one chunk's product, where the weight is narrower."""
    given = inputs(rows, NARROW, dtype)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        made = gradients(way, *given)
    held = most = 0
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    summed = 0 if dtype == torch.float32 else VOCABULARY * NARROW * (4 + dtype.itemsize)
    return (most - sum(g.nbytes for g in made) - summed) / 2**20


class Turns:
    """Calls that take turns, with the processor's time of each."""

    def __init__(self, calls: dict[str, Callable[[], Any]]) -> None:
        self.user: dict[str, list[float]] = {name: [] for name in calls}
        self.wall = interleaved({name: partial(self._timed, name, call) for name, call in calls.items()})

    def _timed(self, name: str, call: Callable[[], Any]) -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        call()
        self.user[name].append(resource.getrusage(resource.RUSAGE_SELF).ru_utime - before)

    def ratio(self, name: str, peer: str) -> tuple[float, float]:
        """Of the clock's time and the processor's, the median over rounds."""
        both = ((self.wall[name], self.wall[peer]), (self.user[name][1:], self.user[peer][1:]))
        wall, user = ([a / b for a, b in zip(mine, its, strict=True)] for mine, its in both)
        print(f"{name} over {peer}: {min(wall):.3f}..{max(wall):.3f}, user {min(user):.3f}..{max(user):.3f}", file=sys.stderr)
        return median(wall), median(user)


def times(frozen: bool) -> None:
    """Beyond the limit."""
    given = inputs(ROWS, WIDTH)
    given[1].requires_grad_(not frozen)
    turns = Turns({"chunked": partial(gradients, chunked, *given), "whole": partial(gradients, whole, *given)})
    wall, user = turns.ratio("chunked", "whole")
    name = "head_over_all_logits" + ("_frozen" if frozen else "")
    line(name, wall, "x time", "" if frozen else "<= 1.4")
    line(f"{name}_user_time", user, "x processor time", "" if frozen else "<= 1.4")


def no_gradient() -> None:
    """Scoring's."""
    given = inputs(ROWS, WIDTH)
    with torch.no_grad():
        turns = Turns({"chunked": lambda: chunked(*given), "whole": lambda: whole(*given)})
    wall, user = turns.ratio("chunked", "whole")
    line("head_over_all_logits_scoring", wall, "x time", "<= 1.4")
    line("head_over_all_logits_scoring_user_time", user, "x processor time", "<= 1.4")


def where_all_fit() -> None:
    """A model of one layer: the call that chooses over the one without a choice, with the same bits."""
    shape = {"num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64, "tie_word_embeddings": True}
    model = llama.llama(vocab_size=VOCABULARY, hidden_size=256, **shape)
    tokens = torch.arange(3, 131).unsqueeze(0)
    ids, at = tokens[0, 1:], (torch.zeros(127, dtype=torch.int64), torch.arange(127))
    call = partial(model, input_ids=tokens, use_cache=False)

    def before() -> Tensor:
        with head_at(model, *at):
            return log_softmax_at(call().logits.squeeze(0), ids)

    def now() -> Tensor:
        return head.log_probs(model, call, ids, at)

    weights = list(model.parameters())
    same = torch.equal(now(), before())
    pairs = zip(*(torch.autograd.grad(way().sum(), weights) for way in (now, before)), strict=True)
    line("head_same_bits_where_all_fit", float(same and all(torch.equal(a, b) for a, b in pairs)), "of 1", ">= 1")
    turns = Turns(
        {name: lambda way=way: torch.autograd.grad(way().sum(), weights) for name, way in (("now", now), ("before", before))}
    )
    wall, user = turns.ratio("now", "before")
    line("head_time_where_all_fit", wall, "x time", "<= 1.05")
    line("head_user_time_where_all_fit", user, "x processor time", "<= 1.05")


def gap() -> float:
    """Largest difference of a gradient in fp64 over its largest entry."""
    given = inputs(600, 16, torch.float64)
    pairs = zip(gradients(chunked, *given), gradients(whole, *given), strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def main() -> None:
    torch.set_num_threads(THREADS)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        for rows in (64, 512, 4096):
            line(f"head_logits_{name}_{rows}_tokens", logits_mib(chunked, rows, dtype), "MiB at most", "<= 256")
    line("head_logits_fp32_512_tokens_all", logits_mib(whole, 512, torch.float32), "MiB at most", "")
    line("head_gradient_gap_fp64", gap(), "of the largest entry", "<= 1e-6")
    times(frozen=False)
    times(frozen=True)
    no_gradient()
    where_all_fit()


if __name__ == "__main__":
    main()
