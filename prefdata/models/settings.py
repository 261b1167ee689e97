"""What a recipe says of models: which one, how it is run, how its prompts are rendered."""

from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from prefdata.kinds import Commit, Name


class VllmSettings(BaseModel, frozen=True, extra="forbid"):
    """vLLM's offline engine, with our token ids in and out (pip install "prefdata[vllm]"; on a CPU: docs/judges.md)."""

    tensor_parallel: int = Field(1, ge=1, description="devices that share the model")
    data_parallel: int = Field(1, ge=1, description="copies of the model, each a job of its own with its part of the shards")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="auto: the model's own")
    max_model_len: int | None = Field(None, ge=2, description="prompt + answer; default: the model's context")
    memory_share: float = Field(0.9, gt=0, le=1, description="of a device's memory, for weights and cache")
    eager: bool = Field(False, description="no compilation: a faster start, slower tokens")
    batch_requests: int = Field(4096, ge=1, description="requests handed over together; finished ones are kept together")


class ServerSettings(BaseModel, frozen=True, extra="forbid"):
    """An OpenAI-compatible server; the key is read from the environment."""

    url: str = Field("http://127.0.0.1:8000/v1", pattern=r"^https?://", description="up to /v1; {port} with a command")
    api_key_env: str = Field("OPENAI_API_KEY", description="name of the variable that holds the key; unset: none is sent")
    concurrency: int = Field(32, ge=1, description="requests in flight; a kill repeats at most as many")
    timeout_s: float = Field(120, gt=0, description="of one try, however slowly it answers")
    deadline_s: float = Field(600, gt=0, description="of one request with its retries; pauses do not count")
    backoff_s: float = Field(1, gt=0, description="first wait before a retry (doubling, with jitter), and of a bare 429")
    pause_s: float = Field(900, gt=0, description="longest pause that a Retry-After gets")
    top_logprobs: int = Field(20, ge=1, description="alternatives asked for where labels are chosen; servers have a limit")
    price_in: float = Field(0, ge=0, description="per million prompt tokens, in the currency of max_cost")
    price_out: float = Field(0, ge=0, description="per million generated tokens")
    max_cost: float | None = Field(
        None, gt=0, description="a job stops there, what earlier ones spent included; in flight is kept"
    )
    command: list[str] = Field(
        default_factory=list, description="started for the length of a job; {port}, {model} and {python} are filled in"
    )
    start_s: float = Field(600, gt=0, description="how long that may take to answer")


class LanguageModelSettings(BaseModel, frozen=True, extra="forbid"):
    """A model and the engine that runs it: the embedded one (transformers), or vllm, or a server where one is given."""

    model: str = Field(description="run:<objective>/<variant>, a local folder, a Hub id, or the name a server knows")
    revision: Commit | None = Field(None, description="commit hash, for a Hub id")
    template: Literal["chat", "plain"] = Field("chat", description="how prompts are rendered (a server renders its own)")
    end: Literal["eos", "none"] = Field("eos", description="whether its completions end with an end token")
    vllm: VllmSettings | None = Field(None, description="run it by vLLM: {} takes the defaults")
    server: ServerSettings | None = Field(None, description="ask a server for it")

    @model_validator(mode="after")
    def _one_engine(self) -> "LanguageModelSettings":
        if self.vllm is not None and self.server is not None:
            raise ValueError("give vllm or server, not both")
        return self

    @property
    def engine(self) -> str:
        return "server" if self.server else "vllm" if self.vllm else "transformers"

    def identity(self) -> dict[str, Any]:
        """What can change this model's answers: not where it runs, nor how many at once."""
        own = self.model_dump(mode="json", include={"model", "revision", "template", "end"})
        vllm = self.vllm.model_dump(mode="json", include={"dtype", "max_model_len"}) if self.vllm else {}
        return {**own, "engine": self.engine, **vllm}


class GeneratorSettings(LanguageModelSettings, frozen=True, extra="forbid"):
    """One model that answers the prompts."""

    name: Name = Field(description="how the model is called")
    reasoning_end: str | None = Field(
        None,
        min_length=1,
        description='what ends the reasoning before an answer, such as "</think>"; only the rest is the answer',
    )


class ReferenceSettings(BaseModel, frozen=True, extra="forbid"):
    """One reference model. The first is the primary one, whose template and end the policy uses."""

    name: Name = Field(description="the name in logps and in the objectives")
    model: str = Field(description="run:<objective>/<variant>, a local folder or a Hub id")
    revision: Commit | None = Field(None, description="commit hash, for a Hub id")
    template: Literal["chat", "plain"] = Field("chat", description="how prompts are rendered")
    end: Literal["eos", "none"] = Field("eos", description="whether the end token is scored")
    max_tokens: int | None = Field(None, ge=2, description="prompt + completion; default: the model's context")
    on_long: Literal["drop"] = Field("drop", description="drop the candidate, too_long:<reference>; never truncated")
