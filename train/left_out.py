"""Rows that a run does not train on, and why: one line on the terminal, the same on the model's card."""

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import polars as pl

from prefdata.errors import DataError
from prefdata.recipe.results import Results
from prefdata.recipe.units import Part, reference_unit
from prefdata.sources import readers
from prefdata.sources.settings import SourceSettings
from prefdata.tables import files
from prefdata.tables.drops import reason_of
from train.settings import UNPAIRED

LOST = ("need_2", "chosen_dropped")
"""Reasons of the set behind which stands what dropped an answer."""


class Drop(NamedTuple):
    """A row of `drops`, its reason without what it is about."""

    prompt: str | None
    candidate: str | None
    reason: str
    row: str | None
    detail: str | None


@dataclass
class LeftOut:
    """How many of `rows` rows are left out, by reason."""

    rows: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    answers: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    """Rows and answers that are bad input, of `rows` and `answers`, by reason."""
    examples: dict[str, Drop] = field(default_factory=dict)
    """The first drop of each reason."""

    def __str__(self) -> str:
        reasons = ", ".join(f"{reason} {n}" for reason, n in self.reasons.most_common())
        return f"{self.reasons.total()} of {self.rows} rows left out: {reasons}" if self.reasons else "none"

    def say(self, who: str = "train") -> None:
        """Print the line, where there is anything to say."""
        if self.reasons:
            print(f"{who}: {self}", file=sys.stderr)

    def require_few_bad(self, limit: float, source: SourceSettings) -> None:
        """Raise DataError where bad input is a larger share of rows and answers than `limit`, as in a recipe."""
        total = self.rows + self.answers
        if self.bad.total() > limit * total:
            reasons = ", ".join(f"{reason} {n}" for reason, n in self.bad.most_common())
            what = f"{self.bad.total()} of {total} rows and answers are bad, more than {limit:.2%}: {reasons}"
            raise DataError(
                f"{what}{self._told(self.bad)}",
                self._place(self.bad, source),
                "mend the rows, or raise data.max_reject_rate",
            )

    def _place(self, reasons: Iterable[str], source: SourceSettings) -> str:
        """file:row of the first row with one of the reasons."""
        rows = [self.examples[r].row for r in reasons if r in self.examples]
        found = readers.place_of(rows[0], source) if rows and rows[0] else None
        return found or "data"

    def require_some(self, where: str) -> None:
        """Raise DataError where no row is left."""
        if self.rows and self.reasons.total() >= self.rows:
            remedies = "; ".join(reason_of(reason).remedy for reason in self.reasons)
            raise DataError(f"no row to train on, {self}{self._told(self.reasons)}", where, remedies)

    def _told(self, reasons: Iterable[str]) -> str:
        """What is behind the reasons: their meaning, and what the first drop says."""
        said = {r: (self.examples[r].detail or "") if r in self.examples else "" for r in reasons}
        texts = [f"{reason_of(r).meaning}{': ' if text else ''}{text}" for r, text in said.items()]
        return f" ({'; '.join(texts)})"


def of_preparation(results: Results, unit: str) -> LeftOut:
    """What the stages before training left out of the set `unit`. A prompt without its pair is counted under what took the
    pair; of labelled answers, each is a row."""
    if unit == UNPAIRED:
        return _of_labelled(results)
    left = LeftOut()
    for shard in results.shards:
        prompts = set(files.read_table(results.table(Part("prompts", "sources"), shard), "prompts")["prompt_id"])
        early = [d for part in [Part("drops", "sources"), *_scoring(results)] for d in _drops(results, part, shard)]
        of_rows = {(d.prompt, d.row): d for d in reversed(early) if d.candidate is None and d.prompt not in prompts}
        of_answers = {d.prompt: d for d in reversed(early) if d.candidate is not None or d.prompt in prompts}
        left.rows += len(prompts) + len(of_rows)  # a row that was dropped made no prompt
        left.answers += files.read_table(results.table(Part("candidates", "sources"), shard), "candidates").height
        lost = _drops(results, Part("drops", "sets", unit), shard)
        for drop in [*of_rows.values(), *(of_answers.get(d.prompt, d) if d.reason in LOST else d for d in lost)]:
            left.reasons[drop.reason] += 1
            left.examples.setdefault(drop.reason, drop)
        # an answer is bad once, under however many references
        once = {(d.prompt, d.candidate): d for d in reversed(early) if d.candidate is not None}
        for drop in [*(d for d in early if d.candidate is None), *once.values()]:
            if reason_of(drop.reason).bad:
                left.bad[drop.reason] += 1
                left.examples.setdefault(drop.reason, drop)
    return left


def _of_labelled(results: Results) -> LeftOut:
    """`of_preparation` of the set `unpaired`: a row of the source is an answer, or was dropped as a row."""
    left = LeftOut()
    for shard in results.shards:
        parts = [Part("drops", "sources"), *_scoring(results), Part("drops", "sets", UNPAIRED)]
        # a prompt without any answer is none: its answers are counted, each under what dropped it
        drops = [d for part in parts for d in _drops(results, part, shard) if d.reason != "unlabelled"]
        once = {d.candidate or d.row: d for d in reversed(drops)}
        answers = files.read_table(results.table(Part("candidates", "sources"), shard), "candidates").height
        left.rows += answers + sum(d.candidate is None for d in once.values())
        left.answers += answers
        for drop in once.values():
            left.reasons[drop.reason] += 1
            left.examples.setdefault(drop.reason, drop)
            if reason_of(drop.reason).bad:
                left.bad[drop.reason] += 1
    return left


def _scoring(results: Results) -> list[Part]:
    return [Part("drops", "score", reference_unit(r)) for r in results.settings.score.references]


def _drops(results: Results, part: Part, shard: int) -> list[Drop]:
    """The rows of a table of drops."""
    path = results.table(part, shard)
    if not path.exists():
        return []
    base = pl.col("reason").str.split(":").list.first()
    frame = files.read_table(path, "drops").select("prompt_id", "candidate_id", base, "source_row", "detail")
    return [Drop(*row) for row in frame.iter_rows()]
