"""One table for each table and figure of the papers and world: rows of methods, means over runs and their spread."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from paper import published
from prefdata.output.escape import markdown

TITLES = {
    "main": ("Objectives (MC-PO Table 1)", "Rate: the learning rate of the row's runs."),
    "rates": (
        "Every learning rate of the grid",
        "One run each; the rate with the best sampled reward on the prompts of choice was taken. "
        "Chosen and rejected: how far the log-prob of each answer of the held-out pairs moved from the primary reference, in "
        "nats. Length: characters of the samples.",
    ),
    "noise": ("Swap noise in the pool (MC-PO Table 2)", "DPO(-): the answer with two tokens swapped is the negative."),
    "negatives": ("Negatives of each prompt (MC-PO Table 3)", "RNCE draws its M negatives at random, MC-PO by the kernel."),
    "epochs": ("Epochs (MC-PO Table 4)", ""),
    "quality": ("Samplers by the quality of the candidates (MC-PO Figure 2)", "The best negatives are left out first."),
    "kernel": (
        "Readings of the kernel",
        "ESS: effective sample size of its weights; shortest: share of draws that are the shortest candidate.",
    ),
    "augmented": (
        "DPO with every rejected answer, and what it costs",
        "Tokens: of the prompts and all candidates of all steps. Of these DPO runs the prompts and pairs alone, augmented DPO "
        "all with a gradient, MC-PO all without one and then the pairs with one.",
    ),
    "online": ("Online runs", "Each segment trains on answers of the checkpoint it starts from."),
    "references": ("Several references (MRPO Figures 1 to 4)", "Accuracy and margin are under the primary reference."),
    "distillation": (
        "Distillation (MRPO)",
        "The policy is a small model, and the primary reference; the others are two larger ones, one of another tokenizer.",
    ),
}
"""Tables in the order they are shown, with a heading and what else must be said; others follow by name."""
COLUMNS = {
    "greedy": ("greedy exact", 3),
    "reward": ("sampled reward", 3),
    "foreign": ("foreign", 3),
    "accuracy": ("accuracy", 3),
    "margin": ("margin", 2),
    "kl": ("KL", 2),
}
"""Figure: its heading and decimals."""
NATS = ("margin", "kl", "chosen_ratio", "rejected_ratio")
MOVES = {"chosen_ratio": ("chosen", 2), "rejected_ratio": ("rejected", 2), "length": ("length", 2)}
EXTRA = {
    "rates": MOVES,
    "epochs": MOVES,
    "kernel": {"ess": ("ESS", 2), "draw_shortest": ("shortest", 3)},
    "augmented": {"tokens": ("tokens", 0)},
}
"""Columns that one table alone has."""
KEY = ("table", "row", "world", "world_seed", "seed")


@dataclass(frozen=True)
class Table:
    """name: the papers' table; rows: texts, one a column of the head."""

    name: str
    world: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def measured(cells: pl.DataFrame, outcomes: pl.DataFrame, runs: pl.DataFrame) -> pl.DataFrame:
    """A row a cell: its columns, the run's figures, and the means over its test prompts (null: none is known)."""
    figures = [pl.col(name).mean() for name in ("greedy", "reward", "foreign", "length", "kl")]
    means = outcomes.group_by("recipe", "run").agg(figures)
    return cells.join(means, on=["recipe", "run"], how="left", maintain_order="left").join(
        runs, on=["recipe", "run"], how="left", maintain_order="left"
    )


def in_order(names: Sequence[str]) -> list[str]:
    """Names of tables, those of the papers first."""
    known = list(TITLES)
    return sorted(set(names), key=lambda n: (known.index(n) if n in TITLES else len(known), n))


def tables(cells: pl.DataFrame, outcomes: pl.DataFrame, runs: pl.DataFrame) -> list[Table]:
    """The tables that have cells, each once a world; rows as they first come in the cells."""
    found = measured(cells, outcomes, runs)
    made = []
    for name in in_order(found["table"].to_list()):
        own = found.filter(pl.col("table") == name)
        made += [_table(name, world, own.filter(pl.col("world") == world)) for world in own["world"].unique().sort()]
    return made


def _table(name: str, world: str, found: pl.DataFrame) -> Table:
    columns = {k: v for k, v in {**COLUMNS, **EXTRA.get(name, {})}.items() if found[k].drop_nulls().len()}
    printed = published.PUBLISHED.get(name, {}) if world == published.WORLD else {}
    printed = {row: rates for row, rates in printed.items() if row in set(found["row"])}
    head = ["row", *(["rate"] if name == "main" else []), "runs", *(title for title, _ in columns.values())]
    head += [*(["redraw"] if found["redraw"].drop_nulls().len() else []), *(["published"] if printed else [])]
    rows = []
    for row in found["row"].unique(maintain_order=True):
        own = found.filter(pl.col("row") == row)
        texts = {"row": row, "rate": each(own["rate"], ".2g"), "runs": _runs(own), "redraw": each(own["redraw"], "")}
        texts |= {title: spread(own[key], digits) for key, (title, digits) in columns.items()}
        texts["published"] = published.shown(printed.get(row))
        rows.append(tuple(texts[title] for title in head))
    return Table(name, world, tuple(head), tuple(rows))


def _runs(own: pl.DataFrame) -> str:
    """How many runs, and of how many world seeds where there are several."""
    worlds = own["world_seed"].n_unique()
    return f"{own.height} in {worlds}" if worlds > 1 else str(own.height)


def each(values: pl.Series, form: str) -> str:
    """The different values of a row's runs."""
    different: list[Any] = values.drop_nulls().unique().sort().to_list()
    return ", ".join(format(value, form) for value in different) or "n/a"


def spread(values: pl.Series, digits: int) -> str:
    """Mean ± standard deviation over runs (divisor n - 1); of one run its value alone."""
    known = values.drop_nulls().cast(pl.Float64).to_list()
    if not known:
        return "n/a"
    text = f"{statistics.fmean(known):,.{digits}f}"
    return text if len(known) < 2 else f"{text} ± {statistics.stdev(known):,.{digits}f}"


def as_markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, texts escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(t if t == "---" else markdown(t) for t in line) + " |\n" for line in lines)
