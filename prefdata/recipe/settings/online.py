"""What a recipe says of online training: runs that answer their own prompts anew at the start of each segment."""

from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, TypeVar

from pydantic import BaseModel, Field, model_validator

from prefdata.draws import hash64, hex_id
from prefdata.kinds import Name, Share
from prefdata.models.engines.server_settings import ServerSettings
from prefdata.models.engines.vllm import VllmSettings

Temperatures = Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1)]

Count = Annotated[int, Field(ge=1, le=1000)]


class Engines(Protocol):
    """A section that answers by models made in the run."""

    @property
    def vllm(self) -> VllmSettings | None: ...

    @property
    def server(self) -> ServerSettings | None: ...


Section = TypeVar("Section", bound=Engines)


def one_engine(section: Section) -> Section:
    """The section. Raises ValueError where it names two engines, or a server that cannot know the run's models."""
    if section.vllm is not None and section.server is not None:
        raise ValueError("give vllm or server, not both")
    if section.server is not None and not section.server.command:
        raise ValueError("server: its model is made in the run: give a command that starts it, with {model} and {port}")
    return section


class OverrideSettings(BaseModel, frozen=True, extra="forbid"):
    """What one segment does otherwise; it and the later ones run again when this changes, earlier ones do not."""

    temperatures: Temperatures | None = Field(None, description="of its answers")
    per_temperature: int | None = Field(None, ge=1, description="samples per prompt and temperature")
    max_tokens: int | None = Field(None, ge=1, description="of its answers")
    judge: Name | None = Field(None, description="another judge")


class OnlineSettings(BaseModel, frozen=True, extra="forbid"):
    """Batched online training (OnMC-PO of arXiv 2502.04567, and any other objective so): the steps of a run are cut into equal
    segments; before each, the current checkpoint answers that segment's own prompts and a judge ranks the answers."""

    runs: list[str] | dict[str, Count] = Field(
        min_length=1,
        description="<objective>/<variant> under train.runs; each answers for itself; a list of seeds is meant whole; or each "
        "with its own number of segments: {mcpo/online: 3, mcpo/once: 1}",
    )
    segments: Count = Field(3, description="equal parts of a run's steps; prompts are drawn for them, about as many each")
    judge: Name | None = Field(None, description="who ranks the answers; default: the judge that sets.method names")
    reference: Literal["initial", "segment"] = Field(
        "initial",
        description="initial: score.references stay what they are; segment: the segment's own start is the primary reference",
    )
    temperatures: Temperatures = Field(default=[0.6, 0.8, 1.0], description="one batch of samples at each; 0 is greedy")
    per_temperature: int = Field(2, ge=1, description="samples per prompt and temperature")
    max_tokens: int = Field(512, ge=1, description="an answer cut here has finish = length")
    max_failed: Share = Field(0.05, description="a segment fails when more answers than this are errors of the engine")
    chunk_prompts: int = Field(128, ge=1, description="prompts committed together; a kill loses at most one chunk")
    shards_per_engine: int | None = Field(None, ge=1, description="shards per start of the model; all by default")
    greedy_prompts: int = Field(
        64, ge=0, description="prompts of a segment, a keyed draw, that are answered greedily too, for the card's figures"
    )
    vllm: VllmSettings | None = Field(None, description="answer by vLLM: {} takes the defaults")
    server: ServerSettings | None = Field(None, description="answer by a server that `command` starts with each checkpoint")
    reasoning_end: str | None = Field(None, min_length=1, description="what ends the reasoning before an answer")
    overrides: dict[int, OverrideSettings] = Field(
        default_factory=dict, description="by the number of a segment (1 is the first): what it does otherwise"
    )

    @model_validator(mode="after")
    def _whole(self) -> "OnlineSettings":
        if self.vllm is not None and self.server is not None:
            raise ValueError("give vllm or server, not both")
        if self.server is not None and not self.server.command:
            raise ValueError(
                "server: the weights change with each segment: give a command that starts it, with {model} and {port}"
            )
        most = max(self.counts.values())
        if outside := [k for k in self.overrides if not 1 <= k <= most]:
            raise ValueError(f"overrides: there is no segment {outside[0]}, they are numbered 1 to {most}")
        return self

    @property
    def counts(self) -> dict[str, int]:
        """The number of segments of each run."""
        return self.runs if isinstance(self.runs, dict) else dict.fromkeys(self.runs, self.segments)


@dataclass(frozen=True)
class Segment:
    """Part `number` of `count` of the online run `run`. `model`: the training run that this part is, `start`: what answers
    and what it starts from."""

    run: str
    number: int
    count: int
    start: str
    revision: str | None = None

    @property
    def name(self) -> str:
        """Of its folders; another number of segments never mistakes old files for its own."""
        slug = self.run.replace("/", "-")
        return f"{slug}-s{self.number}of{self.count}-{hex_id('segment', self.run, self.number, self.count)[:8]}"

    @property
    def set(self) -> str:
        """The name of the set that it trains on."""
        return f"{self.name}.preference"

    @property
    def model(self) -> str:
        return part_name(self.run, self.number, self.count)


def part_name(run: str, number: int, count: int) -> str:
    """The training run that a part is: the last one is called as the whole."""
    return run if number == count else f"{run}-{number}of{count}"


def segment_of(prompt_id: str, count: int, seed: int) -> int:
    """The segment (1 to count) that answers a prompt: a keyed draw, whatever the shards."""
    return 1 + (count * hash64(seed, "segment", prompt_id) >> 64)
