"""Which rows each step of a run takes, and at what learning rate; of a part of a longer run too."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prefdata.errors import ConfigError
from train.examples import Order
from train.settings import TrainingSettings


@dataclass(frozen=True)
class Plan:
    """Which steps a run takes: from `first` to before `last`, on a schedule of `total`. Its order began at the step `origin`,
    after `visits` epochs over these or other data."""

    settings: TrainingSettings
    order: Order
    first: int
    last: int
    total: int
    origin: int
    visits: int

    @classmethod
    def of(cls, settings: TrainingSettings, order: Order, before: Mapping[str, Any], whole: int | None = None) -> "Plan":
        """`before`: the state that the run starts with (checkpoint.continued); `whole`: steps of all parts, where it is a part.

        A run that continues another one on the same data goes on in its order; on other data it begins a new one. Raises
        ConfigError where a part has no step or is not the next one.
        """
        first: int = before["step"]
        same = before.get("order") == order.identity
        origin, visits = (before["origin"], before["visits"]) if same else (first, before.get("epochs", 0))
        if settings.part is None or whole is None:
            last = first + (settings.steps or (settings.epochs or 1) * order.steps_per_epoch)
            return cls(settings, order, first, last, last, origin, visits)
        begins, last = settings.part.ends(whole)
        if before.get("whole", whole) != whole:
            raise ConfigError(
                f"part {settings.part.number} is of {whole} steps in all, what it continues from of {before['whole']}",
                "train.runs: part",
                "train the part before it again",
            )
        if whole < settings.part.of:
            raise ConfigError(
                f"{settings.part.of} parts of {whole} steps",
                "train.runs",
                "take fewer segments, more epochs or smaller batches",
            )
        if begins != first:
            raise ConfigError(
                f"part {settings.part.number} begins at step {begins}, what it continues from ended at {first}",
                "train.runs: part",
                "train the part before it again",
            )
        return cls(settings, order, first, last, whole, origin, visits)

    @property
    def rows(self) -> int:
        """Rows that its steps go through, of one or several visits."""
        return sum(len(self.order.members(s - self.origin, self.visits)) for s in range(self.first, self.last))

    def members(self, step: int) -> list[int]:
        return self.order.members(step - self.origin, self.visits)

    def earlier(self, step: int) -> Iterator[int]:
        """Indices of the examples of the order's earlier steps, the latest first, each once; none of the step's own batch."""
        known = set(self.members(step))
        for before in range(step - 1, self.origin - 1, -1):
            if len(known) == len(self.order.ids):
                return
            fresh = [i for i in reversed(self.members(before)) if i not in known]
            known |= set(fresh)
            yield from fresh

    def epoch(self, step: int) -> int:
        return self.visits + self.order.epoch(step - self.origin)

    def state(self) -> dict[str, Any]:
        """What a run that continues from this one needs to know of its order."""
        kept: dict[str, Any] = {"order": self.order.identity, "origin": self.origin, "visits": self.visits}
        if self.settings.part is not None:
            kept["whole"] = self.total
        return {**kept, "epochs": self.epoch(self.last - 1) + 1}

    def learning_rate(self, step: int) -> float:
        """The rate of a step (0-based): linear warm-up, then linear, cosine or constant to the end."""
        knobs, steps = self.settings.optimizer, self.total
        warmup = max(knobs.warmup_steps, math.ceil(knobs.warmup_share * steps))
        if step < warmup:
            return knobs.learning_rate * (step + 1) / warmup
        done = (step - warmup) / max(steps - warmup, 1)
        share = {"linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done)), "constant": 1.0}[knobs.schedule]
        return knobs.learning_rate * share
