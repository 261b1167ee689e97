"""What a recipe says of its judges."""

from typing import Literal

from pydantic import BaseModel, Field

from prefdata.kinds import Name, Share, SplitName
from prefdata.models.engines.registry import LanguageModelSettings


class NoisySettings(BaseModel, frozen=True, extra="forbid"):
    """Planted errors of the embedded world's noisy judge, in its score's units (0 to 1): will a report find them?"""

    spread: float = Field(0.1, ge=0, description="scale of the logistic noise added to each comparison")
    first_place: float = Field(0.0, description="what the answer that is read first gains")
    length: float = Field(0.0, description="what the longer answer gains")


class JudgeSettings(BaseModel, frozen=True, extra="forbid"):
    """One judge and how it is asked; every comparison is asked in both orders unless swap_margin says otherwise."""

    name: Name = Field("exact", description="name of the judge; `sets.method` refers to it")
    kind: str = Field(
        "exact",
        description="pairwise: a language model compares two answers by a rubric; likelihood: a model's nats per character; "
        "reward: a sequence classifier's score; verifier: against the final answer; exact, noisy: the embedded world's own",
    )
    model: LanguageModelSettings | None = Field(None, description="of pairwise, likelihood and reward")
    rubric: str = Field("helpfulness", description="of pairwise: one of ours (rubrics/) or the path of a file")
    verdicts: Literal["labels", "text"] = Field(
        "labels", description="of pairwise: log-probs of the rubric's labels (one token), or the last line of a reply"
    )
    max_tokens: int = Field(1024, ge=1, description="of a reply, where verdicts are text")
    procedure: str = Field(
        "champion",
        description="champion against the next candidate, n-1 comparisons (arXiv 2411.05875); knockout: as many, in "
        "ceil(log2 n) rounds; round_robin: all pairs and Bradley-Terry scores",
    )
    swap_margin: float | None = Field(
        None,
        gt=0,
        description="judge the second order only if the margin of the first, in nats, is below this; null: always both",
    )
    truncated: Literal["last", "judged"] = Field(
        "last",
        description="answers cut by the length limit: last = not compared, ranked below complete ones; judged = like others",
    )
    noisy: NoisySettings = Field(default_factory=NoisySettings, description="of the judge noisy")
    splits: list[SplitName] = Field(default=["train", "validation", "test"], description="whose candidates are judged")
    max_failed: Share = Field(0.05, description="the stage fails when more verdicts than this are missing")
    min_consistency: Share = Field(0.5, description="the stage fails when fewer pairs than this agree in both orders")
    chunk_prompts: int = Field(512, ge=1, description="prompts read together")
    shards_per_engine: int | None = Field(None, ge=1, description="shards per start of the judge; all by default")
