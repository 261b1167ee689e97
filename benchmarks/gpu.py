"""DPO and MC-PO steps of a 1.1-billion-parameter random Llama on one GPU: bf16 products, prompts of 1,024 tokens, completions
of 512, 4 and 8 candidates; tokens a second, model FLOPs over the device's peak, memory, what MC-PO costs over DPO, and
FlexAttention against padded segments.

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
from trainer import Ours, _pair, _ratio, examples, step_flops

from prefdata import attention

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


class Step(Ours):
    """A step of the trainer that waits for the device."""

    def __call__(self) -> None:
        super().__call__()
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def main() -> None:
    tiny = "--tiny" in sys.argv
    if not tiny and not torch.cuda.is_available():
        sys.exit("no GPU here: --tiny shows that it runs")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape, prompt, completion, prompts = (TINY, 32, 16, 2) if tiny else (LLAMA, 1024, 512, 8)
    model = llama.llama(**shape).to(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    print(f"{name}, {sum(p.numel() for p in model.parameters()):,} parameters", file=sys.stderr)
    for count in (4, 8):
        measure(model, count, (prompt, completion, prompts), next((v for k, v in PEAK.items() if k in name), None))


def measure(model: Any, count: int, lengths: tuple[int, int, int], peak: float | None) -> None:
    data = [_in(e, model.config.vocab_size) for e in examples(count, *lengths)]
    keys = {"precision": "bfloat16", "model": model}
    steps = {
        "dpo": Step("dpo", [_pair(e) for e in data], MICRO_TOKENS, **keys),
        "mcpo": Step("mcpo", data, MICRO_TOKENS, **keys),
    }
    seconds = interleaved({**steps, "padded": lambda: padded(steps["mcpo"])})
    for name, step in steps.items():
        taken = median(seconds[name])
        tokens = sum(len(e.prompt) + sum(map(len, e.completions)) for e in step.data)
        line(f"gpu_tokens_per_s_{name}_n{count}", tokens / taken, "tokens/s", "")
        share = step_flops(model, step.data, name == "mcpo") / taken / peak if peak else None
        line(f"gpu_mfu_{name}_n{count}", share, "of the device's peak", ">= 0.45")
        line(f"gpu_memory_{name}_n{count}", memory(step), "GiB at most", "")
    rho = lengths[0] / lengths[1]
    over = _ratio(seconds["mcpo"], seconds["dpo"]) - 1
    line(f"gpu_mcpo_over_dpo_n{count}", over, "of a DPO step more", "")
    line(f"gpu_mcpo_over_formula_n{count}", over / ((count - 1) / (3 * rho + 6)), "x (n - 1) / (3 rho + 6)", "0.9..1.1")
    line(f"gpu_flex_speedup_n{count}", _ratio(seconds["padded"], seconds["mcpo"]), "x padded segments", "")


def _in(example: Any, vocabulary: int) -> Any:
    """The example in a model's vocabulary."""
    example.prompt[:] = [i % vocabulary for i in example.prompt]
    for completion in example.completions:
        completion[:] = [i % vocabulary for i in completion]
    return example


def padded(step: Step) -> None:
    """The same step by the model's own attention under a mask."""
    kept, attention._way = attention._way, lambda query, key: attention._joined
    try:
        step()
    finally:
        attention._way = kept


def memory(step: Step) -> float:
    """GiB that a step holds at most."""
    if not torch.cuda.is_available():
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() / 2**30


if __name__ == "__main__":
    main()
