"""The settings of one training run, train.runs.<objective>/<variant> of a recipe."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, model_validator

from prefdata.errors import did_you_mean
from prefdata.kinds import Commit, Origin, SplitName, Template
from train.objectives.negatives import NEGATIVES, WEIGHTS
from train.objectives.registry import Objective

Section = TypeVar("Section", bound=BaseModel)
SFT, PREFERENCE = "sft", "preference"
"""The sets that every recipe makes."""
UNPAIRED = "unpaired"
"""The set of labelled answers, which sets.unpaired asks for."""


class InitSettings(BaseModel, frozen=True, extra="forbid"):
    """A fresh Llama instead of a trained model."""

    tokenizer: str | None = Field(None, description="toy:<name>, a local folder or a Hub id")
    vocab_size: int | None = Field(
        None, ge=300, le=1_000_000, description="or the size of a byte-level BPE, trained on this run's own texts"
    )
    revision: Commit | None = Field(None, description="commit hash of the tokenizer, for a Hub id")
    hidden_size: int = Field(96, ge=8, description="width")
    layers: int = Field(3, ge=1, description="depth")
    heads: int = Field(3, ge=1, description="attention heads")
    mlp: int = Field(256, ge=8, description="width of the MLP")
    context: int = Field(512, ge=8, description="longest row in tokens")
    rope_theta: float = Field(1000.0, gt=0, description="base of the rotary frequencies")
    std: float = Field(0.06, gt=0, description="standard deviation of the initial weights")

    @model_validator(mode="after")
    def _one_tokenizer(self) -> "InitSettings":
        if (self.tokenizer is None) == (self.vocab_size is None):
            raise ValueError("give either tokenizer or vocab_size")
        return self

    @model_validator(mode="after")
    def _heads_fit(self) -> "InitSettings":
        if self.hidden_size % (2 * self.heads):
            raise ValueError(f"hidden_size {self.hidden_size} is no even multiple of heads {self.heads}")
        return self


class OptimizerSettings(BaseModel, frozen=True, extra="forbid"):
    """AdamW and its schedule. The papers' own values could not be verified (see the module's docs)."""

    learning_rate: float = Field(3e-4, gt=0, description="peak")
    warmup_steps: int = Field(0, ge=0, description="linear from 0 to the peak")
    warmup_share: float = Field(0.0, ge=0, lt=1, description="warm-up as a share of all steps; the larger of the two is used")
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="from the peak to 0 over the rest")
    clip_norm: float = Field(1.0, gt=0, description="largest norm of the whole gradient")
    weight_decay: float = Field(0.0, ge=0, description="decoupled, on every parameter")
    betas: tuple[float, float] = Field((0.9, 0.98), description="of Adam")


class LossSettings(BaseModel, frozen=True, extra="forbid"):
    """Of the objective's loss (formulas: prefdata objectives); each loss reads what it names. Some objectives bring their own
    defaults, which `prefdata objectives` lists."""

    beta: float = Field(0.1, gt=0, description="scale of the log-ratios; simpo's own default is 2")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="e: chance that the pair is swapped; exo's own is 0.001")
    margin: float = Field(0.0, ge=0, description="simpo's gamma, 1 by its default (gamma / beta = 0.5)")
    nll_weight: float = Field(1.0, ge=0, description="lambda of rpo and cpo")
    temperature: float = Field(1.0, gt=0, description="of the softmax over scores (infonca, nca_kway)")
    desirable_weight: float = Field(1.0, ge=0, description="kto's lam_D, of the chosen; set unpaired: by the labels' counts")
    undesirable_weight: float = Field(1.0, ge=0, description="kto's lam_U, of the rejected; likewise")


class NegativesSettings(BaseModel, frozen=True, extra="forbid"):
    """How negatives are drawn (arXiv 2502.04567)."""

    origins: list[Origin] = Field(default=["source", "generated"], description="the pool; noise joins only by name")
    count: int = Field(1, ge=1, description="M, negatives drawn per prompt")
    weight: str = Field(
        "ratio",
        description="kernel weight: ratio = softmax(r), policy = softmax(beta log pi) (the paper says both), policy_per_token",
    )
    beta: float | None = Field(None, gt=0, description="the kernel's own beta; default: the loss's")
    replacement: bool = Field(False, description="draw with replacement; repeats become counts")
    steps: int = Field(1, ge=1, description="T, steps of the kernel; more than 1 is the paper's future work")
    proposals: int | None = Field(None, ge=1, description="candidates that each step of the kernel proposes; default: all")
    include_chosen: bool = Field(
        False, description="the chosen answer may be drawn too (exact contrastive divergence; such a pair has no gradient)"
    )
    redraw: Literal["never", "epoch"] | None = Field(
        None,
        description="epoch: anew each epoch, by the run's seed (default); never: once, with the set, DPO's pair first",
    )

    @model_validator(mode="after")
    def _known(self) -> "NegativesSettings":
        if self.weight not in WEIGHTS:
            raise ValueError(f"negatives.weight: unknown{did_you_mean(self.weight, WEIGHTS)}")
        return self


class ReferencesSettings(BaseModel, frozen=True, extra="forbid"):
    """How several references become one (arXiv 2405.16388)."""

    eps_max: float = Field(0.1, ge=0, lt=1, description="CTRO's largest clip around the primary; 0.1 in the authors' code")
    adaptive_eps: bool = Field(True, description="share eps_max between chosen and rejected by their log-probs")
    alpha: list[Annotated[float, Field(ge=0)]] | None = Field(None, description="fixed weights; default ARWC's")
    weights: Literal["per_example", "validation_discrimination", "validation_accuracy", "sliding_window", "thompson"] = Field(
        "per_example",
        description="ARWC's; or of pairs of split validation, or of those that training saw before (arXiv 2512.10040)",
    )
    window: int = Field(256, ge=1, description="pairs that sliding_window looks back on")
    weight_order: Literal["paper", "repo"] = Field("paper", description="the authors' K=2 code swaps mrpo's weights")

    @model_validator(mode="after")
    def _some_weight(self) -> "ReferencesSettings":
        if self.alpha is not None and sum(self.alpha) <= 0:
            raise ValueError("alpha gives no reference any weight")
        if self.alpha is not None and self.weights != "per_example":
            raise ValueError("give either alpha or weights")
        return self


class LoraSettings(BaseModel, frozen=True, extra="forbid"):
    """Low-rank adapters instead of all weights (arXiv 2106.09685; needs prefdata[lora])."""

    rank: int = Field(16, ge=1, description="of the two factors")
    alpha: float = Field(32.0, gt=0, description="the product is scaled by alpha / rank")
    modules: list[str] | None = Field(None, description="names of the layers; default: every linear layer but the head")


class EvaluationSettings(BaseModel, frozen=True, extra="forbid"):
    """Loss and accuracy on held-out pairs while training; the best weights are kept beside the last."""

    every: int | None = Field(None, ge=1, description="steps between evaluations, one at the end too; none by default")
    split: SplitName = Field("validation", description="of the run's set")
    prompts: int = Field(256, ge=1, description="at most so many, the same ones every time")


class PartSettings(BaseModel, frozen=True, extra="forbid"):
    """One of the equal parts of a longer run, whose steps or epochs and whose schedule are those of all parts together."""

    number: int = Field(ge=1, description="1 is the first")
    of: int = Field(ge=1, description="parts in all")

    @model_validator(mode="after")
    def _inside(self) -> "PartSettings":
        if self.number > self.of:
            raise ValueError(f"there is no part {self.number} of {self.of}")
        return self

    def ends(self, total: int) -> tuple[int, int]:
        """The first step of the part and the one after its last, of `total` in all."""
        return total * (self.number - 1) // self.of, total * self.number // self.of


class TrainingSettings(BaseModel, frozen=True, extra="forbid"):
    """One training run."""

    set: str = Field(
        "preference",
        description="which set it reads: sft, preference, unpaired (labelled answers), or an online run's segment's",
    )
    split: SplitName | None = Field(
        None, description="which split of the set; default: all splits for sft, train for preference"
    )
    model: str | None = Field(None, description="where the policy starts; default: the primary reference")
    revision: Commit | None = Field(None, description="commit hash, for a Hub id")
    init: InitSettings | None = Field(None, description="a fresh model instead")
    lora: LoraSettings | None = Field(None, description="train low-rank adapters only")
    continue_from: str | None = Field(
        None,
        description="<objective>/<variant> whose model, optimizer, schedule and steps go on; on the same data its order too",
    )
    part: PartSettings | None = Field(
        None, description="steps, epochs and schedule are those of a longer run, of which this is one part; online sets it"
    )
    keep_optimizer: bool = Field(False, description="keep the optimizer beside the model, for a run that continues from it")
    seed: int | None = Field(None, description="of the data order and the draws; default: the recipe's")
    template: Template | None = Field(None, description="default: the primary reference's, else chat")
    end: Literal["eos", "none"] | None = Field(None, description="default: the primary reference's, else eos")
    steps: int | None = Field(None, ge=1, description="optimizer steps; or epochs")
    epochs: int | None = Field(None, ge=1, description="passes over the data; default 1 where steps is not given")
    batch_prompts: int = Field(32, ge=1, description="prompts per optimizer step; of the set unpaired, answers")
    micro_tokens: int = Field(16_384, ge=1, description="tokens per forward; a batch is cut into as many as needed")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the products; weights, log-softmax and the optimizer stay fp32, sums fp64"
    )
    checkpoint_activations: bool = Field(False, description="compute each layer again in backward: less memory, more time")
    compile_layers: bool = Field(
        False, description="by torch.compile, for GPUs: needs a C++ compiler; the first step takes up to a minute more"
    )
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)
    optimizer: OptimizerSettings = Field(default_factory=OptimizerSettings)
    loss: LossSettings = Field(default_factory=LossSettings)
    negatives: NegativesSettings = Field(default_factory=NegativesSettings)
    references: ReferencesSettings = Field(default_factory=ReferencesSettings)
    checkpoint_s: float = Field(5.0, gt=0, description="seconds of work between checkpoints; no result depends on it")
    processes: int = Field(
        1, ge=1, description="of this machine that share the run, each with a GPU of its own where there are any"
    )

    @model_validator(mode="after")
    def _start(self) -> "TrainingSettings":
        if self.model is not None and self.init is not None:
            raise ValueError("give either model or init")
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give either steps or epochs")
        if self.continue_from is not None and (self.model is not None or self.init is not None):
            raise ValueError("give continue_from, or a model or init to start from")
        if self.part is not None and self.part.number > 1 and self.continue_from is None:
            raise ValueError(f"part {self.part.number} goes on from part {self.part.number - 1}: give continue_from")
        if self.lora is not None and self.init is not None:
            raise ValueError("give either lora or init: adapters need trained weights under them")
        return self


def what_identifies(settings: TrainingSettings) -> dict[str, Any]:
    """The settings that make a run another one: all but how often it is kept, and by how many processes it is made."""
    return settings.model_dump(mode="json", exclude={"checkpoint_s", "processes"})


def with_defaults(run: TrainingSettings, row: Objective) -> TrainingSettings:
    """The run with the objective's own defaults for keys of loss and negatives that the recipe does not give."""
    loss = _with(run.loss, row.defaults.get("loss", {}))
    negatives = _with(run.negatives, row.defaults.get("negatives", {}))
    redraw = negatives.redraw or NEGATIVES[row.negatives].redraw
    return run.model_copy(update={"loss": loss, "negatives": negatives.model_copy(update={"redraw": redraw})})


def _with(section: Section, own: Mapping[str, float | str]) -> Section:
    return section.model_copy(update={k: v for k, v in own.items() if k not in section.model_fields_set})
