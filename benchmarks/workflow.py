"""What the workflow itself costs: dry runs of config/base.yaml in many shards beside a bare Snakefile of the same files and
jobs, and the start of a stage; prints one JSON line a figure.

python benchmarks/workflow.py >> benchmarks/results/workflow.jsonl && python benchmarks/render.py
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import yaml
from figures import line

from prefdata.recipe.read import read_yaml, validate_recipe
from prefdata.recipe.results import Results
from prefdata.stages.registry import STAGES
from prefdata.workflow.snakefile import rules
from train import rules as training

ROOT = Path(__file__).resolve().parents[1]
SNAKEMAKE = [sys.executable, "-P", "-m", "snakemake", "--cores", "2", "--dry-run", "--quiet", "rules"]
BARE = """
import json
jobs = json.load(open("jobs.json"))

rule everything:
    input: jobs["wanted"]

for job in jobs["jobs"]:
    rule:
        name: job["name"]
        input: job["inputs"]
        output: job["outputs"]
        params: trigger=job["trigger"]
        shell: "true"
"""
LIMITS = {64: 5, 512: 12, 2048: 90}
STARTS = 11


def seconds(command: list[str], folder: Path) -> float:
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return time.perf_counter() - started


def dry_runs(folder: Path, shards: int) -> None:
    """From nothing, and over finished results; ours and the bare one in turns."""
    recipe = {**read_yaml(ROOT / "config" / "base.yaml"), "num_shards": shards}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "Bare").write_text(BARE)
    os.chdir(folder)
    results = Results(validate_recipe(recipe, "base"), STAGES)
    jobs = [*rules(results), *training.rules(results)]
    wanted = [f for job in jobs for f in job.outputs]
    (folder / "jobs.json").write_text(json.dumps({"wanted": wanted, "jobs": [vars(job) for job in jobs]}))
    ours = [
        *SNAKEMAKE,
        "--snakefile",
        str(ROOT / "prefdata" / "workflow" / "Snakefile"),
        "--configfile",
        "recipe.yaml",
        "--nolock",
    ]
    bare = [*SNAKEMAKE, "--snakefile", "Bare", "--nolock"]
    rounds = 3 if shards < 2048 else 1
    for name in ("", "_again"):
        times = {"ours": [], "bare": []}
        for _ in range(rounds):
            times["ours"].append(seconds(ours, folder))
            times["bare"].append(seconds(bare, folder))
        own, other = median(times["ours"]), median(times["bare"])
        line(f"dag_s_{shards}{name}", own, f"s, {len(jobs)} jobs, {len(wanted)} files", f"<= {LIMITS[shards]}")
        line(f"dag_over_bare_{shards}{name}", own / other, "x a bare Snakefile", "<= 1.5")
        for job in jobs:  # as if all had been made, in order
            for file in job.outputs:
                Path(file).parent.mkdir(parents=True, exist_ok=True)
                Path(file).touch()


def stage_start(folder: Path) -> float:
    """Median seconds of a data stage on a shard without rows, process start to end."""
    (folder / "rows.jsonl").write_text('{"prompt": "a", "answers": [{"answer": "b", "model": "m", "rank": 1}]}\n')
    recipe = {"name": "t", "num_shards": 2, "dedup": None, "sources": {"sources": [{"name": "s", "path": "rows.jsonl"}]}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-P", "-m", "prefdata"]
    for stage in ("sources", "split"):
        seconds([*command, stage, "--settings", "recipe.yaml"], folder)
    os.chdir(folder)
    results = Results(validate_recipe(recipe, "t"), STAGES)
    empty = next(s for s in results.shards if not _rows(results, s))
    prune = [*command, "prune", "--settings", "recipe.yaml", "--shards", str(empty)]
    return median([seconds(prune, folder) for _ in range(STARTS + 1)][1:])


def _rows(results: Results, shard: int) -> int:
    from prefdata.recipe.units import Part
    from prefdata.tables import files

    return int(files.manifest(results.table(Part("prompts", "sources"), shard))["rows"])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        line("stage_start_s", stage_start(Path(folder)), "s, a data stage on an empty shard", "<= 1")
    for shards in LIMITS:
        with tempfile.TemporaryDirectory() as folder:
            dry_runs(Path(folder), shards)


if __name__ == "__main__":
    main()
