"""Which training runs make which rows of the papers' tables: config/paper/cells.yaml, cut to what a size asks for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from prefdata.errors import ConfigError, did_you_mean
from prefdata.recipe.read import read_yaml

CONFIG = Path(__file__).parents[1] / "config" / "paper"
Row = dict[str, Any]
Rates = Mapping[tuple[str, str], float]
"""(world, row of `main`) -> the chosen learning rate."""
OF_ROWS = ("objective", "grid", "rate_of", "same", "online")
"""Keys of a row that are no settings of its run."""


@dataclass(frozen=True)
class Size:
    """What is run of all that the cells describe. `worlds`: their seeds, of data and policy; `seeds`: of training; `tables`:
    rows of each table, None for all; `world`: what its worlds have otherwise. Rows run in the first world of each name; those
    of `main` that `more_seeds` names in all of them, in the first with these seeds. `gradient_prompts`: whose gradients are
    compared. `report`: its own folder for it, where sizes of one name share their runs."""

    name: str
    worlds: dict[str, list[int]]
    seeds: list[int]
    rates: list[float]
    tables: dict[str, list[str] | None]
    more_seeds: dict[str, list[int]] = field(default_factory=dict)
    world: dict[str, Any] = field(default_factory=dict)
    gradient_prompts: int = 128
    report: str = ""

    @property
    def folder(self) -> Path:
        """Where its report goes."""
        return Path("results") / self.name / self.report

    @classmethod
    def read(cls, name: str) -> "Size":
        """Of config/paper/<name>.yaml. Raises ConfigError."""
        known = {p.stem for p in CONFIG.glob("*.yaml")} - {"cells", "claims", "exact", "imperfect"}
        if name not in known:
            raise ConfigError(f"no size {name!r}{did_you_mean(name, known)}", "python -m paper")
        raw = read_yaml(CONFIG / f"{name}.yaml")
        tables = {table: None if rows == "all" else rows for table, rows in raw.pop("tables").items()}
        return cls(tables=tables, **raw)


@dataclass(frozen=True)
class Variant:
    """What a world's recipe has otherwise: ranks of the writers that are `pruned`; its references, the primary one first, how
    many prompts, and the model that its runs start from. `label`: what rows say of it."""

    label: str = ""
    pruned: tuple[int, ...] | None = None
    references: tuple[str, ...] = ()
    prompts: int | None = None
    start: str = "policy"

    @property
    def name(self) -> str:
        """Part of the recipe's name."""
        same = self.pruned is None and not self.references
        return "main" if same or self.pruned == (2,) else self.label.replace(", ", "-").replace(" ", "-")


@dataclass(frozen=True)
class Cell:
    """One training run of one row. `source`: the table and row that it is named after, another one's where it is shown twice;
    `settings`: its own keys; `online`: its number of segments (0: none)."""

    table: str
    row: str
    source: tuple[str, str]
    world: str
    world_seed: int
    seed: int
    rate: float
    objective: str
    settings: Row
    online: int
    variant: Variant

    @property
    def run(self) -> str:
        """Its name under train.runs."""
        slug = "".join(c if c.isalnum() else "-" for c in " ".join(self.source).lower())
        rate = f"{self.rate:.10f}".rstrip("0").replace(".", "_")
        return f"{self.objective}/{'-'.join(filter(None, slug.split('-')))}-lr{rate}-s{self.seed}"

    def recipe(self, size: Size) -> str:
        """The name of the recipe that it is a run of."""
        return f"{size.name}-{self.world}-{self.variant.name}-{self.world_seed}"


def cells(size: Size, rates: Rates | None = None) -> list[Cell]:
    """Every run of a size, once for each row that shows it. Without `rates`: the runs that rates are chosen by."""
    spec = read_yaml(CONFIG / "cells.yaml")
    return [
        cell
        for table, own in spec["tables"].items()
        if rates is not None or own.get("grid")
        for world in own["worlds"]
        if world in size.worlds
        for variant in _variants(own)
        for row in _wanted(size, table, own["rows"])
        for cell in _of_row(size, spec, table, row, world, variant, rates)
    ]


def _wanted(size: Size, table: str, rows: Mapping[str, Row]) -> list[str]:
    if table not in size.tables:
        return []
    asked = size.tables[table]
    if unknown := [r for r in asked or () if r not in rows]:
        raise ConfigError(f"table {table} has no row {unknown[0]!r}{did_you_mean(unknown[0], rows)}", size.name)
    return list(rows) if asked is None else asked


def _variants(table: Mapping[str, Any]) -> list[Variant]:
    if "pruned" in table:
        return [Variant(f"{left} left", pruned=tuple(ranks)) for left, ranks in table["pruned"].items()]
    if "orders" not in table:
        return [Variant()]
    start = table.get("start", "policy")
    return [
        Variant(f"order {order}, {some}", None, tuple(order.split("-")), prompts, start)
        for order in table["orders"]
        for some, prompts in table["data"].items()
    ]


def _of_row(
    size: Size, spec: Mapping[str, Any], table: str, row: str, world: str, variant: Variant, rates: Rates | None
) -> Iterator[Cell]:
    own = spec["tables"][table]
    given, source = own["rows"][row], (table, row)
    if "same" in given:
        source = ("main", given["same"])
        given = spec["tables"]["main"]["rows"][source[1]]
    settings = {**spec["common"], **own.get("common", {}), "loss": spec["loss"], **given}
    settings = {k: v for k, v in settings.items() if k not in OF_ROWS and v != {}}
    shown = ", ".join(filter(None, (row, variant.label)))
    for world_seed, seed, rate in _seeds(size, world, source, given.get("rate_of", source[1]), rates):
        online = given.get("online", 0)
        yield Cell(table, shown, source, world, world_seed, seed, rate, given["objective"], settings, online, variant)


def _seeds(
    size: Size, world: str, source: tuple[str, str], rate_of: str, rates: Rates | None
) -> Iterator[tuple[int, int, float]]:
    """(world seed, training seed, learning rate): of the grid one seed with every rate, of the tables the chosen rate."""
    first, *others = size.worlds[world]
    if rates is None:
        yield from ((first, size.seeds[0], rate) for rate in size.rates)
        return
    if (world, rate_of) not in rates:
        raise ConfigError(f"row {source[1]} takes the rate of {rate_of}, which this size has not: add it to main", size.name)
    more = size.more_seeds.get(source[1]) if source[0] == "main" else None
    yield from ((first, seed, rates[world, rate_of]) for seed in more or size.seeds)
    if more:
        yield from ((other, seed, rates[world, rate_of]) for other in others for seed in size.seeds)


def of_the_grid(grid: list[Cell]) -> list[Cell]:
    """The runs that rates are chosen by, as rows of a table of their own, `rates`."""
    return [replace(c, table="rates", row=f"{c.row}, rate {c.rate:g}") for c in grid]


def frame(size: Size, made: list[Cell]) -> pl.DataFrame:
    """The cells as a frame: table, row, world, world_seed, seed, recipe, run, rate."""
    rows = [(c.table, c.row, c.world, c.world_seed, c.seed, c.recipe(size), c.run, c.rate) for c in made]
    columns = ["table", "row", "world", "world_seed", "seed", "recipe", "run", "rate"]
    return pl.DataFrame(rows, schema=columns, orient="row")
