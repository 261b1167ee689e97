"""The demo, from nothing, timed; prints one JSON line a figure: name, value, unit, target, holds.

python benchmarks/demo.py >> benchmarks/results/demo.jsonl && python benchmarks/render.py
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import line

ROOT = Path(__file__).resolve().parents[1]


def run(folder: str) -> float:
    """Seconds of one plain snakemake call."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", folder]
    started = time.monotonic()
    subprocess.run(
        [*command, "--configfile", str(ROOT / "config" / "demo.yaml")],
        check=True,
        stdout=sys.stderr,
        env={**os.environ, "PREFDATA_NO_SUMMARY": "1"},
    )
    return time.monotonic() - started


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        line("demo_wall", run(folder), "s", "<= 300")
        line("demo_again_wall", run(folder), "s", "<= 60")
        evaluated = json.loads((Path(folder) / "results" / "demo" / "report" / "evaluation.json").read_text())
    for entry in evaluated:
        name = entry["run"].replace("/", "_")
        start, compared = entry["run"] == "sft/policy", entry["run"] in ("dpo/default", "mcpo/default")
        line(f"{name}_exact", entry["exact"][0], f"share of {entry['n']}", "0.2..0.6" if start else "")
        line(f"{name}_reward", entry["reward"][0], "mean score", "")
        line(f"{name}_foreign", entry["foreign"][0], "share of samples with text that no set holds", "<= 0.05")
        if not start:
            line(f"{name}_kl", entry["kl"][0], "nats an answer from the policy", "")
            line(f"{name}_gain_in_se", entry["gain_in_se"], "paired standard errors", ">= 3" if compared else "")
            line(f"{name}_accuracy", entry["accuracy"][0], f"share of {entry['pairs']} pairs", "")


if __name__ == "__main__":
    main()
