"""What a recipe says of the data side: duplicates, splits, pruning, generation, noise, log-probs, the sets."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from prefdata.errors import did_you_mean
from prefdata.kinds import Commit, Share, SplitName
from prefdata.models.engines.registry import GeneratorSettings
from prefdata.models.settings import ReferenceSettings
from prefdata.sources.settings import EvaluationSetSettings
from prefdata.tables.figures import FIGURES


class SplitSettings(BaseModel, frozen=True, extra="forbid"):
    """Which prompts are for training and which are held out, where the source does not say."""

    train: Share = Field(0.9, description="share of the prompts without a split of their own")
    validation: Share = Field(0.05, description="likewise")
    test: Share = Field(0.05, description="likewise")
    sft: Share = Field(0.0, description="likewise, for plain SFT only")

    @model_validator(mode="after")
    def _whole(self) -> "SplitSettings":
        if abs(self.train + self.validation + self.test + self.sft - 1) > 1e-9:
            raise ValueError("the shares must sum to 1")
        return self


class DedupSettings(BaseModel, frozen=True, extra="forbid"):
    """Exact and near-duplicate prompts, by MinHash over runs of words; `dedup: null` keeps every prompt."""

    threshold: float = Field(
        0.8, gt=0, le=1, description="two prompts are duplicates from this estimated Jaccard similarity on"
    )
    ngram: int = Field(3, ge=1, description="words in a run; punctuation and case do not count")
    permutations: int = Field(
        128, ge=16, le=1024, description="numbers in a signature; the estimate's sd is about 1/sqrt of it"
    )
    bands: int = Field(32, ge=1, description="LSH bands of the signature; two prompts are compared if they share a band")

    @model_validator(mode="after")
    def _whole_bands(self) -> "DedupSettings":
        if self.permutations % self.bands:
            raise ValueError(f"permutations ({self.permutations}) must be a multiple of bands ({self.bands})")
        return self


class DecontaminateSettings(BaseModel, frozen=True, extra="forbid"):
    """Overlap of training prompts with evaluation sets."""

    against: list[EvaluationSetSettings] = Field(description="the sets")
    ngram: int = Field(12, ge=1, description="words that a prompt and an evaluation text must share in a row")


class PruneSettings(BaseModel, frozen=True, extra="forbid"):
    """Which ranks of the source's own order are dropped."""

    drop_ranks: list[Annotated[int, Field(ge=1)]] = Field(
        default=[2],
        description="positions in the source's order; [2] is the MC-PO paper's; [2, 3] and so on ablate quality; with 1 the "
        "next answer is the best",
    )
    splits: list[SplitName] = Field(
        default=["train", "validation", "test", "sft"], description="whose prompts lose them; a demonstration has rank 1 only"
    )


class GenerateSettings(BaseModel, frozen=True, extra="forbid"):
    """Candidates sampled from models."""

    models: list[GeneratorSettings] = Field(default_factory=list, description="none: no candidates are generated")
    temperatures: list[Annotated[float, Field(ge=0)]] = Field(
        default=[0.6, 0.8, 1.0], description="one batch of samples at each; 0 is greedy"
    )
    per_temperature: int = Field(2, ge=1, description="samples per prompt and temperature")
    max_tokens: int = Field(512, ge=1, description="an answer cut here has finish = length")
    max_failed: Share = Field(0.05, description="the stage fails when more answers than this are errors of the engine")
    splits: list[SplitName] = Field(default=["train"], description="whose prompts are answered")
    chunk_prompts: int = Field(128, ge=1, description="prompts committed together; a kill loses at most one chunk")
    shards_per_engine: int | None = Field(None, ge=1, description="shards per start of the model; all by default")


class NoiseSettings(BaseModel, frozen=True, extra="forbid"):
    """Token-swap noise of the chosen answer."""

    copies: int = Field(1, ge=0, description="noise candidates per prompt; with 0 no noise is made")
    tries: int = Field(16, ge=1, description="draws of two positions before the prompt is counted noise_failed")


class ScoreSettings(BaseModel, frozen=True, extra="forbid"):
    """Log-probs of every candidate of the preference set under the references."""

    references: list[ReferenceSettings] = Field(default_factory=list, description="the first is the primary one")
    policy: str | None = Field(None, description="the model that will be trained, where it is not the primary reference")
    policy_revision: Commit | None = Field(None, description="commit hash of that model, for a Hub id")
    dtype: Literal["float32", "float64", "bfloat16"] = Field("float32", description="of the forward; sums are fp64")
    batch_tokens: int = Field(16_384, ge=1, description="tokens per forward, padding included")
    chunk_prompts: int = Field(128, ge=1, description="prompts committed together")
    shards_per_engine: int | None = Field(None, ge=1, description="shards per start of the model; all by default")

    @model_validator(mode="after")
    def _names(self) -> "ScoreSettings":
        names = [r.name for r in self.references]
        if len(set(names)) != len(names):
            raise ValueError(f"two references share a name: {names}")
        return self


class LimitsSettings(BaseModel, frozen=True, extra="forbid"):
    """Limits of one figure; a prompt without the figure stays."""

    min: float | None = Field(None, description="prompts below it are left out")
    max: float | None = Field(None, description="prompts above it are left out")

    @model_validator(mode="after")
    def _some(self) -> "LimitsSettings":
        if self.min is None and self.max is None:
            raise ValueError("give min or max")
        return self


class SetsSettings(BaseModel, frozen=True, extra="forbid"):
    """The sets that are made."""

    method: str = Field("source", description="the one ranking of the preference set: source, or a judge's name")
    sft_method: str = Field("source", description="the ranking whose winner is the demonstration of sets/sft")
    sft_splits: list[SplitName] = Field(default=["sft"], description="prompts of sets/sft")
    splits: list[SplitName] = Field(default=["train", "validation", "test"], description="prompts of sets/preference")
    origins: list[Literal["source", "generated", "noise"]] = Field(
        default=["source", "generated"], description="the pool of the fixed pair that `preference` publishes"
    )
    unpaired: bool = Field(
        False,
        description="also make sets/unpaired of labelled answers (format: trl_unpaired), for kto: `set: unpaired` of a run",
    )
    filters: dict[str, LimitsSettings] = Field(
        default_factory=dict, description="limits of the quality report's figures: " + ", ".join(FIGURES)
    )

    @model_validator(mode="after")
    def _known_figures(self) -> "SetsSettings":
        if unknown := [f for f in self.filters if f not in FIGURES]:
            raise ValueError(f"filters: unknown figure{did_you_mean(unknown[0], FIGURES)}")
        return self
