"""What came of the runs, as frames: of each held-out prompt, of each run, of each step."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from prefdata.draws import hash64
from prefdata.models.size import parameters
from prefdata.output import evaluation
from prefdata.recipe import places
from prefdata.recipe.job import Job
from prefdata.recipe.read import validate_recipe
from prefdata.recipe.results import Results
from prefdata.stages.registry import STAGES
from prefdata.tables.atomic import atomic_write

OF_CHOICE = 3
"""One held-out prompt of so many is for choosing learning rates, and is shown in no table."""
FIGURES = ("accuracy", "margin", "loss", "chosen_logp")


def of_choice(prompt_id: str) -> bool:
    """Whether a held-out prompt is for choosing learning rates: a keyed draw, the same for every run."""
    return hash64("paper", "choice", prompt_id) % OF_CHOICE == 0


class Outcomes:
    """The finished runs of some recipes. Frames by recipe and run: `prompts` (prompt_id, greedy, reward, foreign, length, kl),
    `runs`, `curves`."""

    def __init__(self, recipes: Iterable[dict[str, Any]]) -> None:
        prompts, runs, curves = [], [], []
        for recipe in recipes:
            results = Results(validate_recipe(recipe, recipe["name"]), STAGES)
            job = Job(results, "summary")
            known, pairs = evaluation.characters(job), evaluation.held_out_pairs(job)
            facts = {f["run"]: f for f in json.loads(results.path(places.EVALUATION).read_text(encoding="utf-8"))}
            for run in recipe["evaluate"]["runs"]:
                key = {"recipe": recipe["name"], "run": run}
                prompts.append(_keyed(evaluation.outcomes(job, run, known).rename({"exact": "greedy"}), key))
                steps = _steps(results, run)
                ratios = _shown(evaluation.pair_log_ratios(job, run, pairs))
                size = parameters(results.model_path(f"run:{run}"))
                figures = _run(facts[run] | evaluation.of_pairs(ratios["margin"]), steps, ratios)
                runs.append({**key, "parameters": size, **figures})
                curves.append(_keyed(_curve(steps), key))
        self.prompts = pl.concat(prompts)
        self.runs = pl.DataFrame(runs, infer_schema_length=None)
        self.curves = pl.concat(curves)

    def keep(self, folder: Path) -> None:
        """Write them as Parquet into `folder`/outcomes, for plots and questions of one's own."""
        for name, frame in (("prompts", self.prompts), ("runs", self.runs), ("curves", self.curves)):
            atomic_write(folder / "outcomes" / f"{name}.parquet", frame.write_parquet)

    def shown(self) -> pl.DataFrame:
        """The prompts that tables show."""
        return _shown(self.prompts)

    def chosen_rates(self, cells: pl.DataFrame) -> dict[tuple[str, str], float]:
        """(world, row) -> the learning rate with the best mean sampled reward on the prompts of choice; of equal ones the
        least."""
        held = self.prompts.filter(pl.col("prompt_id").map_elements(of_choice, return_dtype=pl.Boolean))
        means = held.group_by("recipe", "run").agg(pl.col("reward").mean())
        ordered = cells.join(means, on=["recipe", "run"]).sort(
            "world", "row", "reward", "rate", descending=[False, False, True, False], nulls_last=True
        )
        best = ordered.unique(["world", "row"], keep="first", maintain_order=True)
        return {(world, row): rate for world, row, rate in best.select("world", "row", "rate").iter_rows()}


def _shown(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows of prompts that are not for choosing."""
    return frame.filter(~pl.col("prompt_id").map_elements(of_choice, return_dtype=pl.Boolean))


def _keyed(frame: pl.DataFrame, key: dict[str, str]) -> pl.DataFrame:
    return frame.select(*(pl.lit(value).alias(name) for name, value in key.items()), pl.all())


def _steps(results: Results, run: str) -> list[dict[str, Any]]:
    """The metrics of each step of a run, of all parts of an online one."""
    parts = [s.model for s in results.settings.parts(run)] or [run]
    paths = [results.path(places.metrics(part)) for part in parts]
    return [json.loads(line) for path in paths for line in Path(path).read_text(encoding="utf-8").splitlines()]


def _run(facts: dict[str, Any], steps: list[dict[str, Any]], ratios: pl.DataFrame) -> dict[str, Any]:
    """Means over steps of what is measured at each; accuracy and margin are of the held-out pairs, and so are chosen_ratio and
    rejected_ratio, mean log-ratios to the primary reference (nats; null where there is no pair)."""

    def mean(name: str) -> float | None:
        known = [s[name] for s in steps if s.get(name) is not None]
        return sum(known) / len(known) if known else None

    return {
        **{name: facts[name] and facts[name][0] for name in ("accuracy", "margin")},
        **{f"{name}_ratio": ratios[name].cast(pl.Float64).mean() for name in ("chosen", "rejected")},
        "steps": len(steps),
        "tokens": sum(s["tokens"] for s in steps),
        "redraw": facts["redraw"],
        **{name: mean(name) for name in ("ess", "draw_shortest", "chosen_logp")},
    }


def _curve(steps: list[dict[str, Any]]) -> pl.DataFrame:
    """Of held-out pairs where the run was evaluated as it trained, else of the batches."""
    of = "eval_" if any("eval_loss" in s for s in steps) else ""
    rows = [[s["step"], *(s.get(of + name) for name in FIGURES)] for s in steps if of + "loss" in s]
    columns = {"step": pl.Int64, **dict.fromkeys(FIGURES, pl.Float64)}
    return pl.DataFrame(rows, schema=columns, orient="row")
