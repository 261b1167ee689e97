"""How fast models run and what that costs: prefdata/workflow/rates.yaml, less what the user knows better."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError, model_validator

from prefdata.errors import ConfigError, did_you_mean
from prefdata.models.size import size_of
from prefdata.recipe.read import explain, read_yaml
from prefdata.recipe.work import Lengths, Phase, Size
from prefdata.workflow.stage_work import Task

FILE = Path(__file__).parent / "rates.yaml"
FULL = ("bfloat16", "float16")
"""What the shares of the peak were measured or guessed for."""


class Rate(BaseModel, frozen=True, extra="forbid"):
    """A share of the device's peak, with how little and how much it may be."""

    low: float = Field(gt=0, le=1, description="the least")
    value: float = Field(gt=0, le=1, description="what is reckoned with")
    high: float = Field(gt=0, le=1, description="the most")
    measured: bool = Field(description="by this project, on the device")
    source: str = Field(description="where it comes from")

    @model_validator(mode="after")
    def _ordered(self) -> "Rate":
        if not self.low <= self.value <= self.high:
            raise ValueError("low, value and high must not decrease")
        return self


class Rates(BaseModel, frozen=True, extra="forbid"):
    """All that hours and money are made of, beside the recipe."""

    device: str = Field(description="which one the rates are of")
    peak: dict[str, float] = Field(description="FLOP/s by dtype")
    shares: dict[str, Rate] = Field(description="of the peak, by the kind of pass")
    lengths: Lengths = Field(description="mean tokens")
    gpu_hour: float = Field(ge=0, description="price of a GPU for an hour")
    sizes: dict[str, Size] = Field(description="of data sets, by owner/name:split")
    tasks: dict[str, Task] = Field(description="of lm-evaluation-harness")

    def hours(self, phase: Phase, parameters: float) -> tuple[float, float, float]:
        """GPU hours of a pass: the least, the ones reckoned with, the most. Raises ConfigError for an unknown rate or dtype."""
        dtype = FULL[0] if phase.dtype == "auto" else phase.dtype
        if phase.rate not in self.shares or dtype not in self.peak:
            what = "share" if phase.rate not in self.shares else "peak"
            raise ConfigError(f"no {what} is known of {phase.rate} in {dtype}", "rates", "add it by --rates FILE")
        share, whole = self.shares[phase.rate], phase.tokens * phase.flops * parameters / self.peak[dtype] / 3600
        return whole / share.high, whole / share.value, whole / share.low

    def measured(self, phase: Phase) -> bool:
        """Whether the pass was timed on the device as it will run."""
        return self.shares[phase.rate].measured and phase.dtype in FULL


def load(file: Path | None = None, shares: Sequence[str] = (), **known: Any) -> Rates:
    """The rates, with what a file has instead, shares as NAME=VALUE, and single keys where they are not None; dicts are
    merged. Raises ConfigError."""
    raw = read_yaml(FILE)
    for other in (read_yaml(file) if file else {}, _given(shares, raw), {k: v for k, v in known.items() if v is not None}):
        raw = _merged(raw, other)
    try:
        return Rates.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(explain(error, Rates, str(file or "rates"), "prefdata/workflow/rates.yaml")) from error


def _given(shares: Sequence[str], raw: Mapping[str, Any]) -> dict[str, Any]:
    values = pairs(shares, "--rate")
    if unknown := [name for name in values if name not in raw["shares"]]:
        raise ConfigError(f"no rate {unknown[0]!r}{did_you_mean(unknown[0], raw['shares'])}", "--rate")
    made = {n: {"low": v, "value": v, "high": v, "measured": False, "source": "given"} for n, v in values.items()}
    return {"shares": made}


def pairs(words: Sequence[str], option: str) -> dict[str, float]:
    """NAME=NUMBER of an option that may be repeated; numbers may end in K, M or B. Raises ConfigError."""
    made = {}
    for word in words:
        name, _, text = word.rpartition("=")
        value = size_of(text)
        if not name or not value:
            raise ConfigError(f"{word!r} is not NAME=NUMBER", option, "such as meta-llama/Llama-3.1-8B-Instruct=8B")
        made[name] = value
    return made


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    both = {k: _merged(one[k], v) if isinstance(v, dict) and isinstance(one.get(k), dict) else v for k, v in other.items()}
    return {**one, **both}
