"""The settings of a run: typed, closed, frozen, validated once, all mistakes reported together.

Defaults live in these classes only. The `train:` section's runs are validated by `train.settings`, since `train`
imports `prefdata` and never the reverse.
"""

import re
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from prefdata.errors import did_you_mean
from prefdata.sources.known_sets import KNOWN
from prefdata.sources.shapes import COMMON_FIELDS, SHAPES
from prefdata.tables.figures import FIGURES

SplitName = Literal["sft", "train", "validation", "test"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
"""A branch or tag moves; only a commit hash pins what results were made with."""
Share = Annotated[float, Field(ge=0, le=1)]


class ToySettings(BaseModel, frozen=True, extra="forbid"):
    """The embedded world of the demo: verifiable string tasks answered by simulated writers."""

    demonstrations: int = Field(6000, ge=1, description="prompts with one answer by a weak writer, split sft")
    train: int = Field(768, ge=1, description="prompts answered by all seven writers, split train")
    test: int = Field(384, ge=1, description="prompts answered by all seven writers, split test")
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
    split: SplitName | None = Field(None, description="split of all its rows; else the row's own, else by shares")
    weight: float = Field(1.0, gt=0, le=1, description="share of its prompts kept, by a keyed draw: mixtures")
    exclude: list[str] = Field(
        default=["truthful_qa"], description="subsets left out (the row's source); TruthfulQA's prompts are an evaluation's"
    )
    prompts_only: bool = Field(False, description="leave the answers: models of generate.models answer the prompts")

    @model_validator(mode="after")
    def _one_place(self) -> "SourceSettings":
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give either path or dataset")
        if self.dataset is not None and self.revision is None:
            raise ValueError("a data set on the Hub needs its revision (a commit hash): data moves under a name")
        return self

    @model_validator(mode="after")
    def _known_names(self) -> "SourceSettings":
        if self.format not in SHAPES:
            raise ValueError(f"format {self.format!r} is unknown{did_you_mean(self.format, SHAPES)}")
        known = {*SHAPES[self.format].fields, *COMMON_FIELDS}
        if unknown := sorted(set(self.fields) - known):
            raise ValueError(f"fields maps {unknown}, which are none of {sorted(known)}")
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
    unknown_fields: Literal["ignore", "error"] = Field("ignore", description="what fields we do not know get")
    control_characters: Literal["drop", "keep"] = Field(
        "drop", description="what a text with NUL or another C0 control gets (tab and newlines are none)"
    )


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

    threshold: float = Field(0.8, gt=0, le=1, description="estimated Jaccard similarity from which two prompts are one")
    ngram: int = Field(3, ge=1, description="words in a run; punctuation and case do not count")
    permutations: int = Field(
        128, ge=16, le=1024, description="numbers in a signature; the estimate's sd is about 1/sqrt of it"
    )
    bands: int = Field(32, ge=1, description="of the signature; prompts that agree in one are compared")

    @model_validator(mode="after")
    def _whole_bands(self) -> "DedupSettings":
        if self.permutations % self.bands:
            raise ValueError(f"permutations ({self.permutations}) must be a multiple of bands ({self.bands})")
        return self


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


class DecontaminateSettings(BaseModel, frozen=True, extra="forbid"):
    """Overlap of training prompts with evaluation sets."""

    against: list[EvaluationSetSettings] = Field(description="the sets")
    ngram: int = Field(12, ge=1, description="words that a prompt and an evaluation text must share in a row")


class PruneSettings(BaseModel, frozen=True, extra="forbid"):
    """Which ranks of the source's own order are dropped."""

    drop_ranks: list[Annotated[int, Field(ge=2)]] = Field(
        default=[2],
        description="positions in the source's order; [2] is the MC-PO paper's; [2, 3] and so on ablate quality",
    )


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


class NoisySettings(BaseModel, frozen=True, extra="forbid"):
    """Planted errors of the embedded world's noisy judge, in its score's units (0 to 1): will a report find them?"""

    spread: float = Field(0.1, ge=0, description="scale of the logistic noise of one asking")
    first_place: float = Field(0.0, description="what the answer that is read first gains")
    length: float = Field(0.0, description="what the longer answer gains")


class JudgeSettings(BaseModel, frozen=True, extra="forbid"):
    """One judge and how it is asked; every comparison is asked in both orders unless swap_margin says otherwise."""

    name: Name = Field("exact", description="the method that `sets.method` may name")
    judge: Literal["exact", "noisy", "pairwise", "likelihood", "reward", "verifier"] = Field(
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
    procedure: Literal["champion", "knockout", "round_robin"] = Field(
        "champion",
        description="champion against the next candidate, n-1 comparisons (arXiv 2411.05875); knockout: as many, in "
        "ceil(log2 n) rounds; round_robin: all pairs and Bradley-Terry scores",
    )
    swap_margin: float | None = Field(
        None, gt=0, description="ask the second order only where the first one's margin is below; null: always both"
    )
    truncated: Literal["last", "judged"] = Field(
        "last", description="an answer cut by the length limit is behind every whole one unasked, or judged like others"
    )
    noisy: NoisySettings = Field(default_factory=NoisySettings, description="of the judge noisy")
    splits: list[SplitName] = Field(default=["train", "validation", "test"], description="whose candidates are judged")
    max_failed: Share = Field(0.05, description="the stage fails when more verdicts than this are missing")
    min_consistency: Share = Field(0.5, description="the stage fails when fewer pairs than this agree in both orders")
    chunk_prompts: int = Field(512, ge=1, description="prompts read together")
    shards_per_engine: int | None = Field(None, ge=1, description="shards per start of the judge; all by default")

    @model_validator(mode="after")
    def _has_a_model(self) -> "JudgeSettings":
        if self.judge in ("pairwise", "likelihood", "reward") and self.model is None:
            raise ValueError(f"the judge {self.judge} needs its model")
        if self.judge in ("likelihood", "reward") and self.model is not None and self.model.engine != "transformers":
            raise ValueError(f"the judge {self.judge} is run by transformers: leave {self.model.engine} out")
        if self.swap_margin is not None and self.judge == "pairwise" and self.verdicts == "text":
            raise ValueError("swap_margin needs a margin, which only verdicts: labels have")
        return self


class NoiseSettings(BaseModel, frozen=True, extra="forbid"):
    """Token-swap noise of the chosen answer."""

    copies: int = Field(1, ge=0, description="noise candidates per prompt; 0 turns the stage's output empty")
    tries: int = Field(16, ge=1, description="draws of two positions before the prompt is counted noise_failed")


class ReferenceSettings(BaseModel, frozen=True, extra="forbid"):
    """One reference model. The first is the primary one, whose template and end the policy uses."""

    name: Name = Field(description="the name in logps and in the objectives")
    model: str = Field(description="run:<objective>/<variant>, a local folder or a Hub id")
    revision: Commit | None = Field(None, description="commit hash, for a Hub id")
    template: Literal["chat", "plain"] = Field("chat", description="how prompts are rendered")
    end: Literal["eos", "none"] = Field("eos", description="whether the end token is scored")
    max_tokens: int | None = Field(None, ge=2, description="prompt + completion; default: the model's context")
    on_long: Literal["drop"] = Field("drop", description="drop the candidate, too_long:<reference>; never truncated")


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
    filters: dict[str, LimitsSettings] = Field(
        default_factory=dict, description="limits of the quality report's figures: " + ", ".join(FIGURES)
    )

    @model_validator(mode="after")
    def _known_figures(self) -> "SetsSettings":
        if unknown := [f for f in self.filters if f not in FIGURES]:
            raise ValueError(f"filters: unknown figure{did_you_mean(unknown[0], FIGURES)}")
        return self


class TrainSettings(BaseModel, frozen=True, extra="forbid"):
    """The training runs, by <objective>/<variant>; `python -m train --keys` prints what each may hold."""

    runs: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="objective/variant: its settings; a list as seed or optimizer.learning_rate makes a run of each",
    )

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or not isinstance(raw.get("runs"), dict):
            return raw
        listed = [pair for key, asked in raw["runs"].items() for pair in expanded(key, asked)]
        if double := [name for name, count in Counter(name for name, _ in listed).items() if count > 1]:
            raise ValueError(f"two runs are called {double[0]}")
        return {**raw, "runs": dict(listed)}

    @model_validator(mode="after")
    def _keys(self) -> "TrainSettings":
        for key in self.runs:
            if not re.fullmatch(r"[a-z][a-z0-9_]{0,31}/[a-z0-9][a-z0-9_-]{0,63}", key, re.ASCII):
                raise ValueError(f"{key!r} is not <objective>/<variant> in small letters, digits, - and _")
        return self


def expanded(key: str, asked: Any) -> list[tuple[str, Any]]:
    """A run for each of its learning rates and seeds, where they are lists: <key>-lr<rate>-s<seed>."""
    if not isinstance(asked, dict):
        return [(key, asked)]
    made = [(key, asked)]
    optimizer = asked.get("optimizer")
    rates = optimizer.get("learning_rate") if isinstance(optimizer, dict) else None
    for name, values in (("optimizer.learning_rate", rates), ("seed", asked.get("seed"))):
        if values == []:
            raise ValueError(f"{key}: {name} is an empty list: no run is left")
    if isinstance(rates, list):
        made = [
            (f"{name}-lr{_in_name(rate)}", {**run, "optimizer": {**run["optimizer"], "learning_rate": rate}})
            for name, run in made
            for rate in rates
        ]
    if isinstance(asked.get("seed"), list):
        made = [(f"{name}-s{_in_name(seed)}", {**run, "seed": seed}) for name, run in made for seed in asked["seed"]]
    return made


def _in_name(value: Any) -> str:
    """A number as a run's name may hold it: 1e-05, 0_001."""
    return str(value).replace(".", "_").replace("+", "")


class EvaluateSettings(BaseModel, frozen=True, extra="forbid"):
    """Answers of trained models on held-out prompts, checked by the verifier."""

    runs: list[str] = Field(default_factory=list, description="<objective>/<variant> of the models; the first is the baseline")
    judge: Name | None = Field(None, description="a judge that compares greedy answers with the first run's: win rates")
    split: SplitName = Field("test", description="whose prompts are answered")
    samples: int = Field(4, ge=1, description="answers sampled per prompt beside the greedy one")
    temperature: float = Field(1.0, gt=0, description="of the samples")
    max_tokens: int = Field(512, ge=1, description="an answer cut here has finish = length")
    chunk_prompts: int = Field(128, ge=1, description="prompts committed together")
    shards_per_engine: int | None = Field(None, ge=1, description="shards per start of the model; all by default")


class CardSettings(BaseModel, frozen=True, extra="forbid"):
    """What the card says beyond computed facts."""

    title: str = Field("A preference set", description="first heading")
    description: str = Field("", description="your own words; plain text, escaped")
    license: str | None = Field(
        None,
        description="licence of the published set, as the Hub spells it; default: the one its sources share, else other",
    )
    language: str = Field("en", description="language code")
    tags: list[str] = Field(default_factory=list, description="added to preference, dpo")


class PublishSettings(BaseModel, frozen=True, extra="forbid"):
    """Where the set goes; the folder results/<name>/publish/dataset is always written."""

    repo_id: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None = Field(
        None, description="owner/name of a data set on the Hub; none: only the folder"
    )
    private: bool = Field(True, description="visibility of a repository that has to be made")
    attempts: int = Field(5, ge=1, description="tries of the commit; before each the head is read again")


class Settings(BaseModel, frozen=True, extra="forbid"):
    """A whole recipe."""

    name: Name = Field(description="the results go to results/<name>")
    seed: int = Field(0, description="of every draw")
    num_shards: int = Field(1, ge=1, le=65_536, description="files per table; results do not depend on it")
    threads: int = Field(1, ge=1, description="torch's threads in one job; the last bits of sums depend on it")
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
    evaluate: EvaluateSettings = Field(default_factory=EvaluateSettings)
    card: CardSettings = Field(default_factory=CardSettings)
    publish: PublishSettings = Field(default_factory=PublishSettings)

    @model_validator(mode="after")
    def _references_resolve(self) -> "Settings":
        problems = [*self._unknown_runs(), *self._unknown_methods(), *self._shared_names(), *self._unanswered()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _unknown_runs(self) -> list[str]:
        asked = [m.model for m in self.generate.models] + [r.model for r in self.score.references]
        asked += [j.model.model for j in self.judge if j.model]
        asked += [f"run:{r}" for r in self.evaluate.runs]
        return [
            f"{ref} is no run under train.runs{did_you_mean(ref[4:], self.train.runs)}"
            for ref in asked
            if ref.startswith("run:") and ref[4:] not in self.train.runs
        ]

    def _unanswered(self) -> list[str]:
        bare = [s.name for s in self.sources.sources if s.prompts_only]
        if not bare or self.generate.models:
            return []
        return [f"sources.sources: {bare[0]} gives prompts only, and generate.models names no model to answer them"]

    def _shared_names(self) -> list[str]:
        judges, models = [j.name for j in self.judge], [m.name for m in self.generate.models]
        problems = [
            f"two of {where} share a name: {n}"
            for where, n in (("judge", judges), ("generate.models", models))
            if len(set(n)) < len(n)
        ]
        return problems + ([] if "source" not in judges else ["judge: the name source means the source's own order"])

    def _unknown_methods(self) -> list[str]:
        judges = [j.name for j in self.judge]
        known = ["source", *judges]
        lacking, comparing = list[str](), self.evaluate.judge
        if comparing is not None and comparing not in judges:
            lacking = [f"evaluate.judge: {comparing!r} is no judge's name{did_you_mean(comparing, judges)}"]
        elif comparing is not None and len(self.evaluate.runs) < 2:
            lacking = ["evaluate.judge: name two runs at least under evaluate.runs, the first is the baseline"]
        return lacking + [
            f"sets.{key}: {method!r} is neither source nor a judge's name{did_you_mean(method, known)}"
            for key, method in (("method", self.sets.method), ("sft_method", self.sets.sft_method))
            if method not in known
        ]
