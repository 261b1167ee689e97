"""What a recipe says of training runs and of their evaluation; a run's own keys are the trainer's."""

import re
from collections import Counter
from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from prefdata.kinds import Name, SplitName
from prefdata.models.engines.server_settings import ServerSettings
from prefdata.models.engines.vllm import VllmSettings
from prefdata.recipe.settings.online import one_engine


class TrainSettings(BaseModel, frozen=True, extra="forbid"):
    """The training runs, by <objective>/<variant>; `prefdata train --keys` prints the keys of a run."""

    runs: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="objective/variant: its settings; a list as seed or optimizer.learning_rate makes a run of each",
    )

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or not isinstance(raw.get("runs"), dict):
            return raw
        listed = [pair for key, given in raw["runs"].items() for pair in expanded(key, given)]
        if double := [name for name, count in Counter(name for name, _ in listed).items() if count > 1]:
            raise ValueError(f"two runs are called {double[0]}")
        return {**raw, "runs": dict(listed)}

    @model_validator(mode="after")
    def _keys(self) -> "TrainSettings":
        for key in self.runs:
            if not re.fullmatch(r"[a-z][a-z0-9_]{0,31}/[a-z0-9][a-z0-9_-]{0,63}", key, re.ASCII):
                raise ValueError(f"{key!r} is not <objective>/<variant> in small letters, digits, - and _")
        return self


def expanded(key: str, given: Any) -> list[tuple[str, Any]]:
    """A run for each of its learning rates and seeds, where they are lists: <key>-lr<rate>-s<seed>."""
    if not isinstance(given, dict):
        return [(key, given)]
    made = [(key, given)]
    optimizer = given.get("optimizer")
    rates = optimizer.get("learning_rate") if isinstance(optimizer, dict) else None
    for name, values in (("optimizer.learning_rate", rates), ("seed", given.get("seed"))):
        if values == []:
            raise ValueError(f"{key}: {name} is an empty list: no run is left")
    if isinstance(rates, list):
        made = [
            (f"{name}-lr{_in_name(rate)}", {**run, "optimizer": {**run["optimizer"], "learning_rate": rate}})
            for name, run in made
            for rate in rates
        ]
    if isinstance(given.get("seed"), list):
        made = [(f"{name}-s{_in_name(seed)}", {**run, "seed": seed}) for name, run in made for seed in given["seed"]]
    return made


def _in_name(value: Any) -> str:
    """A number as a run's name may hold it: 1e-05, 0_001."""
    return str(value).replace(".", "_").replace("+", "")


class EvaluateSettings(BaseModel, frozen=True, extra="forbid"):
    """Answers of trained models on held-out prompts, checked by the verifier."""

    runs: list[str] = Field(default_factory=list, description="<objective>/<variant> of the models; the first is the baseline")
    judge: Name | None = Field(None, description="a judge that compares greedy answers with the first run's: win rates")
    baseline: str | None = Field(
        None, description="an AlpacaEval file of fixed answers, which the judge compares with instead of the first run's"
    )
    split: SplitName = Field("test", description="whose prompts are answered")
    samples: int = Field(4, ge=1, description="answers sampled per prompt beside the greedy one")
    temperature: float = Field(1.0, gt=0, description="of the samples")
    max_tokens: int = Field(512, ge=1, description="an answer cut here has finish = length")
    kl: bool = Field(True, description="score the samples under the run and the primary reference too, in float32: their KL")
    chunk_prompts: int = Field(128, ge=1, description="prompts committed together")
    shards_per_engine: int | None = Field(None, ge=1, description="shards per start of the model; all by default")
    vllm: VllmSettings | None = Field(
        None, description="answer by vLLM: {} takes the defaults; log-probs are our own forward's"
    )
    server: ServerSettings | None = Field(None, description="answer by a server that `command` starts with each model")

    @model_validator(mode="after")
    def _one_engine(self) -> "EvaluateSettings":
        return one_engine(self)


class HarnessSettings(BaseModel, frozen=True, extra="forbid"):
    """Tasks of lm-evaluation-harness on the runs of evaluate.runs (pip install "prefdata[harness]")."""

    tasks: list[str] = Field(min_length=1, description="names as `lm-eval ls tasks` lists them: gsm8k, truthfulqa_mc1, ...")
    include: str | None = Field(None, description="a folder with task files of your own; such a file may run code")
    fewshot: int | None = Field(None, ge=0, description="examples before a question; default: the task's own")
    limit: int | None = Field(None, ge=1, description="questions a task, for a trial; default: all")
    batch_size: int = Field(8, ge=1, description="rows of a forward")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of the model")
    chat: bool | None = Field(None, description="apply the chat template; default: where the run was trained with it")
