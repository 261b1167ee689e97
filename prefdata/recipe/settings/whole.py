"""The settings of a run: typed, closed, frozen, validated once, all mistakes reported together.

Defaults live in these classes only. The `train:` section's runs are validated by `train.resolve`, since `train`
imports `prefdata` and never the reverse.
"""

from typing import Any

from pydantic import BaseModel, Field, PrivateAttr, model_validator

from prefdata.errors import did_you_mean
from prefdata.kinds import Name, Share
from prefdata.recipe.settings.data import (
    DecontaminateSettings,
    DedupSettings,
    GenerateSettings,
    NoiseSettings,
    PruneSettings,
    ScoreSettings,
    SetsSettings,
    SplitSettings,
)
from prefdata.recipe.settings.judging import JudgeSettings
from prefdata.recipe.settings.online import OnlineSettings, Segment
from prefdata.recipe.settings.output import CardSettings, PublishSettings
from prefdata.recipe.settings.segments import named, online_runs, problems_of, segments_of, training_runs
from prefdata.recipe.settings.training import EvaluateSettings, HarnessSettings, TrainSettings
from prefdata.sources.settings import SourcesSettings, ToySettings
from prefdata.sources.shapes import SHAPES


class Settings(BaseModel, frozen=True, extra="forbid"):
    """A whole recipe."""

    name: Name = Field(description="the results go to results/<name>")
    seed: int = Field(0, description="of every draw")
    num_shards: int = Field(1, ge=1, le=65_536, description="files per table; results do not depend on it")
    shards_per_job: int = Field(16, ge=1, description="shards of one job of a data stage; results do not depend on it")
    threads: int = Field(1, ge=1, description="torch's threads in one job; the last bits of sums depend on it")
    warn_share: Share = Field(
        0.3, description="what a stage drops more than this share of is named on the terminal, in the summary and on the card"
    )
    toy: ToySettings | None = Field(None, description="make the embedded world first")
    sources: SourcesSettings
    dedup: DedupSettings | None = Field(default_factory=DedupSettings, description="null: every prompt is kept")
    split: SplitSettings = Field(default_factory=SplitSettings)
    decontaminate: DecontaminateSettings | None = Field(None, description="null: nothing is compared")
    prune: PruneSettings = Field(default_factory=PruneSettings)
    generate: GenerateSettings = Field(default_factory=GenerateSettings)
    judge: list[JudgeSettings] = Field(default_factory=list, description="the judges, by name")
    noise: NoiseSettings = Field(default_factory=NoiseSettings)
    score: ScoreSettings = Field(default_factory=ScoreSettings)
    sets: SetsSettings = Field(default_factory=SetsSettings)
    train: TrainSettings = Field(default_factory=TrainSettings)
    online: OnlineSettings | None = Field(None, description="null: every run trains on a set that is made once")
    evaluate: EvaluateSettings = Field(default_factory=EvaluateSettings)
    harness: HarnessSettings | None = Field(None, description="null: no task of lm-evaluation-harness is run")
    card: CardSettings = Field(default_factory=CardSettings)
    publish: PublishSettings = Field(default_factory=PublishSettings)
    _segment: Segment | None = PrivateAttr(None)

    @property
    def segment(self) -> Segment | None:
        """What this is the recipe of, where it is one of a segment."""
        return self._segment

    @property
    def runs(self) -> dict[str, dict[str, Any]]:
        """Every training run, each part of an online one being one."""
        return training_runs(self)

    @property
    def evaluated(self) -> list[str]:
        """The runs that are evaluated: of a list of seeds each, of an online one each part."""
        runs = [name for wanted in self.evaluate.runs for name in named(wanted, self.train.runs)]
        return list(dict.fromkeys(n for run in runs for n in ([s.model for s in self.parts(run)] or [run])))

    @property
    def answered_once(self) -> bool:
        """Whether prompts have answers that no online run made: a source's, or those of generate.models."""
        return bool(self.generate.models) or any(not s.prompts_only for s in self.sources.sources)

    @property
    def segments(self) -> list[Segment]:
        """Of every online run."""
        return [part for run in online_runs(self) for part in self.parts(run)]

    def parts(self, run: str) -> list[Segment]:
        """The segments of an online run; none of another one."""
        return segments_of(self, run)

    def for_segment(self, segment: Segment, **sections: Any) -> "Settings":
        """This recipe with other sections, as that of a segment."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        made = Settings.model_construct(**{**fields, **sections, "online": None})
        made._segment = segment
        return made

    @model_validator(mode="after")
    def _references_resolve(self) -> "Settings":
        problems = problems_of(self)
        if not problems:  # else the parts of online runs are not known
            problems = self._unknown_runs()
        problems += [*self._unknown_methods(), *self._shared_names(), *self._unanswered(), *self._unlabelled()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _unknown_runs(self) -> list[str]:
        models = [m.id for m in self.generate.models] + [r.model for r in self.score.references]
        models += [j.model.id for j in self.judge if j.model]
        models += [f"run:{r}" for r in self.evaluated]
        return [
            f"{ref}: train.runs has no such run{did_you_mean(ref[4:], self.runs)}"
            for ref in models
            if ref.startswith("run:") and ref[4:] not in self.runs
        ]

    def _unanswered(self) -> list[str]:
        bare = [s.name for s in self.sources.sources if s.prompts_only]
        if not bare or self.generate.models or self.online:
            return []
        return [f"sources.sources: {bare[0]} gives prompts only; name models under generate.models, or online.runs, to answer"]

    def _unlabelled(self) -> list[str]:
        if not self.sets.unpaired or any(SHAPES[s.format].labels and not s.prompts_only for s in self.sources.sources):
            return []
        return [
            "sets.unpaired: no source gives labels, as format: trl_unpaired does "
            "(of a set that prefdata published, read data/unpaired/*.parquet by it)"
        ]

    def _shared_names(self) -> list[str]:
        judges, models = [j.name for j in self.judge], [m.name for m in self.generate.models]
        problems = [
            f"two of {where} share a name: {n}"
            for where, n in (("judge", judges), ("generate.models", models))
            if len(set(n)) < len(n)
        ]
        return problems + (
            [] if "source" not in judges else ["judge: the name `source` is reserved for the source's own order"]
        )

    def _unknown_methods(self) -> list[str]:
        judges = [j.name for j in self.judge]
        known = ["source", *judges]
        lacking, comparing = list[str](), self.evaluate.judge
        if self.harness and not self.evaluated:
            lacking.append("harness: name the runs to evaluate under evaluate.runs")
        if comparing is not None and comparing not in judges:
            lacking += [f"evaluate.judge: no judge is named {comparing!r}{did_you_mean(comparing, judges)}"]
        elif comparing is not None and len(self.evaluated) < 1 + (self.evaluate.baseline is None):
            lacking += [
                "evaluate.judge: name two runs under evaluate.runs, the first is the baseline; or one, and evaluate.baseline"
            ]
        if self.evaluate.baseline is not None and comparing is None:
            lacking.append("evaluate.baseline: name the judge that compares with it under evaluate.judge")
        return lacking + [
            f"sets.{key}: {method!r} is neither source nor a judge's name{did_you_mean(method, known)}"
            for key, method in (("method", self.sets.method), ("sft_method", self.sets.sft_method))
            if method not in known
        ]
