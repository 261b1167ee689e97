"""`prefdata accuracy`: accuracy and margin of any preference set under any model, with or without a reference."""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from prefdata.recipe.results import BringUp
from prefdata.recipe.units import Part
from prefdata.tables import files
from train import from_file

MODEL, REFERENCE = "model", "reference"
TIE_NATS = 1e-4
"""Margins below this are ties: a log-prob may differ by as much between two batches."""
Facts = dict[str, Any]
Logps = Mapping[str, Mapping[str, Any]]


def of_set(
    data: Mapping[str, Any], model: Mapping[str, Any], reference: Mapping[str, Any] | None, bring_up: BringUp, dtype: str
) -> list[Facts]:
    """One entry a way to compare two answers. data: as a training file's `data`; model, reference: {"model", "revision",
    "template", "end"}. Raises ConfigError and DataError."""
    named = [{"name": MODEL, **model}, *([{"name": REFERENCE, **reference}] if reference else [])]
    with tempfile.TemporaryDirectory() as folder:
        raw = {
            "objective": "dpo",
            "data": dict(data),
            "model": model["model"],
            "revision": model.get("revision"),
            "template": model.get("template"),
            "end": model.get("end"),
            "reference_models": named,
            "score_dtype": dtype,
            "output": f"{folder}/model",
        }
        run = from_file.of_settings(raw, "accuracy")
        from_file.prepare(run, bring_up)
        table = run.results.table(Part("sets", "sets", "preference"), 0)
        return figures(files.read_table(table, "sets"), reference is not None)


def figures(rows: pl.DataFrame, compared: bool) -> list[Facts]:
    """Of the rows of a set with log-probs under `model` (and `reference`): by each way the share of pairs whose chosen answer
    is put first (a tie half) and the mean margin in nats, over prompts, each the mean over its pairs."""
    return [{"by": name, **_of_prompts(rows, value)} for name, value in WAYS.items() if compared or name not in NEED_REFERENCE]


def _of_prompts(rows: pl.DataFrame, value: Callable[[Logps], float]) -> Facts:
    shares, margins = [], []
    for candidates in rows["candidates"].to_list():
        chosen = [value(_logps(c)) for c in candidates if c["role"] == "chosen"]
        rejected = [value(_logps(c)) for c in candidates if c["role"] == "rejected"]
        apart = np.array([chosen[0] - r for r in rejected])
        if len(apart):
            shares.append(float(np.where(np.abs(apart) <= TIE_NATS, 0.5, apart > 0).mean()))
            margins.append(float(apart.mean()))
    return {"prompts": len(shares), "accuracy": _mean_se(shares), "margin": _mean_se(margins)}


def _logps(candidate: Mapping[str, Any]) -> Logps:
    return {x["reference"]: x for x in candidate["logps"]}


def _log_ratio(found: Logps) -> float:
    return float(found[MODEL]["logp"] - found[REFERENCE]["logp"])


WAYS: dict[str, Callable[[Logps], float]] = {
    "log-prob": lambda found: float(found[MODEL]["logp"]),
    "log-prob per token": lambda found: float(found[MODEL]["logp"]) / max(found[MODEL]["num_tokens"], 1),
    "log-ratio to the reference": _log_ratio,
}
"""What an answer is worth, in nats: by the model, by its length, against a reference (DPO's implicit reward without beta)."""
NEED_REFERENCE = ("log-ratio to the reference",)


def _mean_se(values: Sequence[float]) -> tuple[float, float | None] | None:
    if not values:
        return None
    return float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None


def render(found: Sequence[Facts], place: str | Path) -> str:
    """What the command prints."""
    lines = [f"{place}: {found[0]['prompts']} prompts, mean ± standard error over prompts"]
    width = max(len(f["by"]) for f in found)
    lines.append(f"{'by':<{width}}  accuracy       margin (nats)")
    for f in found:
        lines.append(f"{f['by']:<{width}}  {_shown(f['accuracy']):<13}  {_shown(f['margin'])}")
    return "\n".join(lines)


def _shown(value: tuple[float, float | None] | None) -> str:
    if value is None:
        return "n/a"
    return f"{value[0]:.3f}" if value[1] is None else f"{value[0]:.3f} ± {value[1]:.3f}"
