"""The trainer's speed: our steps against plain row-wise ones and TRL's, optimizer step included, each in a process of its own.

The peer is what a good engineer writes without a shared prefix (rows_peer.py): padded rows of prompt + completion, sorted by
length, hidden states gathered at the completion tokens only, one head and one fused log-softmax over those; for MC-PO a pass
without gradient over all rejected rows first. Same model, dtype, threads, data and optimizer; both cut their batch into
micro-batches of MICRO_TOKENS, where the peer is fastest.

TRL's DPO step and reference pass (`make bench-env`) take their turns in batches of each size, and the ratio is to the size at
which TRL is fastest; without that environment their rows say not run.

python benchmarks/trainer.py [SECTION ...] >> benchmarks/results/trainer.jsonl && python benchmarks/render.py
"""

import json
import math
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
import torch
from figures import ROUNDS, interleaved, line, machine
from rows_peer import Rows
from steps import BETA, LARGEST, MICRO_TOKENS, PRODUCTS, PROMPTS, Ours, examples, first_pair, products, step_flops
from torch.profiler import ProfilerActivity, profile
from trl_peer import Peer, pairs, peer
from turns import serve, turns

from prefdata.models.forward import logprob
from prefdata.models.forward.logprob import grouped_logps
from train.examples import Example

TRL_PAIRS = (1, 2, 4, 8)
"""Pairs a batch; 8 is its default."""
THREADS = 2
SHORT = ((4, 32, 2), (16, 32, 2), (8, 32, 4), (32, 32, 2), (32, 32, 4), (16, 96, 2), (64, 96, 2))
"""Tokens of a prompt and a completion, candidates: where sharing begins to pay."""
MCPO = {4: (1.7, 0.88), 8: (1.9, 1.12)}
"""Candidates: the speed-up over row-wise MC-PO, the time over row-wise DPO."""


# ---- calls, by the name that a process of their own is started with ----


def scored(data: list[Example]) -> Callable[[], list[list[float]]]:
    """One reference over all candidates, as the score stage runs it."""
    lm = llama.small()

    def call() -> list[list[float]]:
        with torch.no_grad():
            sums = grouped_logps(lm, [e.prompt for e in data], [e.completions for e in data], MICRO_TOKENS)
        return [s.tolist() for s in sums]

    return call


CALLS: dict[str, Callable[[list[Example]], Callable[[], Any]]] = {
    "ours": lambda data: Ours("mcpo", data),
    "ours_compiled": lambda data: Ours("mcpo", data, compile_layers=True),
    "our_dpo": lambda data: Ours("dpo", [first_pair(e) for e in data]),
    "rows_mcpo": lambda data: Rows(data, kernel=True),
    "rows_dpo": lambda data: Rows(data, kernel=False),
    "scored": scored,
    "products": lambda data: products,
}


def commands(names: Sequence[str], count: int) -> dict[str, list[str]]:
    """How each of these is run over examples of so many candidates."""
    return {name: [__file__, "turn", name, str(count)] for name in names}


def trl_calls(trl: Peer | None, do: str, listed: Sequence[Any]) -> dict[str, Callable[[], float]]:
    """TRL's seconds for these pairs, by the size of its batches; none where it is not there."""
    if trl is None:
        return {}
    return {f"trl_{size}": partial(_seconds, trl, do, _batches(listed, size)) for size in TRL_PAIRS}


def _seconds(trl: Peer, do: str, batches: list[list[Any]]) -> float:
    return float(trl.ask(do, batches=batches)["seconds"])


# ---- figures ----


def speed(count: int) -> None:
    """Our MC-PO step of so many candidates a prompt against the row-wise ones."""
    faster, slower = MCPO[count]
    data = examples(count)
    names = ["ours", "rows_mcpo", "rows_dpo", *(["our_dpo", "ours_compiled"] if count == 4 else []), "products"]
    with turns(commands(names, count)) as own:
        seconds = interleaved(own)
    clock = seconds.pop("products")
    for name, taken in seconds.items():
        line(f"step_s_n{count}_{name}", median(taken), "s", "")
    line(f"mcpo_vs_rows_mcpo_n{count}", ratio_of(seconds["rows_mcpo"], seconds["ours"]), "x speed", f">= {faster}")
    line(f"mcpo_vs_rows_dpo_n{count}", ratio_of(seconds["ours"], seconds["rows_dpo"]), "x time", f"<= {slower:.2f}")
    if count == 4:
        line("dpo_speedup_vs_rows", ratio_of(seconds["rows_dpo"], seconds["our_dpo"]), "x speed", ">= 1.38")
        line("mcpo_compiled_vs_plain_n4", ratio_of(seconds["ours"], seconds["ours_compiled"]), "x plain layers' speed", "")
    matmul_share(count, data, seconds["ours"], clock)


def speed_vs_trl(trl: Peer | None) -> None:
    """Our MC-PO step, which weighs three rejected candidates, against TRL's DPO step, which trains on a pair."""
    with turns(commands(["ours"], 4)) as own:
        seconds = interleaved({**own, **trl_calls(trl, "step", pairs(examples(4)))}) if trl is not None else {}
    for name, taken in seconds.items():
        line(f"step_s_n4_{name}_beside_trl", median(taken), "s", "")
    against_trl("mcpo_speedup_vs_trl_dpo_n4", "TRL's DPO step", seconds, ">= 1.5")


def against_trl(name: str, what: str, seconds: dict[str, list[float]], target: str) -> None:
    """Ours against TRL's best size of batches, and against its default."""
    sizes = {size: seconds[f"trl_{size}"] for size in TRL_PAIRS if f"trl_{size}" in seconds}
    if not sizes:
        line(name, None, f"x {what}", target)
        return
    best = min(sizes, key=lambda size: median(sizes[size]))
    for suffix, size, wanted in (("", best, target), ("_default", TRL_PAIRS[-1], "")):
        line(name + suffix, ratio_of(sizes[size], seconds["ours"]), f"x {what}, {size} pairs a batch", wanted)


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
    data = examples(8)
    listed = [p for e in data for k in range(0, 8, 2) for p in pairs([_only(e, k)])]
    if trl is not None:
        theirs = trl.ask("score", batches=_batches(listed, 8))["logps"]
        flat = [v for chosen, rejected in theirs for pair in zip(chosen, rejected, strict=True) for v in pair]
        apart = max(abs(a - b) / abs(a) for a, b in zip([v for some in scored(data)() for v in some], flat, strict=True))
        line("score_difference_from_trl", apart, "largest relative difference of a log-prob", "<= 1e-5")
    with turns(commands(["scored"], 8)) as own:
        seconds = interleaved({"ours": own["scored"], **trl_calls(trl, "score", listed)})
    tokens = sum(len(c) for e in data for c in e.completions)
    for name, taken in seconds.items():
        line(f"score_tokens_per_s_n8_{name}", tokens / median(taken), "completion tokens/s", "")
    against_trl("score_speedup_vs_trl_n8", "TRL's reference pass", seconds, ">= 3")


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


def ratio_of(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the rounds' ratios."""
    return median(a / b for a, b in zip(above, below, strict=True))


def matmul_share(count: int, data: list[Example], steps: Sequence[float], clock: Sequence[float]) -> None:
    """FLOPs of our step over its time and the measured rate of the model's own largest product."""
    rate = 2 * math.prod(LARGEST) / median(clock) * PRODUCTS
    share = step_flops(llama.small(), data, weighed=True) / median(steps) / rate
    line(f"matmul_rate_n{count}", rate / 1e9, "GFLOP/s, the model's largest product", "")
    line(f"matmul_share_n{count}", share, "of the measured matmul rate", ">= 0.65" if count == 4 else "")


def activations() -> None:
    """Peak memory of an MC-PO step by the number of candidates: what its tensors take, as torch counts, gradients among them,
    and the process's growth, which has the allocator's holes in it. Each in a process, all prompts of the step in one forward,
    so that more candidates do not mean fewer prompts at once."""
    peaks = {n: json.loads(subprocess.check_output([sys.executable, __file__, "peak", str(n)])) for n in (4, 16)}
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
    torch.set_num_threads(THREADS)
    match sys.argv[1:]:
        case ["peak", count]:
            peak(int(count))
            return
        case ["turn", name, count]:
            serve(CALLS[name](examples(int(count))))
            return
    machine(f"python benchmarks/{' '.join(['trainer.py', *sys.argv[1:]])}")
    print(f"{THREADS} threads, {PROMPTS} prompts a step, {ROUNDS} rounds", file=sys.stderr)
    with peer() as trl, tempfile.TemporaryDirectory() as folder:
        llama.write(llama.small(), folder)
        sections: dict[str, Callable[[], None]] = {
            "activations": activations,
            "sharing": sharing,
            "scoring": partial(scoring, trl),  # before anything is trained
            "step_n4": partial(speed, 4),
            "step_n8": partial(speed, 8),
            "step_vs_trl": partial(speed_vs_trl, trl),
        }
        if trl is not None:
            trl.ask("load", model=folder, loss="sigmoid", beta=BETA)
        for name in sys.argv[1:] or sections:
            sections[name]()


if __name__ == "__main__":
    main()
