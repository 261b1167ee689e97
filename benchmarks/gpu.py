"""DPO and MC-PO steps of a 1.1-billion-parameter random Llama on one GPU: bf16 products, prompts of 1,024 tokens, completions
of 512, 4 and 8 candidates; tokens a second, model FLOPs over the device's peak, memory, what MC-PO costs over DPO, attention's
kernels against padded segments, and compiled layers against plain ones.

MC-PO's cost over DPO on the same prompts should be (n - 1) / (3 rho + 6), rho being the prompt's length over a completion's:
a forward of n - 1 completions over the forward and backward of a prompt and two completions.

python benchmarks/gpu.py >> benchmarks/results/gpu.jsonl && python benchmarks/render.py
python benchmarks/gpu.py --tiny: on any machine, to see that it runs; its figures mean nothing
"""

import sys
from statistics import median
from typing import Any

import llama
import torch
from figures import interleaved, line
from steps import Ours, examples, first_pair, step_flops
from trainer import ratio_of

from prefdata.models.forward import packed_attention

PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
"""Dense bf16 FLOP/s of tensor cores, by a part of the device's name (NVIDIA's data sheets)."""
LLAMA = {
    "vocab_size": 32_000,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 4096,
}
TINY = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
MICRO_TOKENS = 16_384
FIGURES = {
    **{f"tokens_per_s_{name}": ("tokens/s", "") for name in ("dpo", "mcpo")},
    **{f"mfu_{name}": ("of the device's peak", ">= 0.45") for name in ("dpo", "mcpo")},
    **{f"memory_{name}": ("GiB at most", "") for name in ("dpo", "mcpo")},
    "mcpo_over_dpo": ("of a DPO step more", ""),
    "mcpo_over_formula": ("x (n - 1) / (3 rho + 6)", "0.9..1.1"),
    "flex_speedup": ("x padded segments", ""),
    **{f"compiled_speedup_{name}": ("x plain layers", "") for name in ("dpo", "mcpo")},
}
"""By name: unit and target."""


class Step(Ours):
    """A step of the trainer that waits for the device."""

    def __call__(self) -> None:
        super().__call__()
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def main() -> None:
    tiny, there = "--tiny" in sys.argv, torch.cuda.is_available()
    shape, lengths = (TINY, (32, 16, 2)) if tiny else (LLAMA, (1024, 512, 8))
    if not tiny and not there:
        print("no GPU here: nothing was run (--tiny shows that it would)", file=sys.stderr)
    model = llama.llama(**shape).to("cuda" if there else "cpu") if tiny or there else None
    name = torch.cuda.get_device_name() if there else "cpu"
    peak = next((flops for part, flops in PEAK.items() if part in name), None)
    for count in (4, 8):
        values = measure(model, count, lengths, peak) if model is not None else {}
        for figure, (unit, target) in FIGURES.items():
            line(f"gpu_{figure}_n{count}", values.get(figure), unit, target)


def measure(model: Any, count: int, lengths: tuple[int, int, int], peak: float | None) -> dict[str, float | None]:
    """Figures of one number of candidates."""
    data = [_in(e, model.config.vocab_size) for e in examples(count, *lengths)]
    rows = {"dpo": [first_pair(e) for e in data], "mcpo": data}
    keys: dict[str, Any] = {"precision": "bfloat16", "model": model}
    steps = {name: Step(name, some, MICRO_TOKENS, **keys) for name, some in rows.items()}
    compiled = {f"{name}_compiled": Step(name, some, MICRO_TOKENS, compile_layers=True, **keys) for name, some in rows.items()}
    for step in (*steps.values(), *compiled.values()):
        step.optimizer = steps["dpo"].optimizer  # one, as a run has: a second one's moments are no memory of the step
    seconds = interleaved({**steps, **compiled, "padded": lambda: padded(steps["mcpo"])})
    made: dict[str, float | None] = {}
    for name, step in steps.items():
        taken = median(seconds[name])
        made[f"tokens_per_s_{name}"] = sum(len(e.prompt) + sum(map(len, e.completions)) for e in step.data) / taken
        made[f"mfu_{name}"] = step_flops(model, step.data, name == "mcpo") / taken / peak if peak else None
        made[f"memory_{name}"] = memory(step)
        made[f"compiled_speedup_{name}"] = ratio_of(seconds[name], seconds[f"{name}_compiled"])
    over, rho = ratio_of(seconds["mcpo"], seconds["dpo"]) - 1, lengths[0] / lengths[1]
    return made | {
        "mcpo_over_dpo": over,
        "mcpo_over_formula": over / ((count - 1) / (3 * rho + 6)),
        "flex_speedup": ratio_of(seconds["padded"], seconds["mcpo"]),
    }


def _in(example: Any, vocabulary: int) -> Any:
    """The example in a model's vocabulary."""
    example.prompt[:] = [i % vocabulary for i in example.prompt]
    for completion in example.completions:
        completion[:] = [i % vocabulary for i in completion]
    return example


def padded(step: Step) -> None:
    """The same step by the model's own attention under a mask."""
    kept, packed_attention._way = packed_attention._way, lambda query, key: packed_attention._joined
    try:
        step()
    finally:
        packed_attention._way = kept


def memory(step: Step) -> float | None:
    """GiB that a step holds at most."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() / 2**30


if __name__ == "__main__":
    main()
