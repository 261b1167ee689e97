"""Invented results of a paper run: every table, two worlds, methods of known quality."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

MAIN = ("SFT", "SFT on the chosen", "DPO", "RPO", "EXO", "SimPO", "CPO", "BCO", "KTO", "APO", "SPPO", "NCA", "MC-PO", "OnMC-PO")
CONDITIONS = [f"order {o}, {d}" for o in ("policy-larger", "larger-policy") for d in ("scarce", "abundant")]
METHODS = ("DPO", "Multi-DPO", "MRPO", "MRPO fixed eps", "MRPO fixed alpha", "MRPO validation accuracy")
ROWS: dict[str, list[str]] = {
    "main": list(MAIN),
    "rates": [f"{n}, rate {r}" for n in ("DPO", "MC-PO") for r in ("0.0003", "0.001")],
    "noise": ["DPO(-)", "DPO", "MC-PO"],
    "negatives": [f"{n} M = {m}" for n in ("RNCE", "MC-PO") for m in (1, 2, 3)],
    "epochs": [f"{n}, {e} epoch{'s' if e > 1 else ''}" for n in ("DPO", "MC-PO") for e in (1, 2, 3)],
    "quality": [f"{s}, {n} left" for s in ("kernel", "max", "min", "random") for n in (5, 4, 3, 2, 1)],
    "kernel": ["ratio", "policy", "policy_per_token", "T = 2", "include_chosen"],
    "augmented": ["DPO", "augmented DPO", "MC-PO"],
    "online": ["online DPO", "OnMC-PO"],
    "references": [f"{m}, {c}" for c in CONDITIONS for m in METHODS],
    "distillation": ["DPO", "distilled"],
}
SIZES = (25_100_000, 331_000)
"""Parameters."""


class Frames(NamedTuple):
    cells: pl.DataFrame
    outcomes: pl.DataFrame
    runs: pl.DataFrame
    curves: pl.DataFrame


def frames(
    world_seeds: Sequence[int] = (1, 2, 3),
    seeds: Sequence[int] = (1,),
    prompts: int = 60,
    rows: dict[str, list[str]] = ROWS,
    worlds: Sequence[str] = ("exact", "imperfect"),
) -> Frames:
    """Row i of a table is .02 i better than its first."""
    rng, cells, outcomes, runs, curves = np.random.default_rng(7), [], [], [], []
    for world in worlds:
        for world_seed in world_seeds:
            hard = rng.normal(0, 0.15, prompts)
            for table, names in rows.items():
                for place, row in enumerate(names):
                    for seed in seeds:
                        recipe, run = f"{world}-{world_seed}", f"{table}/{place}-{seed}"
                        own = rng.normal(0, 0.008)
                        level = 0.45 + 0.02 * (place % 14) + own
                        cells.append((table, row, world, world_seed, seed, recipe, run, 3e-4 if place % 2 else 1e-3))
                        score = np.clip(level + hard + rng.normal(0, 0.05, prompts), 0, 1)
                        exact = (score + rng.normal(0, 0.1, prompts) > 0.6).astype(float)
                        kl = 2 + 0.6 * place + rng.normal(0, 0.3, prompts)
                        ids = [f"{world}{world_seed}-{p:04}" for p in range(prompts)]
                        outcomes += zip(
                            [recipe] * prompts,
                            [run] * prompts,
                            ids,
                            exact,
                            score,
                            [0.02] * prompts,
                            [9.0] * prompts,
                            kl,
                            strict=True,
                        )
                        known = table == "kernel"
                        drawn = "never" if row.startswith("DPO") else "epoch"
                        figures = (0.8 + own, 3 + place / 4, -1 - own, -4 - place / 4, 150, 100_000 * (place + 1))
                        kernel = (3.2, 0.3) if known else (None, None)
                        runs.append((recipe, run, SIZES[place % 2], *figures, drawn, *kernel, -5.0))
                        for step in range(0, 151, 30):
                            grown = 1 - np.exp(-step / 60)
                            curves.append((recipe, run, step, 0.5 + (0.3 + own) * grown, (2 + place / 4) * grown, 0.69, None))
    return Frames(
        _frame(cells, "table row world world_seed:i seed:i recipe run rate:f"),
        _frame(outcomes, "recipe run prompt_id greedy:f reward:f foreign:f length:f kl:f"),
        _frame(
            runs,
            "recipe run parameters:f accuracy:f margin:f chosen_ratio:f rejected_ratio:f steps:i tokens:i redraw ess:f draw_shortest:f chosen_logp:f",
        ),
        _frame(curves, "recipe run step:i accuracy:f margin:f loss:f chosen_logp:f"),
    )


def _frame(rows: list[tuple[object, ...]], columns: str) -> pl.DataFrame:
    kinds = {"i": pl.Int64, "f": pl.Float64, "": pl.String}
    named = [c.partition(":") for c in columns.split()]
    return pl.DataFrame(rows, schema={name: kinds[kind] for name, _, kind in named}, orient="row")
