"""What a recipe says of its sources: files or Hub data sets, evaluation sets, the embedded world."""

from typing import Literal

from pydantic import BaseModel, Field, model_validator

from prefdata.errors import did_you_mean
from prefdata.kinds import Commit, Share, SplitName
from prefdata.sources.known_sets import KNOWN
from prefdata.sources.shapes import COMMON_FIELDS, SHAPES


class ToySettings(BaseModel, frozen=True, extra="forbid"):
    """The embedded world of the demo: verifiable string tasks answered by simulated writers."""

    demonstrations: int = Field(6000, ge=1, description="prompts with one answer by a weak writer, split sft")
    train: int = Field(768, ge=1, description="prompts answered by all seven writers, split train")
    test: int = Field(384, ge=1, description="prompts answered by all seven writers, split test")
    validation: int = Field(0, ge=0, description="prompts answered by all seven writers, split validation")
    judge_sd: float = Field(0.03, ge=0, description="noise of the simulated ranking of the source's answers")
    judgements: int = Field(
        0, ge=0, description="comparisons (rubric toy) with the better label, split validation: a judge's SFT"
    )


class SourceSettings(BaseModel, frozen=True, extra="forbid"):
    """One source of prompts with answers."""

    name: str = Field(min_length=1, description="how the source is called in every table")
    format: str = Field("nectar", description="how its rows are read; one of " + ", ".join(SHAPES))
    path: str | list[str] | None = Field(
        None, description="local .jsonl or .parquet files, patterns such as data/*.parquet too; `toy:` is the embedded world"
    )
    dataset: str | None = Field(None, description="or a data set on the Hub, with its revision")
    revision: Commit | None = Field(None, description="commit hash of the data set on the Hub: always pinned")
    config: str | None = Field(None, description="configuration of the data set on the Hub")
    hub_split: str = Field("train", description="which split of the Hub data set is read")
    license: str = Field("unknown", description="carried into every prompt and the card")
    fields: dict[str, str] = Field(
        default_factory=dict, description="ours: theirs, where the names differ (prompt, answers, answer, model, rank, ...)"
    )
    split: SplitName | None = Field(
        None, description="split of all its rows; default: the row's own, else by the shares under split"
    )
    weight: float = Field(1.0, gt=0, le=1, description="share of its prompts kept, by a keyed draw: mixtures")
    exclude: list[str] = Field(
        default=["truthful_qa"], description="subsets left out (the row's source); TruthfulQA is an evaluation set"
    )
    prompts_only: bool = Field(False, description="read prompts only; generate.models answer them")

    @model_validator(mode="after")
    def _one_place(self) -> "SourceSettings":
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give either path or dataset")
        if self.dataset is not None and self.revision is None:
            raise ValueError("a data set on the Hub needs its revision (a commit hash): data under a name can change")
        return self

    @model_validator(mode="after")
    def _known_names(self) -> "SourceSettings":
        if self.format not in SHAPES:
            raise ValueError(f"format {self.format!r} is unknown{did_you_mean(self.format, SHAPES)}")
        known = {*SHAPES[self.format].fields, *COMMON_FIELDS}
        if unknown := sorted(set(self.fields) - known):
            raise ValueError(f"fields: unknown names {unknown}; this format has {sorted(known)}")
        return self

    @property
    def revisioned(self) -> str:
        """The source's name in tables: name@revision; local files are name@local, so that editing a row moves no other."""
        return f"{self.name}@{self.revision or 'local'}"


class SourcesSettings(BaseModel, frozen=True, extra="forbid"):
    """Where prompts and answers come from; a prompt belongs to the first source that has it."""

    sources: list[SourceSettings] = Field(min_length=1, description="in order of precedence")
    max_chars: int = Field(100_000, ge=1, description="a prompt or answer with more characters is dropped")
    max_reject_rate: Share = Field(0.01, description="the run fails when more input than this is bad")
    unknown_fields: Literal["ignore", "error"] = Field("ignore", description="what to do with unknown fields")
    control_characters: Literal["drop", "keep"] = Field(
        "drop", description="what to do with a text that holds NUL or another C0 control (tab and newlines are allowed)"
    )


class EvaluationSetSettings(BaseModel, frozen=True, extra="forbid"):
    """An evaluation set that training must not have seen: a file of one's own, or a known one at a pinned revision."""

    name: str = Field(min_length=1, description="how it is called; gsm8k, truthful_qa, alpaca_eval and arena_hard are known")
    path: str | None = Field(None, description="a local .jsonl, .json or .parquet file")
    revision: Commit | None = Field(None, description="of a known set on the Hub; default: the commit it was listed at")
    field: str | None = Field(None, description="the field of its text; default: the known set's, else prompt")

    @model_validator(mode="after")
    def _one_place(self) -> "EvaluationSetSettings":
        if self.path is not None and self.revision is not None:
            raise ValueError("give either path or revision")
        if self.path is None and self.name not in KNOWN:
            raise ValueError(f"{self.name!r} is no known set{did_you_mean(self.name, KNOWN)}: give its path")
        return self
