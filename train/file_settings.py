"""The keys of a file of training (`prefdata train settings.yaml`), and errors that speak of them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import BaseModel, Field, model_validator

from prefdata.errors import PrefdataError, did_you_mean
from prefdata.kinds import Commit, Share
from prefdata.models.settings import ReferenceSettings
from prefdata.sources.settings import SourceSettings
from prefdata.sources.shapes import SHAPES
from train.settings import TrainingSettings

PUBLISHED = "sets"
"""The format of a set that prefdata published."""


class DataSettings(BaseModel, frozen=True, extra="forbid"):
    """The set that is trained on."""

    format: str = Field("trl_pairs", description=f"{PUBLISHED} = as prefdata publishes; or one of " + ", ".join(SHAPES))
    path: str | list[str] | None = Field(
        None, description="local .jsonl or .parquet files, patterns too; of a published set its folder"
    )
    dataset: str | None = Field(None, description="or a data set on the Hub, with its revision")
    revision: Commit | None = Field(None, description="commit hash of the data set on the Hub: always pinned")
    config: str | None = Field(None, description="configuration of the data set on the Hub")
    hub_split: str = Field("train", description="which split of the Hub data set is read")
    max_reject_rate: Share = Field(0.01, description="training is refused when more of the rows than this are bad")
    license: str = Field("unknown", description="for the model's card")
    fields: dict[str, str] = Field(default_factory=dict, description="ours: theirs, where the names differ")
    validation: Share = Field(0.0, description="share of prompts held out, where the rows do not say; for evaluation")

    @model_validator(mode="after")
    def _place(self) -> "DataSettings":
        if self.format == PUBLISHED:
            if isinstance(self.path, list) or (self.path is None) == (self.dataset is None):
                raise ValueError("give either path (one folder) or dataset")
            if self.dataset is not None and self.revision is None:
                raise ValueError("a data set on the Hub needs its revision (a commit hash): data under a name can change")
        elif self.format not in SHAPES:
            raise ValueError(f"format {self.format!r} is unknown{did_you_mean(self.format, [PUBLISHED, *SHAPES])}")
        else:
            self.source()
        return self

    def source(self) -> SourceSettings:
        """The same as a recipe's source."""
        return SourceSettings(name="data", **self.model_dump(exclude={"validation", "max_reject_rate"}))


class FileSettings(TrainingSettings, frozen=True, extra="forbid"):
    """A run's own keys, and what a recipe would say around it."""

    objective: str = Field(description="what is optimised; prefdata objectives lists them")
    data: DataSettings
    output: str = Field(description="the model's folder; <output>.work holds tables, log-probs and checkpoints")
    reference_models: list[ReferenceSettings] | None = Field(
        None, description="reference models; default: those of a published set, else the model that is trained"
    )
    score_dtype: str = Field("float32", description="of the references' forward: float32, float64 or bfloat16")
    threads: int | None = Field(None, ge=1, description="torch's threads; default: every processor")


OWN_KEYS = (
    (re.compile(r"train\.runs[.:] ?[a-z0-9_]+/model[.:]? ?"), ""),
    (re.compile(r"train\.runs: "), ""),
    (re.compile(r"sources\.sources(?:\.0| \(data\)|\[\])?\."), "data."),
    (re.compile(r"sources\.sources(?:\.0)?"), "data"),
    (re.compile(r"sources\.max_reject_rate"), "data.max_reject_rate"),
    (re.compile(r"sets\.unpaired"), "set: unpaired"),
    (re.compile(r"score\.references"), "reference_models"),
    (re.compile(r"score\.dtype"), "score_dtype"),
)
"""A recipe's keys that the stages speak of, and what they are called in a file of training."""


@contextmanager
def own_keys() -> Iterator[None]:
    """Errors that speak of a recipe's keys speak of the file's."""
    try:
        yield
    except PrefdataError as error:
        text = str(error)
        for pattern, ours in OWN_KEYS:
            text = pattern.sub(ours, text)
        if text == str(error):
            raise
        raise type(error)(text.split("\n")) from error
