"""Our own training steps over random examples, and what their products with weights come to."""

import random
from typing import Any

import llama
import torch
from llama import VOCABULARY

from prefdata.models.forward import read_positions
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
BETA = 0.1
LARGEST, PRODUCTS = (MICRO_TOKENS // 2, 320, 864), 20
"""Rows, width and outputs of the model's largest product, and how often it makes the clock of a round."""


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


def first_pair(example: Example) -> Example:
    """The chosen and the first rejected candidate: the pair that the peer trains on."""
    return Example(*(v[:2] if k in ("completions", "candidate_ids", "origins") else v for k, v in vars(example).items()))


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


def products() -> None:
    """The model's largest product, as a clock for the machine as it is in this round."""
    a, b = torch.ones(*LARGEST[:2]), torch.ones(*LARGEST[1:])
    for _ in range(PRODUCTS):
        a @ b
