"""The orders that the papers claim, from config/paper/claims.yaml, fixed before any run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from prefdata.errors import ConfigError

CLAIMS = Path(__file__).parents[1] / "config" / "paper" / "claims.yaml"
Metric = Literal["greedy", "reward", "foreign", "kl", "accuracy", "margin"]
OF_PROMPTS: tuple[Metric, ...] = ("greedy", "reward", "foreign", "kl")
"""Metrics that each test prompt has; the others are figures of a whole run."""


@dataclass(frozen=True)
class Claim:
    """Row `better` of a table has more of the metric than row `worse`. `claimed`: a paper says so; else it is asked here."""

    name: str
    source: str
    table: str
    better: str
    worse: str
    metric: Metric
    claimed: bool = True


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    table: str
    metrics: list[Metric] = Field(min_length=1)
    claimed: bool = True
    under: list[str] = Field([""], min_length=1)
    orders: list[tuple[str, str]] = Field(min_length=1)


def claims(path: Path = CLAIMS) -> list[Claim]:
    """Every claim of the file, in its order: each order under each condition, on each metric.

    Raises ConfigError where the file is not what it must be, or says the same twice.
    """
    try:
        groups = TypeAdapter(list[_Group]).validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (ValidationError, yaml.YAMLError) as error:
        raise ConfigError(str(error).splitlines(), str(path), "write it as the claims that are there") from None
    made = [
        Claim(
            f"{better} over {worse}" + (f", {under}" if under else ""),
            group.source,
            group.table,
            _row(better, under),
            _row(worse, under),
            metric,
            group.claimed,
        )
        for group in groups
        for under in group.under
        for better, worse in group.orders
        for metric in group.metrics
    ]
    if len({(c.source, c.table, c.better, c.worse, c.metric) for c in made}) < len(made):
        raise ConfigError("a claim stands twice", str(path), "leave one out")
    return made


def _row(name: str, under: str) -> str:
    return f"{name}, {under}" if under else name


def without_rows(asked: list[Claim], cells: pl.DataFrame) -> list[str]:
    """The rows ("table: row") that claims name and no cell has: left out of this size, or misspelt."""
    there = set(cells.select("table", "row").iter_rows())
    return sorted({f"{c.table}: {row}" for c in asked for row in (c.better, c.worse) if (c.table, row) not in there})
