"""What a loss sees of a micro-batch. B prompts (or labelled answers), M negatives, K' reference views; fp64 sequence sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Compared:
    """counts_BM: how often each negative was drawn (0 = padding). Labels are the set's scores or win probabilities, for
    losses that need them; `shift` is the optimizer batch's own number, for those that need one. Of labelled answers, which have
    no negatives, `chosen_B` is each answer's log-prob, `reference_B` the primary reference's, `desirable_B` the label."""

    chosen_B: Tensor
    rejected_BM: Tensor
    reference_chosen_KBM: Tensor
    reference_rejected_KBM: Tensor
    view_weights_KBM: Tensor
    counts_BM: Tensor
    chosen_tokens_B: Tensor
    rejected_tokens_BM: Tensor
    chosen_label_B: Tensor | None = None
    rejected_labels_BM: Tensor | None = None
    shift: float = 0.0
    reference_B: Tensor | None = None
    desirable_B: Tensor | None = None

    @property
    def u_KBM(self) -> Tensor:
        """log pi_theta - log pi_ref of the chosen, beside each negative."""
        return self.chosen_B[None, :, None] - self.reference_chosen_KBM

    @property
    def v_KBM(self) -> Tensor:
        """log pi_theta - log pi_ref of the negatives."""
        return self.rejected_BM[None] - self.reference_rejected_KBM

    @property
    def labels(self) -> tuple[Tensor, Tensor]:
        """Of the chosen [B] and of the negatives [B, M]; what lacks them was refused before the run."""
        assert self.chosen_label_B is not None
        assert self.rejected_labels_BM is not None
        return self.chosen_label_B, self.rejected_labels_BM

    @property
    def labelled(self) -> tuple[Tensor, Tensor]:
        """Of labelled answers: their log-ratios to the primary reference [B], and whether each is desirable [B]."""
        assert self.reference_B is not None
        assert self.desirable_B is not None
        return self.chosen_B - self.reference_B, self.desirable_B

    def over_pairs(self, values_KBM: Tensor) -> Tensor:
        """Values of pairs (chosen, negative), weighted over views, averaged over the drawn negatives: [B]."""
        per_pair = (self.view_weights_KBM * values_KBM).sum(0)
        return (self.counts_BM * per_pair).sum(1) / self.counts_BM.sum(1)
