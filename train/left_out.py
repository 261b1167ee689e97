"""Rows that a run does not train on, and why: one line on the terminal, the same on the model's card."""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import polars as pl

from prefdata.errors import DataError
from prefdata.recipe.results import Results
from prefdata.recipe.units import Part, reference_unit
from prefdata.tables import files
from prefdata.tables.drops import reason_of

EARLY = (("sources", "all"), ("decontaminate", "all"))
"""Stages that drop a row or a prompt before the set is made, with their unit."""


@dataclass
class LeftOut:
    """How many of `rows` rows are left out, by reason."""

    rows: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    """What the first drop of a reason says."""

    def take(self, other: "LeftOut") -> None:
        """Become what another one says."""
        self.rows, self.reasons, self.examples = other.rows, other.reasons, other.examples

    def __str__(self) -> str:
        reasons = ", ".join(f"{reason} {n}" for reason, n in self.reasons.most_common())
        return f"{self.reasons.total()} of {self.rows} rows left out: {reasons}" if self.reasons else "none"

    def say(self, who: str = "train") -> None:
        """Print the line, where there is anything to say."""
        if self.reasons:
            print(f"{who}: {self}", file=sys.stderr)

    def require_few_bad(self, limit: float, key: str) -> None:
        """Raise DataError where bad input is a larger share than `limit`, the value of the setting `key`."""
        bad = {reason: n for reason, n in self.reasons.items() if reason_of(reason).bad}
        if sum(bad.values()) > limit * self.rows:
            raise DataError(
                f"{self}, more bad input than {limit:.2%}{self._told(bad)}", "data", f"mend the rows, or raise {key}"
            )

    def require_some(self, where: str) -> None:
        """Raise DataError where no row is left."""
        if self.rows and self.reasons.total() >= self.rows:
            remedies = "; ".join(reason_of(reason).remedy for reason in self.reasons)
            raise DataError(f"no row to train on, {self}{self._told(self.reasons)}", where, remedies)

    def _told(self, reasons: Iterable[str]) -> str:
        """What is behind the reasons: their meaning, and what the first drop says."""
        texts = [f"{reason_of(r).meaning}" + (f": {self.examples[r]}" if r in self.examples else "") for r in reasons]
        return f" ({'; '.join(texts)})"


def of_preparation(results: Results, unit: str) -> LeftOut:
    """What the stages before training left out of the set `unit`. A prompt without its pair is counted under what took the
    pair."""
    left = LeftOut()
    answers: dict[str, str] = {}
    for shard in results.shards:
        left.rows += files.read_table(results.table(Part("prompts", "sources"), shard), "prompts").height
        parts = [*(Part("drops", *early) for early in EARLY), *_scoring(results), Part("drops", "sets", unit)]
        for part in parts:
            for scope, prompt, reason, detail in _drops(results, part, shard):
                if scope == "candidate":
                    answers.setdefault(prompt, reason)
                    left.examples.setdefault(reason, detail or "")
                    continue
                cause = answers.get(prompt, reason) if part.stage == "sets" else reason
                left.reasons[cause] += 1
                left.examples.setdefault(cause, detail or "")
                left.rows += part.stage == "sources"  # it made no prompt
    return left


def _scoring(results: Results) -> list[Part]:
    return [Part("drops", "score", reference_unit(r)) for r in results.settings.score.references]


def _drops(results: Results, part: Part, shard: int) -> Sequence[tuple[str, str, str, str | None]]:
    """(scope, prompt_id, reason without what it is about, detail) of a table of drops, none where it was not made."""
    path = results.table(part, shard)
    if not path.exists():
        return []
    base = pl.col("reason").str.split(":").list.first()
    return files.read_table(path, "drops").select("scope", "prompt_id", base, "detail").rows()
