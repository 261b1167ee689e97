"""The vLLM engine: its offline engine, asked with our token ids, so that a prompt is tokenised as everywhere else.

vLLM's draws depend on what else is in a batch, whatever the seed: samples are kept, never made again.
"""

import math
import os
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from prefdata.errors import ConfigError
from prefdata.kinds import End, Template
from prefdata.models.engines.prompts import WITHOUT_ROOM, prompts_of
from prefdata.models.engines.protocol import Completion, Replies, Request, batches, chosen
from prefdata.models.loading import context_of
from prefdata.models.tokens import load_encoder

QUIET = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
SHUTDOWN_S = 5.0


class VllmSettings(BaseModel, frozen=True, extra="forbid"):
    """vLLM's offline engine, with our token ids in and out (pip install "prefdata[vllm]"; on a CPU: docs/judges.md)."""

    tensor_parallel: int = Field(1, ge=1, description="devices that share the model")
    data_parallel: int = Field(1, ge=1, description="copies of the model, each a job of its own with its part of the shards")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="auto: the model's own")
    max_model_len: int | None = Field(None, ge=2, description="prompt + answer; default: the model's context")
    memory_share: float = Field(0.9, gt=0, le=1, description="of a device's memory, for weights and cache")
    eager: bool = Field(False, description="do not compile: starts faster, generates more slowly")
    batch_requests: int = Field(4096, ge=1, description="requests handed over together; finished ones are kept together")


class VllmEngine:
    """Holds one started model."""

    def __init__(self, path: str, revision: str | None, template: Template, end: End, settings: VllmSettings) -> None:
        self.encoder = load_encoder(path, revision, template, end)
        self.context = min(context_of(path, revision), settings.max_model_len or math.inf)
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        try:
            from vllm import LLM
        except ImportError as error:
            raise ConfigError("vllm is not installed", "engine", 'pip install "prefdata[vllm]"') from error
        self.settings = settings
        self.llm = LLM(
            model=path,
            revision=revision,
            tokenizer_revision=revision,
            trust_remote_code=False,
            tensor_parallel_size=settings.tensor_parallel,
            dtype=settings.dtype,
            max_model_len=settings.max_model_len,
            gpu_memory_utilization=settings.memory_share,
            enforce_eager=settings.eager,
            generation_config="vllm",  # no sampling defaults of the model's author
        )
        self.stops = self._stops(path, revision)

    def _stops(self, path: str, revision: str | None) -> list[int]:
        """Whatever ends an answer under this model: the template's end, eos, and the generation config's."""
        from transformers import GenerationConfig

        try:
            configured = GenerationConfig.from_pretrained(path, revision=revision).eos_token_id
        except OSError:  # a model without one
            configured = None
        ids = configured if isinstance(configured, list) else [configured]
        every = (*ids, self.encoder.end_id, self.encoder.tokenizer.eos_token_id)
        return sorted({int(i) for i in every if i is not None})

    def complete(self, requests: Iterable[Request]) -> Replies:
        """Sample every request; a prompt that leaves no room is an error with the reason no_room."""
        from vllm import SamplingParams

        def sampling(request: Request, room: int) -> Any:
            return SamplingParams(
                temperature=request.temperature,
                max_tokens=min(request.max_tokens, room),
                seed=None if request.temperature == 0 else request.seed,
                stop_token_ids=self.stops,
                detokenize=False,
            )

        first = 0
        for some in batches(requests, self.settings.batch_requests):
            yield from enumerate(self._generated(some, sampling, self._completion), first)
            first += len(some)

    def choose(self, requests: Iterable[Request], labels: Sequence[str]) -> Replies:
        """Log-prob of each label, which must be one token, as the first of the answer."""
        from vllm import SamplingParams

        ids = self._label_ids(labels)

        def sampling(request: Request, room: int) -> Any:
            return SamplingParams(temperature=0.0, max_tokens=1, logprob_token_ids=ids, detokenize=False)

        def choice(output: Any) -> Completion:
            found = output.outputs[0].logprobs[0]
            return chosen(labels, [float(found[i].logprob) for i in ids], len(output.prompt_token_ids))

        first = 0
        for some in batches(requests, self.settings.batch_requests):
            yield from enumerate(self._generated(some, sampling, choice), first)
            first += len(some)

    def _label_ids(self, labels: Sequence[str]) -> list[int]:
        encoded = self.encoder.contents(labels)
        for label, ids in zip(labels, encoded, strict=True):
            if len(ids) != 1:
                raise ConfigError(
                    f"the label {label!r} is {len(ids)} tokens of this model", "rubric: labels", "choose one-token labels"
                )
        return [ids[0] for ids in encoded]

    def _generated(self, requests: list[Request], sampling: Any, read: Any) -> list[Completion]:
        """One batch of the engine, less the prompts without room, which would fail it whole."""
        from vllm.inputs import TokensPrompt

        prompts, refused = prompts_of(self.encoder, requests)
        rooms = [int(self.context) - len(p) if p else 0 for p in prompts]
        fitting = [i for i, room in enumerate(rooms) if room > 0]
        outputs = self.llm.generate(
            [TokensPrompt(prompt_token_ids=prompts[i]) for i in fitting],
            [sampling(requests[i], rooms[i]) for i in fitting],
            use_tqdm=False,
        )
        made = {i: read(output) for i, output in zip(fitting, outputs, strict=True)}
        return [made.get(i) or refused.get(i, WITHOUT_ROOM) for i in range(len(requests))]

    def _completion(self, output: Any) -> Completion:
        made = output.outputs[0]
        ids = list(made.token_ids)
        stopped = made.finish_reason == "stop"
        text = self.encoder.decode(ids[:-1] if stopped and ids and ids[-1] in self.stops else ids)
        return Completion(text, "stop" if stopped else "length", len(ids), prompt_tokens=len(output.prompt_token_ids))

    def close(self) -> None:
        """Stop the engine's own process."""
        self.llm.llm_engine.engine_core.shutdown(timeout=SHUTDOWN_S)
