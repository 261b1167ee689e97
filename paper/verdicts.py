"""Does an order that a paper claims hold here? One verdict a claim and world, from runs paired by seeds and prompts.

The effect is the mean of better less worse, paired by (world_seed, seed, prompt): of two runs that share a world seed (data
and start) and a training seed, on the same test prompts. World seeds count alike. The 95 % interval is `bootstrap.interval`.

What an interval of three seeds can tell: that an effect is far outside what these three differ by. Where noise is normal and
between units alone, the plain percentile interval of three units holds the true effect in 0.75 of 2,000 simulated experiments
(standard error .01), widened by sqrt(n / (n - 1)) in 0.80, widened as here in 0.95; of ten units in 0.91, 0.92 and 0.95. Where
noise is between 400 prompts alone, each of them holds it in 0.95 or more.

The price is width: of three units the interval is about two and a half of their standard deviations to each side, so smaller
effects stay undecided, and undecided is no evidence of equality. It cannot tell what noise three seeds did not show (heavy
tails), and with one world seed it is silent about other data and starts. Two units say next to nothing (t with one degree of
freedom). The intervals are of one claim each: of forty true ties about one is expected to look decided.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from paper import bootstrap
from paper.bootstrap import Floats
from paper.claims import OF_PROMPTS, Claim
from prefdata.errors import DataError

HOLDS, FAILS, UNDECIDED, ONE_SEED, NOT_RUN = "holds", "does not hold", "undecided", "undecided (one seed)", "not run"
PAIR = ("world_seed", "seed")
RUN = ("recipe", "run")


@dataclass(frozen=True)
class Verdict:
    """effect, low, high: in the metric's unit (shares, scores; nats for margin and kl); None where nothing was run, and the
    interval where one run without prompts is all there is. runs: pairs of runs; prompts: of all world seeds together."""

    claim: Claim
    world: str
    word: str
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    world_seeds: int = 0
    runs: int = 0
    prompts: int = 0


def verdicts(asked: Sequence[Claim], cells: pl.DataFrame, outcomes: pl.DataFrame, runs: pl.DataFrame) -> list[Verdict]:
    """A verdict a claim and world, in the order of the claims; worlds are those of the claim's table, else of all cells."""
    made = []
    for claim in asked:
        own = cells.filter(pl.col("table") == claim.table)
        for world in (own if own.height else cells)["world"].unique().sort().to_list():
            made.append(verdict(claim, world, cells, outcomes, runs))
    return made


def verdict(claim: Claim, world: str, cells: pl.DataFrame, outcomes: pl.DataFrame, runs: pl.DataFrame) -> Verdict:
    """The claim in one world. Raises DataError where a cell stands twice or paired runs answered other prompts."""
    gaps = differences(claim, world, cells, outcomes, runs)
    if not gaps:
        return Verdict(claim, world, NOT_RUN)
    pairs = sum(len(g) for g in gaps)
    known = pairs > 1 or gaps[0].shape[1] > 1
    low, high = bootstrap.interval(gaps) if known else (None, None)
    prompts = sum(g.shape[1] for g in gaps) if claim.metric in OF_PROMPTS else 0
    return Verdict(claim, world, _word(pairs, low, high), bootstrap.mean(gaps), low, high, len(gaps), pairs, prompts)


def _word(pairs: int, low: float | None, high: float | None) -> str:
    if pairs < 2 or low is None or high is None:
        return ONE_SEED
    return HOLDS if low > 0 else FAILS if high < 0 else UNDECIDED


def differences(claim: Claim, world: str, cells: pl.DataFrame, outcomes: pl.DataFrame, runs: pl.DataFrame) -> list[Floats]:
    """Better less worse: [training seeds, prompts] of each world seed that has a pair; one "prompt" for figures of whole runs.

    Prompts without a value (null) in any run of a world seed are left out of that world seed, and pairs of which a run has no
    value at all. Raises DataError where a cell stands twice or the runs of one world seed answered other prompts.
    """
    values = _values(claim, outcomes, runs)
    here = cells.filter(pl.col("table") == claim.table, pl.col("world") == world)
    evaluated = values.select(RUN).unique()
    better, worse = (_cells(here, row).join(evaluated, on=RUN, how="semi") for row in (claim.better, claim.worse))
    pairs = better.join(worse, on=PAIR, suffix="_worse").sort(PAIR)
    made = []
    for group in pairs.partition_by("world_seed", maintain_order=True):
        one = _matrix(group.select(RUN), values)
        other = _matrix(group.select(pl.col("recipe_worse").alias("recipe"), pl.col("run_worse").alias("run")), values)
        if one[0] != other[0]:
            raise DataError(
                "two runs answered other prompts", f"{claim.name}, {world}", "evaluate both on the same test prompts"
            )
        gap = one[1] - other[1]
        gap = gap[:, ~np.isnan(gap).any(0)]
        if gap.shape[1]:
            made.append(gap)
    return made


def _cells(here: pl.DataFrame, row: str) -> pl.DataFrame:
    """The runs of one row, one a (world_seed, seed)."""
    found = here.filter(pl.col("row") == row).select(*PAIR, *RUN)
    if found.select(PAIR).is_duplicated().any():
        raise DataError("a cell stands twice", row, "give each run of a row its own world_seed and seed")
    return found


def _values(claim: Claim, outcomes: pl.DataFrame, runs: pl.DataFrame) -> pl.DataFrame:
    """recipe, run, prompt_id, value; a figure of a whole run is the value of its only prompt."""
    if claim.metric in OF_PROMPTS:
        return outcomes.select(*RUN, "prompt_id", pl.col(claim.metric).cast(pl.Float64).alias("value"))
    figures = runs.select(*RUN, pl.lit("").alias("prompt_id"), pl.col(claim.metric).cast(pl.Float64).alias("value"))
    return figures.filter(pl.col("value").is_not_null())


def _matrix(wanted: pl.DataFrame, values: pl.DataFrame) -> tuple[list[str], Floats]:
    """The prompts in their order, and the values [runs, prompts] of the runs wanted, NaN where there is none."""
    lines: list[Any] = []
    prompts: list[str] = []
    for recipe, run in wanted.iter_rows():
        own = values.filter(pl.col("recipe") == recipe, pl.col("run") == run).sort("prompt_id")
        if lines and own["prompt_id"].to_list() != prompts:
            raise DataError("two runs of one world seed answered other prompts", f"{recipe}: {run}", "evaluate them alike")
        prompts = own["prompt_id"].to_list()
        lines.append(own["value"].fill_null(float("nan")).to_numpy())
    return prompts, np.stack(lines).astype(np.float64)
