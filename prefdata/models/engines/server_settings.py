"""What a recipe says of an OpenAI-compatible server."""

from typing import Literal

from pydantic import BaseModel, Field


class ServerSettings(BaseModel, frozen=True, extra="forbid"):
    """An OpenAI-compatible server; the key is read from the environment."""

    url: str = Field("http://127.0.0.1:8000/v1", pattern=r"^https?://", description="up to /v1; {port} with a command")
    api_key_env: str = Field("OPENAI_API_KEY", description="name of the variable that holds the key; unset: none is sent")
    concurrency: int = Field(32, ge=1, description="requests in flight; a kill repeats at most as many")
    timeout_s: float = Field(120, gt=0, description="time limit of one attempt, in seconds")
    deadline_s: float = Field(
        600, gt=0, description="time limit of one request including retries, in seconds; pauses after a 429 are not counted"
    )
    backoff_s: float = Field(1, gt=0, description="first wait before a retry (doubling, with jitter), and of a bare 429")
    pause_s: float = Field(900, gt=0, description="longest pause after a 429, in seconds; a longer Retry-After is cut to this")
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="how the server calls the limit of an answer; newer OpenAI models take max_completion_tokens"
    )
    send_temperature: bool = Field(True, description="false for models that take no temperature but their own")
    top_logprobs: int = Field(20, ge=1, description="alternatives requested when verdicts are labels; servers limit it")
    price_in: float = Field(0, ge=0, description="per million prompt tokens, in the currency of max_cost")
    price_out: float = Field(0, ge=0, description="per million generated tokens")
    max_cost: float | None = Field(
        None, gt=0, description="cost cap of a job, including what earlier jobs spent; requests in flight are still kept"
    )
    command: list[str] = Field(
        default_factory=list, description="started for the length of a job; {port}, {model} and {python} are filled in"
    )
    devices: int = Field(1, ge=1, description="GPUs that `command` may use")
    start_s: float = Field(600, gt=0, description="seconds that `command` may take until the server answers")
