"""TRL's own trainers take the published configs, by the lines of docs/consumers.md."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_consumers import BLOCKS, ROOT, folder  # noqa: F401

pytestmark = pytest.mark.real
BENCH = ROOT / ".bench-venv" / "bin" / "python"
HERE = Path(__file__).parent


def python_with_trl() -> str:
    """This interpreter, or that of `make bench-env`."""
    if importlib.util.find_spec("trl") is not None:
        return sys.executable
    if BENCH.exists():
        return str(BENCH)
    pytest.skip("TRL is not installed: make bench-env")


def test_every_trainer_takes_a_step(folder: Path, lm: Path, tmp_path: Path) -> None:  # noqa: F811
    blocks = {heading.split()[1]: text for heading, (_, text) in BLOCKS.items() if heading.startswith("TRL ")}
    assert set(blocks) == {"DPO", "Reward", "KTO", "SFT"}
    asked = {name: text.replace("owner/set", str(folder)) for name, text in blocks.items()}
    (tmp_path / "lines.json").write_text(json.dumps(asked))
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [python_with_trl(), str(HERE / "trl_reader.py"), str(tmp_path / "lines.json"), str(lm)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    losses = json.loads(done.stdout.splitlines()[-1])
    assert losses["DPO"] == pytest.approx(0.6931, abs=1e-3), "the policy is its own reference"
    assert losses["KTO"] == pytest.approx(0.5, abs=1e-3)
