"""Scoring speed: the score stage's shared-prefix log-probs against the best plain rows, side by side.

The peer is what a good engineer writes without a shared prefix: rows of prompt + completion sorted by length and padded on
the right, hidden states gathered at the real completion tokens only, one head and one fused log-softmax over those. All
get the same model, dtype, threads and tokens per batch (BATCH_TOKENS is where the peer is fastest here), and start from
ids. A second peer leaves the attention mask out, which right padding allows and few callers do: its ratio is printed too.
The score stage's own values (from texts, tokenised) are compared with the peer's in the same run.

python benchmarks/logprob.py >> benchmarks/results/logprob.jsonl && python benchmarks/render.py
"""

import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import accumulate
from statistics import median
from typing import Any

import llama
import torch
from figures import ROUNDS, interleaved, line
from llama import VOCABULARY
from torch.nn.functional import cross_entropy
from transformers.utils.logging import disable_progress_bar

from prefdata.models.forward.logprob import batches, grouped_logps
from prefdata.models.scorer import Item, Scorer
from prefdata.models.settings import ReferenceSettings

SHAPES = {(8, 192, 96): 2.0, (4, 192, 96): 1.7, (8, 64, 192): 1.15}
"""(candidates a prompt, prompt tokens, completion tokens): the speed-up to reach."""
PROMPTS = 12
BATCH_TOKENS = 2048
THREADS = 2
Group = tuple[list[int], list[list[int]]]
"""Ids of a prompt and of its candidates."""


def groups(count: int, prompt: int, completion: int) -> list[Group]:
    """Random ids whose lengths vary by a quarter to either side, as real ones do at least."""
    draw = random.Random(f"{count} {prompt} {completion}")

    def ids(about: int) -> list[int]:
        return [draw.randrange(3, VOCABULARY) for _ in range(draw.randint(about * 3 // 4, about * 5 // 4))]

    return [(ids(prompt), [ids(completion) for _ in range(count)]) for _ in range(PROMPTS)]


def items(data: Sequence[Group]) -> list[Item]:
    """The same as the stage gets it."""

    def text(ids: list[int]) -> str:
        return " ".join(f"w{i}" for i in ids)

    prompts = [
        {
            "prompt_id": f"{number:016x}",
            "messages": [{"role": "user", "content": text(ids)}],
            "tools": None,
            "template_kwargs": None,
        }
        for number, (ids, _) in enumerate(data)
    ]
    return [
        Item(prompt, {"candidate_id": f"{number:016x}", "response": text(ids), "finish": "stop"})
        for prompt, (_, completions) in zip(prompts, data, strict=True)
        for number, ids in enumerate(completions)
    ]


def shared(model: Any, data: Sequence[Group]) -> list[float]:
    """Ours, batched as the score stage does: the sum of every completion's log-probs, in order."""
    sums: list[float] = [0.0] * sum(len(completions) for _, completions in data)
    starts = [0, *accumulate(len(completions) for _, completions in data)]
    for batch in batches([len(prompt) for prompt, _ in data], BATCH_TOKENS):
        found = grouped_logps(model, [data[i][0] for i in batch], [data[i][1] for i in batch], BATCH_TOKENS)
        for i, some in zip(batch, found, strict=True):
            sums[starts[i] : starts[i + 1]] = some.tolist()
    return sums


def plain_rows(model: Any, data: Sequence[Group], masked: bool) -> list[float]:
    """A peer: the sum of every completion's log-probs, in order. `masked`: with the batch's attention mask, as callers of
    transformers give it; without one the attention takes its causal path, which padding on the right allows."""
    flat = [(prompt, completion) for prompt, completions in data for completion in completions]
    lengths = [len(p) + len(c) for p, c in flat]
    sums = [0.0] * len(flat)
    for batch in sorted_batches(lengths):
        longest = max(lengths[k] for k in batch)
        ids = torch.tensor([[*flat[k][0], *flat[k][1], *[0] * (longest - lengths[k])] for k in batch])
        places = torch.arange(longest - 1)
        mask = (places < torch.tensor([lengths[k] - 1 for k in batch]).unsqueeze(1)).long() if masked else None
        hidden = model.model(input_ids=ids[:, :-1], attention_mask=mask, use_cache=False).last_hidden_state
        starts, stops = (
            torch.tensor(v).unsqueeze(1) for v in zip(*[(len(flat[k][0]) - 1, lengths[k] - 1) for k in batch], strict=True)
        )
        scored = (places >= starts) & (places < stops)
        logps = -cross_entropy(model.lm_head(hidden[scored]), ids[:, 1:][scored], reduction="none")
        for k, some in zip(batch, torch.split(logps.double(), [len(flat[k][1]) for k in batch]), strict=True):
            sums[k] = float(some.sum())
    return sums


def sorted_batches(lengths: Sequence[int]) -> list[list[int]]:
    """Rows of like length together, padded to at most BATCH_TOKENS."""
    batches: list[list[int]] = []
    for k in sorted(range(len(lengths)), key=lambda k: lengths[k]):
        if batches and (len(batches[-1]) + 1) * lengths[k] <= BATCH_TOKENS:
            batches[-1].append(k)
        else:
            batches.append([k])
    return batches


def measure(folder: str, shape: tuple[int, int, int]) -> float:
    """Print the figures of one shape; the largest difference of a candidate's log-prob per token."""
    count, prompt, completion = shape
    label = f"n{count}_p{prompt}_c{completion}"
    data = groups(*shape)
    settings = ReferenceSettings(name="random", model=folder, template="plain", end="none")
    scorer = Scorer(folder, settings, "float32", BATCH_TOKENS)
    model = scorer.model
    calls: dict[str, Callable[[], Any]] = {
        "ours": lambda: shared(model, data),
        "rows": lambda: plain_rows(model, data, masked=True),
        "unmasked_rows": lambda: plain_rows(model, data, masked=False),
    }
    seconds = interleaved(calls)
    tokens = sum(len(c) for _, completions in data for c in completions)
    for name, taken in seconds.items():
        line(f"score_tokens_per_s_{label}_{name}", tokens / median(taken), "completion tokens/s", "")
    for name, suffix, target in (("rows", "", f">= {SHAPES[shape]}"), ("unmasked_rows", "_unmasked", "")):
        ratios = sorted(peer / ours for ours, peer in zip(seconds["ours"], seconds[name], strict=True))
        line(f"score_speedup_{label}{suffix}", median(ratios), f"x {name.replace('_', ' ')}", target)
        print(f"{label}: {name}, ratio round by round {ratios[0]:.2f}..{ratios[-1]:.2f}", file=sys.stderr, flush=True)
    ours, exact = scorer.values(items(data)), plain_rows(model, data, masked=True)
    return max(abs(v["logp"] - e) / v["num_tokens"] for v, e in zip(ours, exact, strict=True))


def main() -> None:
    torch.set_num_threads(THREADS)
    disable_progress_bar()
    print(f"{THREADS} threads, batches of {BATCH_TOKENS} tokens, {PROMPTS} prompts, {ROUNDS} rounds", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        llama.write(llama.small(), folder)
        worst = max(measure(folder, shape) for shape in SHAPES)
    line("score_max_diff_per_token", worst, "nats", "<= 1e-4")


if __name__ == "__main__":
    main()
