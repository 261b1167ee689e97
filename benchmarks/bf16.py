"""How far log-probs of the same texts differ between batches: in bf16, in fp32 products, and bf16 against fp32.

Real small models read real stories, once many to a forward and once few; each token's log-prob is compared with itself. A ratio
of probabilities that is off by more than a tenth is one of 0.0953 nats or more. Where the models are not at hand a random one
with logits as wide as theirs takes their place.

python benchmarks/bf16.py >> benchmarks/results/bf16.jsonl && python benchmarks/render.py
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import llama
import torch
from figures import line

from prefdata.models.forward import logprob
from prefdata.models.loading import load_model
from prefdata.models.tokens import load_encoder

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT.parent / "shared" / "models"
NAMES = ("stories260K", "babyllama105")
FEW, MANY = 1, 16
"""Prompts to a forward."""
PROMPTS = 16
TENTH = math.log(1.1)
THREADS = 2
Group = tuple[list[int], list[list[int]]]
"""Ids of a prompt and of its candidates."""


def stories(name: str) -> list[Group]:
    """The prompts and answers of tests/data/stories.jsonl, in the model's tokens."""
    encoder = load_encoder(str(MODELS / name), template="plain", end="none")
    made = []
    for text in (ROOT / "tests" / "data" / "stories.jsonl").read_text().splitlines()[:PROMPTS]:
        row = json.loads(text)
        columns = ([{"role": "user", "content": row["prompt"]}], None, None)
        texts = [" " + a["answer"] for a in row["answers"]]
        count = len(texts)
        ids, _ = encoder.answers([columns] * count, texts, ["stop"] * count, [None] * count)
        made.append((encoder.prompt(*columns), [i for i in ids if isinstance(i, list)]))
    return made


def random_model() -> tuple[Any, list[Group]]:
    """Logits of some 4 nats' spread."""
    model = llama.small()
    with torch.no_grad():
        model.lm_head.weight.mul_(10)
    draw = torch.Generator().manual_seed(0)

    def ids(count: int) -> list[int]:
        return torch.randint(3, llama.VOCABULARY, (count,), generator=draw).tolist()

    return model, [(ids(20 + n % 7), [ids(30 + n % 11), ids(40 - n % 5)]) for n in range(PROMPTS)]


def token_logps(model: Any, data: Sequence[Group], prompts: int) -> Iterator[float]:
    """Of every token, in order, so many prompts to a forward."""
    for start in range(0, len(data), prompts):
        some = data[start : start + prompts]
        owner, flat = [b for b, (_, c) in enumerate(some) for _ in c], [c for _, group in some for c in group]
        found = logprob.token_logps(model, logprob.prefix(model, [p for p, _ in some], [c for _, c in some]), owner, flat)
        for values, completion in zip(found.double().tolist(), flat, strict=True):
            yield from values[: len(completion)]


def compare(name: str, one: Sequence[float], other: Sequence[float], lengths: Sequence[int], target: str = "") -> None:
    gaps = (torch.tensor(one, dtype=torch.float64) - torch.tensor(other, dtype=torch.float64)).abs()
    sums = (torch.tensor(one, dtype=torch.float64) - torch.tensor(other, dtype=torch.float64)).split(list(lengths))
    line(f"{name}_tokens_off_by_a_tenth", float((gaps > TENTH).double().mean()), "of tokens", "")
    line(f"{name}_token", float(gaps.max()), "nats at most", "")
    line(f"{name}_sum", max(float(s.sum().abs()) for s in sums), "nats at most, of a completion's sum", target)


@torch.no_grad()
def measure(name: str, model: Any, data: Sequence[Group]) -> None:
    """Of one model: fp32 between batches; weights in bf16; products in bf16 with weights in fp32, as training has it."""
    lengths = [len(c) for _, group in data for c in group]
    exact = list(token_logps(model, data, MANY))
    compare(f"fp32_{name}_between_batches", exact, list(token_logps(model, data, FEW)), lengths, "<= 1e-3")
    with torch.autocast(model.device.type, torch.bfloat16, cache_enabled=False):
        products = [list(token_logps(model, data, n)) for n in (MANY, FEW)]
    model.bfloat16()
    weights = [list(token_logps(model, data, n)) for n in (MANY, FEW)]
    for kind, (many, few) in (("bf16_products", products), ("bf16_weights", weights)):
        compare(f"{kind}_{name}_between_batches", many, few, lengths)
        compare(f"{kind}_{name}_from_fp32", many, exact, lengths)


def main() -> None:
    torch.set_num_threads(THREADS)
    if not MODELS.exists():
        measure("random", *random_model())
        return
    for name in NAMES:
        measure(name, load_model(str(MODELS / name)), stories(name))


if __name__ == "__main__":
    main()
