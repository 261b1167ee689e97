"""What Snakemake takes beside the work, on a cluster: once where jobs are sent from (a dry run of config/base.yaml in many
shards), and in each job (its call for one job; a job of Slurm makes two). Seconds of a processor, so that what else runs does
not count. One JSON line a figure.

python benchmarks/cluster.py >> benchmarks/results/cluster.jsonl && python benchmarks/render.py
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import yaml
from figures import line

from prefdata.recipe.read import read_yaml
from prefdata.shipped import PACKAGE

ROOT = Path(__file__).resolve().parents[1]
SNAKEFILE = PACKAGE / "workflow" / "Snakefile"
SNAKEMAKE = [sys.executable, "-P", "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--configfile", "recipe.yaml", "--dry-run"]
JOB = ["--target-jobs", "prune_0:", "--allowed-rules", "prune_0", "--force", "--no-hooks", "--nolock", "--mode", "remote"]
SHARDS, CALLS = (64, 512, 2048, 8192), 5


def cost(command: list[str], folder: Path) -> tuple[float, float]:
    """Seconds of a processor, and the peak of memory in MB."""
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, (folder / "said").read_text()[-2000:]
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    for shards in SHARDS:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            recipe = {**read_yaml(ROOT / "config" / "base.yaml"), "num_shards": shards}
            (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
            calls = [cost([*SNAKEMAKE, *JOB], folder) for _ in range(CALLS)]
            line(f"job_call_cpu_s_{shards}", median(c for c, _ in calls), "s of a processor", "<= 3")
            line(f"job_call_rss_mb_{shards}", median(m for _, m in calls), "MB", "<= 250")
            seconds, memory = cost([*SNAKEMAKE, "--quiet", "rules"], folder)
            line(f"dag_cpu_s_{shards}", seconds, "s of a processor", "")
            line(f"dag_rss_mb_{shards}", memory, "MB", "")


if __name__ == "__main__":
    main()
