"""config/online_tiny.yaml as it stands: one command, three online runs, and what they must show."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[2]


def test_the_recipe_runs_from_one_command_and_every_run_learns(tmp_path: Path) -> None:
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("PREFDATA", "PYTEST"))}
    command = [sys.executable, "-m", "prefdata", "run", str(ROOT / "config" / "online_tiny.yaml")]
    done = subprocess.run(command, cwd=tmp_path, env=keep, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    root = tmp_path / "results" / "online_tiny"
    found = {f["run"]: f for f in json.loads((root / "report" / "evaluation.json").read_text())}
    ends = ("mcpo/once", "mcpo/online", "dpo/online")
    assert {"sft/policy", *ends} <= set(found)
    # the margin of each is above 10 standard errors on two processors; 3 is far from chance
    assert all(found[run]["gain_in_se"] > 3 for run in ends), {run: found[run]["gain_in_se"] for run in ends}
    steps = [len((root / "models" / run / "metrics.jsonl").read_text().splitlines()) for run in ("mcpo/once", "mcpo/online")]
    parts = [len((root / "models" / f"mcpo/online-{k}of3" / "metrics.jsonl").read_text().splitlines()) for k in (1, 2)]
    assert steps[0] == steps[1] + sum(parts) == 100, "as many steps offline and online"
    moved = [json.loads(p.read_text())["log_ratio"] for p in sorted((root / "report" / "online").glob("mcpo-online-*"))]
    assert moved[0]["mean"] == 0
    # each segment has prompts of its own, and a start that is better may be nearer: only that it left is certain
    assert all(m["mean"] > 3 * m["se"] for m in moved[1:]), "the policy has left the first one"
    assert (root / "publish" / "online_tiny" / "data" / "online-mcpo-online").is_dir()
