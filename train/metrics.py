"""Metrics as sums with counts, so that splitting a batch never changes them."""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Metrics:
    """{name: (sum, count)}; a name nobody counted is n/a (None), not 0."""

    sums: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, name: str, total: float, count: float) -> None:
        old = self.sums.get(name, (0.0, 0.0))
        self.sums[name] = (old[0] + total, old[1] + count)

    def means(self) -> dict[str, float | None]:
        return {name: total / count if count else None for name, (total, count) in sorted(self.sums.items())}

    def shown(self) -> dict[str, float | None]:
        """`means`; of labelled answers also `margin`, the mean reward of desirable ones less that of undesirable ones."""
        means = self.means()
        if "reward_desirable" not in means:
            return means
        good, bad = means["reward_desirable"], means["reward_undesirable"]
        return {**means, "margin": None if good is None or bad is None else good - bad}


def merged(several: Iterable[Metrics]) -> Metrics:
    """The metrics of all of them together."""
    made = Metrics()
    for metrics in several:
        for name, (total, count) in metrics.sums.items():
            made.add(name, total, count)
    return made
