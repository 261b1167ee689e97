"""GiB that a GPU holds at most in a training step of Llama-3.1-8B and 70B, counted without a GPU: DPO and MC-PO on six
candidates, bf16 products, activations computed again, micro-batches of MICRO_TOKENS tokens, as in config/base.yaml.

Every tensor is counted; what kernels and NCCL take for themselves, the CUDA context and fragmentation are not.

python benchmarks/memory.py >> benchmarks/results/memory.jsonl && python benchmarks/render.py
python benchmarks/memory.py 8b 8 512: one model, one number of processes, one length, to see how it goes
"""

import sys
import time

from figures import line
from transformers import LlamaConfig

from train.memory import GIB, Rows, peak
from train.objectives.registry import OBJECTIVES
from train.settings import TrainingSettings, with_defaults

SHAPES = {
    "8b": {"hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "70b": {"hidden_size": 8192, "intermediate_size": 28_672, "num_hidden_layers": 80, "num_attention_heads": 64},
}
RANKS, LENGTHS = (2, 4, 8, 16), (512, 2048)
CANDIDATES = 6
MICRO_TOKENS = 16_384
TARGET = {("8b", 8): "<= 70"}


def main(models: list[str], ranks: list[int], lengths: list[int]) -> None:
    for model in models:
        config = LlamaConfig(vocab_size=128_256, num_key_value_heads=8, max_position_embeddings=8192, **SHAPES[model])
        for size in ranks:
            for length in lengths:
                for objective in ("dpo", "mcpo"):
                    measure(
                        f"{model}_{objective}_{length}_tokens_{size}_gpus",
                        config,
                        objective,
                        length,
                        size,
                        TARGET.get((model, size), ""),
                    )


def measure(name: str, config: LlamaConfig, objective: str, length: int, ranks: int, target: str) -> None:
    started, row = time.process_time(), OBJECTIVES[objective]
    keys = {"precision": "bfloat16", "checkpoint_activations": True, "micro_tokens": MICRO_TOKENS}
    settings = with_defaults(TrainingSettings.model_validate(keys), row)
    found = peak(config, row, settings, Rows(length, length, CANDIDATES), ranks)
    line(f"memory_{name}", found.most / GIB, f"GiB at most, in the {found.when}", target)
    took = time.process_time() - started
    print(f"{name}: {found.between / GIB:.1f} GiB between steps; counted in {took:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    chosen = sys.argv[1:]
    main(
        [m for m in SHAPES if not chosen or m in chosen],
        [r for r in RANKS if not chosen or str(r) in chosen],
        [n for n in LENGTHS if not chosen or str(n) in chosen],
    )
