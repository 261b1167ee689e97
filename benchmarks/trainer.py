"""The trainer's speed: our steps against plain row-wise ones, side by side, optimizer step included.

The peer is what a good engineer writes without a shared prefix: padded rows of prompt + completion, sorted by length, hidden
states gathered at the completion tokens only, one head and one fused log-softmax over those; for MC-PO a pass without
gradient over all rejected rows first. Same model, dtype, threads, data and optimizer; both cut their batch into
micro-batches of MICRO_TOKENS, where the peer is fastest here.

TRL's DPO step and reference pass (`make bench-env`) take their turns in a process of their own: plain, in its default batches
of 8 pairs, and in batches of 2 with accumulation, where TRL is fastest here. Without that environment their rows say not run.

python benchmarks/trainer.py >> benchmarks/results/trainer.jsonl && python benchmarks/render.py
"""

import json
import math
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from statistics import median
from typing import Any

import llama
import numpy as np
import torch
from figures import ROUNDS, interleaved, line
from llama import VOCABULARY
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid
from torch.profiler import ProfilerActivity, profile
from trl_peer import Peer, pairs, peer

from prefdata.models.forward import logprob, read_positions
from prefdata.models.forward.logprob import grouped_logps
from train import loop
from train.batch_statistics import RunningMean
from train.examples import Example, Order
from train.objectives.registry import OBJECTIVES
from train.settings import TrainingSettings, with_defaults
from train.step import Step

PROMPT, COMPLETION = 192, 96
PROMPTS = 8
"""In a step."""
MICRO_TOKENS = 4096
TRL = {"": 8, "_in_twos": 2}
"""Pairs a batch: its default, and where it is fastest here."""
THREADS = 2
BETA = 0.1
SHORT = ((4, 32, 2), (16, 32, 2), (8, 32, 4), (32, 32, 2), (32, 32, 4), (16, 96, 2), (64, 96, 2))
"""Tokens of a prompt and a completion, candidates: where sharing begins to pay."""
MCPO = {4: (1.7, 0.90), 8: (1.9, 1.15)}
"""Candidates: the speed-up over row-wise MC-PO, the time over row-wise DPO."""
LARGEST, PRODUCTS = (MICRO_TOKENS // 2, 320, 864), 20
"""Rows, width and outputs of the model's largest product, and how often it makes the clock of a round."""
Row = tuple[list[int], list[int]]


def examples(count: int, prompt_tokens: int = 0, completion_tokens: int = 0, prompts: int = PROMPTS) -> list[Example]:
    """Random ids whose lengths vary by a quarter to either side."""
    draw = random.Random(count)

    def ids(about: int) -> list[int]:
        return [draw.randrange(3, VOCABULARY) for _ in range(draw.randint(about * 3 // 4, about * 5 // 4))]

    made = []
    for number in range(prompts):
        prompt = ids(prompt_tokens or PROMPT)
        completions = [ids(completion_tokens or COMPLETION) for _ in range(count)]
        names, logps = [f"{number:08x}{k:08x}" for k in range(count)], [[-8.3 * len(c) for c in completions]]
        made.append(Example(f"{number:016x}", prompt, completions, names, ["source"] * count, logps, []))
    return made


# ---- ours ----


class Ours:
    """The trainer's own step of an objective, over the same batch again and again."""

    def __init__(
        self, objective: str, data: list[Example], micro_tokens: int = MICRO_TOKENS, model: Any = None, **keys: Any
    ) -> None:
        shape = {"batch_prompts": len(data), "micro_tokens": micro_tokens, "steps": 1000, "loss": {"beta": BETA}}
        settings = TrainingSettings.model_validate({**shape, **keys})
        row = OBJECTIVES[objective]
        self.model, self.data = llama.small() if model is None else model, data
        self.settings = with_defaults(settings, row)
        self.optimizer = loop.make_optimizer(self.model, self.settings)
        self.plan = loop.Plan.of(self.settings, Order(tuple(e.prompt_id for e in data), len(data), 0), {"step": 0})
        self.step, self.running = Step(row, self.settings, 0), RunningMean()

    def __call__(self) -> None:
        loop.one_step(self.model, self.optimizer, self.step, self.data, self.plan, 0, self.running)


# ---- the peer ----


class Rows:
    """DPO or MC-PO over padded rows."""

    def __init__(self, data: list[Example], kernel: bool) -> None:
        self.model, self.data, self.kernel = llama.small(), data, kernel
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6, fused=True)
        self.draw = np.random.default_rng(0)

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        drawn = self.drawn() if self.kernel else [1] * len(self.data)
        order = sorted(range(len(self.data)), key=lambda i: len(self.data[i].prompt) + len(self.data[i].completions[0]))
        rows = 2 * max(sum(map(len, self.row(i, 0))) for i in order)
        width = max(1, MICRO_TOKENS // rows)
        for start in range(0, len(order), width):
            some = order[start : start + width]
            logps = sums(self.model, [self.row(i, k) for i in some for k in (0, drawn[i])]).view(-1, 2)
            reference = torch.tensor([[self.data[i].logps[0][k] for k in (0, drawn[i])] for i in some])
            ratio = logps - reference
            (-logsigmoid(BETA * (ratio[:, 0] - ratio[:, 1])).sum() / len(order)).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()

    def row(self, number: int, place: int) -> Row:
        return self.data[number].prompt, self.data[number].completions[place]

    def drawn(self) -> list[int]:
        """The kernel's draw for each prompt: every rejected row once, without gradient, like lengths together."""
        places = [(i, k) for i, e in enumerate(self.data) for k in range(1, len(e.completions))]
        places.sort(key=lambda p: sum(map(len, self.row(*p))))
        scores: list[list[float]] = [[0.0] * (len(e.completions) - 1) for e in self.data]
        width = max(1, MICRO_TOKENS // sum(map(len, self.row(*places[-1]))))
        with torch.no_grad():
            for start in range(0, len(places), width):
                some = places[start : start + width]
                for (i, k), value in zip(some, sums(self.model, [self.row(*p) for p in some]).tolist(), strict=True):
                    scores[i][k - 1] = BETA * (value - self.data[i].logps[0][k])
        return [1 + int(np.argmax(np.array(s) + self.draw.gumbel(size=len(s)))) for s in scores]


def sums(policy: Any, rows: Sequence[Row]) -> Tensor:
    """Log-probs of the completions by one padded forward: [rows]."""
    longest = max(len(p) + len(c) for p, c in rows)
    ids = torch.tensor([[*p, *c, *[0] * (longest - len(p) - len(c))] for p, c in rows])
    starts, stops = (
        torch.tensor(v).unsqueeze(1) for v in zip(*[(len(p) - 1, len(p) + len(c) - 1) for p, c in rows], strict=True)
    )
    places = torch.arange(longest - 1)
    hidden = policy.model(input_ids=ids[:, :-1], attention_mask=(places < stops).long(), use_cache=False).last_hidden_state
    scored = (places >= starts) & (places < stops)
    logps = -cross_entropy(policy.lm_head(hidden[scored]), ids[:, 1:][scored], reduction="none")
    return torch.stack([part.sum() for part in torch.split(logps, [len(c) for _, c in rows])])


# ---- figures ----


def speed(trl: Peer | None) -> None:
    for count, (faster, slower) in MCPO.items():
        data = examples(count)
        calls: dict[str, Callable[[], Any]] = {
            "ours": Ours("mcpo", data),
            "rows_mcpo": Rows(data, kernel=True),
            "rows_dpo": Rows(data, kernel=False),
        }
        if count == 4:
            calls["our_dpo"] = Ours("dpo", [first_pair(e) for e in data])
            if trl is not None:
                for suffix, size in TRL.items():
                    calls[f"trl_dpo{suffix}"] = partial(trl.ask, "step", batches=_batches(pairs(data), size))
        seconds = interleaved({**calls, "products": products})
        clock = seconds.pop("products")
        for name, taken in seconds.items():
            line(f"step_s_n{count}_{name}", median(taken), "s", "")
        line(f"mcpo_vs_rows_mcpo_n{count}", ratio_of(seconds["rows_mcpo"], seconds["ours"]), "x speed", f">= {faster}")
        line(f"mcpo_vs_rows_dpo_n{count}", ratio_of(seconds["ours"], seconds["rows_dpo"]), "x time", f"<= {slower:.2f}")
        if count == 4:
            line("dpo_speedup_vs_rows", ratio_of(seconds["rows_dpo"], seconds["our_dpo"]), "x speed", ">= 1.38")
            for suffix, size in TRL.items():
                if trl is None:
                    line(f"mcpo_speedup_vs_trl_dpo_n4{suffix}", None, "x TRL's DPO step", "" if suffix else ">= 3")
                else:
                    ratio, target = ratio_of(seconds[f"trl_dpo{suffix}"], seconds["ours"]), "" if suffix else ">= 3"
                    line(f"mcpo_speedup_vs_trl_dpo_n4{suffix}", ratio, f"x TRL's DPO step, {size} pairs a batch", target)
        matmul_share(count, data, seconds["ours"], clock)


def sharing() -> None:
    """Where prompts are short, completions are few: our step with prompts run once over the same with packed rows."""
    pays = logprob.sharing_pays
    for prompt, completion, count in SHORT:
        data = examples(count, prompt, completion)
        saved = sum((count - 1) * len(e.prompt) for e in data)
        steps = {name: Ours("mcpo", data) for name in ("shared", "alone")}

        def turn(name: str, steps: dict[str, Ours] = steps) -> None:
            logprob.sharing_pays = lambda completions: name == "shared"
            steps[name]()

        seconds = interleaved({name: partial(turn, name) for name in steps})
        name = f"sharing_speed_p{prompt}_c{completion}_n{count}"
        line(name, ratio_of(seconds["alone"], seconds["shared"]), f"x packed rows, {saved} tokens saved", "")
    logprob.sharing_pays = pays


def scoring(trl: Peer | None) -> None:
    """One reference over eight candidates a prompt: TRL scores them as four pairs, each with its own copies of the prompt."""
    if trl is None:
        line("score_speedup_vs_trl_n8", None, "x TRL's reference pass", ">= 4")
        return
    data, lm = examples(8), llama.small()
    listed = [p for e in data for k in range(0, 8, 2) for p in pairs([_only(e, k)])]

    def ours() -> list[list[float]]:
        with torch.no_grad():
            sums = grouped_logps(lm, [e.prompt for e in data], [e.completions for e in data], MICRO_TOKENS)
        return [s.tolist() for s in sums]

    theirs = trl.ask("score", batches=_batches(listed, 8))["logps"]
    flat = [v for chosen, rejected in theirs for pair in zip(chosen, rejected, strict=True) for v in pair]
    apart = max(abs(a - b) / abs(a) for a, b in zip([v for some in ours() for v in some], flat, strict=True))
    line("score_difference_from_trl", apart, "largest relative difference of a log-prob", "<= 1e-5")
    calls: dict[str, Callable[[], Any]] = {"ours": ours}
    for suffix, size in TRL.items():
        calls[f"trl{suffix}"] = partial(trl.ask, "score", batches=_batches(listed, size))
    seconds = interleaved(calls)
    tokens = sum(len(c) for e in data for c in e.completions)
    for name, taken in seconds.items():
        line(f"score_tokens_per_s_n8_{name}", tokens / median(taken), "completion tokens/s", "")
    for suffix, size in TRL.items():
        ratio, target = ratio_of(seconds[f"trl{suffix}"], seconds["ours"]), "" if suffix else ">= 4"
        line(f"score_speedup_vs_trl_n8{suffix}", ratio, f"x TRL's reference pass, {size} pairs a batch", target)


def _only(example: Example, place: int) -> Example:
    """The candidates at `place` and behind it."""
    both = slice(place, place + 2)
    return replace(
        example,
        completions=example.completions[both],
        candidate_ids=example.candidate_ids[both],
        logps=[some[both] for some in example.logps],
    )


def _batches(listed: Sequence[Any], size: int) -> list[list[Any]]:
    return [list(listed[i : i + size]) for i in range(0, len(listed), size)]


def first_pair(example: Example) -> Example:
    """The chosen and the first rejected candidate: the pair that the peer trains on."""
    return Example(*(v[:2] if k in ("completions", "candidate_ids", "origins") else v for k, v in vars(example).items()))


def ratio_of(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the rounds' ratios."""
    return median(a / b for a, b in zip(above, below, strict=True))


def step_flops(model: Any, data: list[Example], weighed: bool) -> float:
    """Of the products with weights in a step that trains on the chosen and one negative: 2 a weight and token forward, 4
    backward; the head at scored tokens, prompts without what the last layer spares; `weighed`: after a forward of all
    rejected."""
    trunk = sum(p.numel() for n, p in model.named_parameters() if "layers" in n)
    spared = sum(
        p.numel()
        for n, p in read_positions.last_layer(model).named_parameters()
        if any(part in n for part in read_positions.BY_TOKEN)
    )
    head = model.get_output_embeddings().weight.numel()
    flops = 0.0
    for e in data:
        rejected = [len(c) for c in e.completions[1:]]
        trained, pool = len(e.completions[0]) + sum(rejected) / len(rejected), sum(rejected) if weighed else 0
        flops += 6 * (trunk - spared) * len(e.prompt) + (trunk + head) * (2 * pool + 6 * trained)
    return flops


def matmul_share(count: int, data: list[Example], steps: Sequence[float], products: Sequence[float]) -> None:
    """FLOPs of our step over its time and the measured rate of the model's own largest product."""
    rate = 2 * math.prod(LARGEST) / median(products) * PRODUCTS
    share = step_flops(llama.small(), data, weighed=True) / median(steps) / rate
    line(f"matmul_share_n{count}", share, "of the measured matmul rate", ">= 0.6" if count == 4 else "")


def products() -> None:
    """The model's largest product, as a clock for the machine as it is in this round."""
    a, b = torch.ones(*LARGEST[:2]), torch.ones(*LARGEST[1:])
    for _ in range(PRODUCTS):
        a @ b


def activations() -> None:
    """Peak memory of an MC-PO step by the number of candidates: what its tensors take, as torch counts, gradients among them,
    and the process's growth, which has the allocator's holes in it. Each in a process, all prompts of the step in one forward,
    so that more candidates do not mean fewer prompts at once."""
    peaks = {n: json.loads(subprocess.check_output([sys.executable, __file__, str(n)])) for n in (4, 16)}
    for kind, unit, target in (("activation", "MiB", "<= 1.2"), ("resident", "MiB over what was held before", "")):
        for n, found in peaks.items():
            line(f"mcpo_{kind}_mib_n{n}", found[kind], unit, "")
        line(f"mcpo_{kind}_ratio_n16_n4", peaks[16][kind] / peaks[4][kind], "peak of 16 candidates over that of 4", target)


def peak(count: int) -> None:
    """Print the peak of one step in MiB, after a first one with a single short prompt: resident, and of tensors alone."""
    torch.set_num_threads(THREADS)
    step = Ours("mcpo", examples(count), micro_tokens=10**9)
    small = Ours("mcpo", [first_pair(e) for e in step.data[:1]])
    small()
    small.model, small.optimizer = step.model, step.optimizer
    small()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew
    before = _status("VmRSS")
    step()
    print(json.dumps({"resident": _status("VmHWM") - before, "activation": allocated(step)}))


def allocated(call: Callable[[], Any]) -> float:
    """The most MiB that tensors made within the call hold at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    events = sorted((e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns())
    return max(accumulate(e.nbytes() for e in events)) / 2**20


def _status(name: str) -> float:
    with open("/proc/self/status") as file:
        return next(int(text.split()[1]) / 1024 for text in file if text.startswith(name))


def main() -> None:
    if len(sys.argv) == 2:
        peak(int(sys.argv[1]))
        return
    torch.set_num_threads(THREADS)
    print(f"{THREADS} threads, {PROMPTS} prompts a step, {ROUNDS} rounds", file=sys.stderr)
    activations()
    sharing()
    with peer() as trl, tempfile.TemporaryDirectory() as folder:
        llama.write(llama.small(), folder)
        for run in (scoring, speed):  # each from the same weights; references are scored before anything is trained
            if trl is not None:
                trl.ask("load", model=folder, loss="sigmoid", beta=BETA)
            run(trl)


if __name__ == "__main__":
    main()
