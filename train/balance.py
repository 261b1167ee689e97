"""KTO's weights by the labels of the answers that a run trains on (arXiv 2402.01306)."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from train.examples import Example
from train.settings import LossSettings, TrainingSettings

MOST = 4 / 3
"""The paper recommends lam_D n_D / (lam_U n_U) between 1 and this."""
KEYS = ("desirable_weight", "undesirable_weight")


@dataclass(frozen=True)
class Balance:
    """How many answers are desirable and how many are not, their weights in the loss, and whether the counts chose these."""

    desirable: int
    undesirable: int
    desirable_weight: float
    undesirable_weight: float
    chosen: bool

    @classmethod
    def of(cls, data: Sequence[Example], loss: LossSettings) -> "Balance":
        """Weights that are given stay; where neither is, the rarer label's is raised until both weigh alike."""
        good = sum(bool(e.desirable) for e in data)
        bad = len(data) - good
        if loss.model_fields_set & set(KEYS) or not (good and bad):
            return cls(good, bad, loss.desirable_weight, loss.undesirable_weight, False)
        return cls(good, bad, max(1.0, bad / good), max(1.0, good / bad), True)

    @property
    def ratio(self) -> float:
        """lam_D n_D / (lam_U n_U); infinite where nothing undesirable weighs."""
        good, bad = self.desirable_weight * self.desirable, self.undesirable_weight * self.undesirable
        return good / bad if bad else math.inf

    def __str__(self) -> str:
        weights = f"desirable_weight {self.desirable_weight:.4g}, undesirable_weight {self.undesirable_weight:.4g}"
        return (
            f"{self.desirable} desirable, {self.undesirable} undesirable; {weights}{' by their counts' if self.chosen else ''}"
        )

    def say(self, who: str) -> None:
        """Print the labels and weights, and a warning where the weights are out of balance."""
        print(f"{who}: labels: {self}", file=sys.stderr)
        if not self.desirable or not self.undesirable:
            print(f"warning: every answer is {'desirable' if self.desirable else 'undesirable'}", file=sys.stderr)
        elif not 1 - 1e-9 <= self.ratio <= MOST + 1e-9:
            weigh = f"desirable answers together weigh {self.ratio:.2f} times what undesirable ones do"
            print(f"warning: {weigh}; arXiv 2402.01306 recommends 1 to 4/3 (loss.desirable_weight)", file=sys.stderr)


def balanced(settings: TrainingSettings, balance: Balance) -> TrainingSettings:
    """The settings with the weights."""
    weights = {key: getattr(balance, key) for key in KEYS}
    return settings.model_copy(update={"loss": settings.loss.model_copy(update=weights)})
