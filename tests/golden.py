"""Twenty steps of every objective on a tiny fp64 model. `python tests/golden.py` writes tests/golden.json anew: do that only
where a change is meant to change training, and say so in the changelog (train/version.py moves with it)."""

import json
from pathlib import Path

from models import model
from test_train import example

from train import loop
from train.batch_statistics import RunningMean
from train.examples import Order
from train.objectives.registry import OBJECTIVES
from train.plan import Plan
from train.settings import TrainingSettings, with_defaults
from train.step import Step

PATH = Path(__file__).with_name("golden.json")
STEPS = 20


def trajectory(name: str) -> list[float]:
    """The losses, with warm-up, clipping, accumulation and three epochs."""
    asked = {
        "steps": STEPS,
        "batch_prompts": 4,
        "micro_tokens": 60,
        "optimizer": {"learning_rate": 5e-3, "warmup_share": 0.2, "schedule": "cosine", "clip_norm": 0.5},
    }
    settings = with_defaults(TrainingSettings.model_validate(asked), OBJECTIVES[name])
    lm, data = model(), [example(i, 3) for i in range(22)]
    plan = Plan.of(settings, Order(tuple(e.prompt_id for e in data), 4, 0), {"step": 0})
    optimizer, running = loop.make_optimizer(lm, settings), RunningMean()
    step = Step(OBJECTIVES[name], settings, 0, model(), 1024)
    return [float(loop.one_step(lm, optimizer, step, data, plan, s, running)["loss"]) for s in range(STEPS)]


if __name__ == "__main__":
    PATH.write_text(json.dumps({name: trajectory(name) for name in OBJECTIVES}, indent=1) + "\n")
