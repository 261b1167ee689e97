"""OBJECTIVES: a name for a combination of negatives, references and loss. Users pick a name."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from train.objectives.keys import Key
from train.objectives.losses import LOSSES
from train.objectives.negatives import NEGATIVES, WEIGHTS
from train.objectives.references import REFERENCES


@dataclass(frozen=True)
class Objective:
    """Keys of the three registries, where the combination comes from, and its own defaults of a run's settings where they
    differ from everyone's (section -> key -> value)."""

    negatives: str
    references: str
    loss: str
    paper: str
    defaults: Mapping[str, Mapping[str, float | str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.negatives in NEGATIVES
        assert self.references in REFERENCES
        assert self.loss in LOSSES
        assert self.defaults.get("negatives", {}).get("weight", "ratio") in WEIGHTS
        assert all(k in {key.name for key in self.reads[section]} for section, own in self.defaults.items() for k in own)

    @property
    def reads(self) -> dict[str, tuple[Key, ...]]:
        """The keys of a run's settings that count, by section; others have no effect."""
        return {
            "loss": LOSSES[self.loss].reads,
            "negatives": NEGATIVES[self.negatives].reads,
            "references": REFERENCES[self.references].reads,
        }


SIMPO = {"beta": 2.0, "margin": 1.0}
OBJECTIVES: dict[str, Objective] = {
    "sft": Objective("none", "none", "nll", "maximum likelihood of the chosen answers"),
    "dpo": Objective("fixed", "primary", "logistic", "DPO, arXiv 2305.18290"),
    "rpo": Objective("fixed", "primary", "logistic_nll", "RPO, arXiv 2404.19733"),
    "exo": Objective("fixed", "primary", "reverse_kl", "EXO, arXiv 2402.00856", {"loss": {"label_smoothing": 1e-3}}),
    "simpo": Objective("fixed", "none", "length_averaged", "SimPO, arXiv 2405.14734", {"loss": SIMPO}),
    "cpo": Objective("fixed", "none", "logistic_nll", "CPO, arXiv 2401.08417"),
    "bco": Objective("fixed", "primary", "bco", "BCO, arXiv 2404.04656"),
    "kto": Objective("fixed", "primary", "kto", "KTO, arXiv 2402.01306, on pairs"),
    "apo_zero": Objective("fixed", "primary", "apo_zero", "APO, arXiv 2408.06266"),
    "apo_down": Objective("fixed", "primary", "apo_down", "APO, arXiv 2408.06266"),
    "sppo": Objective("fixed", "primary", "sppo", "SPPO, arXiv 2405.00675, hard labels"),
    "sppo_soft": Objective("fixed", "primary", "sppo_soft", "SPPO, arXiv 2405.00675, the set's win probabilities"),
    "nca": Objective("fixed", "primary", "nca", "NCA, arXiv 2402.05369, pairs"),
    "nca_kway": Objective("all", "primary", "nca_kway", "NCA, arXiv 2402.05369, every scored candidate"),
    "infonca": Objective("all", "primary", "infonca", "InfoNCA, arXiv 2402.05369"),
    "ipo": Objective("fixed", "primary", "squared", "IPO, arXiv 2310.12036"),
    "rnce": Objective("random", "primary", "softmax", "RNCE, arXiv 2502.04567 section 3"),
    "mcpo": Objective("kernel", "primary", "softmax", "MC-PO, arXiv 2502.04567 algorithm 1"),
    "mrpo": Objective("fixed", "virtual", "logistic", "MRPO, arXiv 2405.16388"),
    "multi_dpo": Objective("fixed", "each", "logistic", "Multi-DPO, the baseline of arXiv 2405.16388"),
    "mcpo_max": Objective("max", "primary", "softmax", "arXiv 2502.04567, ablation: the largest weight, no draw"),
    "mcpo_min": Objective("min", "primary", "softmax", "arXiv 2502.04567, ablation: the smallest weight"),
    "mcpo_mrpo": Objective("kernel", "virtual", "softmax", "MC-PO's kernel over MRPO's virtual reference"),
    "simpo_mc": Objective(
        "kernel",
        "none",
        "length_averaged",
        "SimPO with hard negatives of MC-PO's kernel",
        {"loss": SIMPO, "negatives": {"weight": "policy_per_token"}},
    ),
    "dpo_noise": Objective("noise", "primary", "logistic", "DPO(-), arXiv 2502.04567: the noise is the negative"),
    "dpo_all": Objective("all", "primary", "logistic", "augmented DPO, arXiv 2502.04567: every rejected candidate"),
}

ON_LABELS: dict[str, Objective] = {
    "kto": Objective("none", "primary", "kto_labelled", "KTO, arXiv 2402.01306, on labelled answers"),
}
"""What an objective is on labelled answers, each an example for itself; the others compare answers of one prompt."""


def objective_of(name: str, labelled: bool) -> Objective:
    """What a name means on a set, of labelled answers or of candidates; where it means nothing there, its ordinary row
    (train.mistakes says so). Raises KeyError for an unknown name."""
    return ON_LABELS.get(name, OBJECTIVES[name]) if labelled else OBJECTIVES[name]
