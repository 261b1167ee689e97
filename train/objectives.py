"""OBJECTIVES: a name for a combination of negatives, references and loss. Users pick a name."""

from dataclasses import dataclass

from train.losses import LOSSES
from train.negatives import NEGATIVES
from train.references import REFERENCES


@dataclass(frozen=True)
class Objective:
    """Keys of the three registries, and where the combination comes from."""

    negatives: str
    references: str
    loss: str
    paper: str

    def __post_init__(self) -> None:
        assert self.negatives in NEGATIVES
        assert self.references in REFERENCES
        assert self.loss in LOSSES


OBJECTIVES: dict[str, Objective] = {
    "sft": Objective("none", "none", "nll", "maximum likelihood of the chosen answers"),
    "dpo": Objective("fixed", "primary", "logistic", "DPO, arXiv 2305.18290"),
    "rnce": Objective("random", "primary", "softmax", "RNCE, arXiv 2502.04567 section 3"),
    "mcpo": Objective("kernel", "primary", "softmax", "MC-PO, arXiv 2502.04567 algorithm 1"),
    "mrpo": Objective("fixed", "virtual", "logistic", "MRPO, arXiv 2405.16388"),
    "multi_dpo": Objective("fixed", "each", "logistic", "Multi-DPO, the baseline of arXiv 2405.16388"),
    "mcpo_max": Objective("max", "primary", "softmax", "arXiv 2502.04567, ablation: the largest weight, no draw"),
    "mcpo_min": Objective("min", "primary", "softmax", "arXiv 2502.04567, ablation: the smallest weight"),
    "mcpo_mrpo": Objective("kernel", "virtual", "softmax", "MC-PO's kernel over MRPO's virtual reference"),
    "dpo_noise": Objective("noise", "primary", "logistic", "DPO(-), arXiv 2502.04567: the noise is the negative"),
    "dpo_all": Objective("all", "primary", "logistic", "augmented DPO, arXiv 2502.04567: every rejected candidate"),
}
