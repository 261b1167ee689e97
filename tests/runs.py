"""A recipe in a folder of its own, run by the real snakemake."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from prefdata.tables import files
from prefdata.tables.schema import TABLES

ROOT = Path(__file__).parents[1]


class Workflow:
    """A recipe in a folder of its own, run by the real snakemake."""

    def __init__(self, folder: Path, recipe: dict[str, Any]) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.write(recipe)

    def write(self, recipe: dict[str, Any]) -> None:
        self.recipe = recipe
        (self.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    def command(self, *extra: str, cores: int = 1) -> list[str]:
        snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", "."]
        return [*snakemake, "--configfile", "recipe.yaml", "--cores", str(cores), *extra]

    def run(self, *extra: str, cores: int = 1, check: bool = True) -> str:
        done = subprocess.run(
            self.command(*extra, cores=cores),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            env=clean_environment(),
        )
        said = done.stdout + done.stderr
        assert not check or done.returncode == 0, said[-4000:]
        return said

    @property
    def root(self) -> Path:
        return self.folder / "results" / self.recipe["name"]

    def table(self, table: str, stage: str, unit: str = "*") -> pl.DataFrame:
        paths = sorted((self.root / "tables" / table / stage).glob(f"{unit}/*.parquet"))
        assert paths, (table, stage, unit)
        return pl.concat([files.read_table(p, table) for p in paths])

    def all_tables(self) -> dict[str, pl.DataFrame]:
        """Every table by table/stage, shards together, in one order."""
        found: dict[str, pl.DataFrame] = {}
        for table in TABLES:
            for folder in sorted((self.root / "tables" / table).iterdir()):
                frame = self.table(table, folder.name)
                ordered = frame.with_columns(_sort=pl.struct(frame.columns[:6]).map_elements(repr, return_dtype=pl.String))
                found[f"{table}/{folder.name}"] = ordered.sort("_sort").drop("_sort")
        return found

    def log(self, name: str) -> str:
        return "".join(
            p.read_text()
            for p in sorted((self.root / "logs").glob(f"{name}*/**/*.log")) + sorted((self.root / "logs").glob(f"{name}*.log"))
        )


def clean_environment() -> dict[str, str]:
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("PREFDATA", "PYTEST", "HF_"))}
    return {**keep, "PREFDATA_NO_SUMMARY": "1", "HF_HUB_OFFLINE": "1"}


def scheduled(said: str) -> set[str]:
    """Rules of a dry run's job table."""
    lines = said[said.index("Job stats:") :].splitlines()[3:] if "Job stats:" in said else []
    return {line.split()[0] for line in lines[: lines.index("")] if line and line.split()[0] != "total"} if lines else set()
