"""Weights of references that training's own earlier steps decide (arXiv 2512.10040): a pure function of the order of the data,
so that a run that is resumed or continued weighs as an unbroken one, and nothing is carried along."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from train.examples import Example
from train.objectives.negatives import NEGATIVES, Draw
from train.objectives.reference_weights import ONLINE_WEIGHTS
from train.settings import TrainingSettings
from train.step import Step


@dataclass(frozen=True)
class OnlineWeights:
    """`logps_N2K`: of each example's own pair (its chosen answer, the set's pair), under each reference; None where the run's
    weights are no online ones, and steps stay as they are."""

    logps_N2K: Tensor | None
    seed: int

    @classmethod
    def of(cls, data: Sequence[Example], settings: TrainingSettings, seed: int) -> "OnlineWeights":
        """Of the examples that a run trains on."""
        if settings.references.weights not in ONLINE_WEIGHTS:
            return cls(None, seed)
        return cls(torch.tensor([_pair(e) for e in data], dtype=torch.float64), seed)

    def at(self, step_of: Step, step: int, earlier: Iterable[int]) -> Step:
        """The step with the weights that the pairs of `earlier` examples give, the latest first (Plan.earlier: none of the
        step's own batch, so that no label is in its own weight)."""
        if self.logps_N2K is None:
            return step_of
        section = step_of.settings.references
        way = ONLINE_WEIGHTS[section.weights]
        seen = list(islice(earlier, section.window if way.windowed else None))
        chosen_KV, rejected_KV = self.logps_N2K[torch.tensor(seen, dtype=torch.int64)].permute(1, 2, 0)
        return _with(step_of, way.weigh(chosen_KV, rejected_KV, (self.seed, step)))

    def evaluated(self, step_of: Step) -> Step:
        """The step with weights that stay the same over the run, so that evaluations can be compared: of all pairs."""
        if self.logps_N2K is None:
            return step_of
        way = ONLINE_WEIGHTS[step_of.settings.references.weights]
        chosen_KN, rejected_KN = self.logps_N2K.permute(1, 2, 0)
        return _with(step_of, way.settled(chosen_KN, rejected_KN))

    def shown(self, step_of: Step) -> dict[str, Any]:
        """For the metrics: alpha_0 is the primary reference's."""
        alpha = step_of.settings.references.alpha if self.logps_N2K is not None else None
        return {f"alpha_{k}": a for k, a in enumerate(alpha or [])}


def _pair(example: Example) -> list[list[float]]:
    (place,), _ = NEGATIVES["fixed"].select(None, example.candidate_ids[1:], Draw(None, 0))
    return [[row[0] for row in example.logps], [row[place + 1] for row in example.logps]]


def _with(step_of: Step, alpha_K: Tensor) -> Step:
    section = step_of.settings.references.model_copy(update={"alpha": alpha_K.tolist()})
    return replace(step_of, settings=step_of.settings.model_copy(update={"references": section}))
