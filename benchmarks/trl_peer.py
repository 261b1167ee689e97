"""TRL in a process of its own environment, for benchmarks: `peer()` gives None where `make bench-env` was not run."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".bench-venv" / "bin" / "python"


class Peer:
    """One worker (benchmarks/trl_worker.py)."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def ask(self, do: str, **keys: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"do": do, **keys}), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline() or '{"error": "the worker is gone"}')
        if "error" in answer:
            raise RuntimeError(f"TRL, {do}: {answer['error']}")
        return answer


@contextmanager
def peer() -> Iterator[Peer | None]:
    """A worker for as long as the block lasts."""
    if not PYTHON.exists():
        print("TRL: not run (make bench-env makes its environment)", file=sys.stderr)
        yield None
        return
    worker = [str(PYTHON), str(ROOT / "benchmarks" / "trl_worker.py")]
    quiet = {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    pipe, environment = subprocess.PIPE, {**os.environ, **quiet}
    with subprocess.Popen(worker, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        yield Peer(process)
        assert process.stdin is not None
        process.stdin.close()


def pairs(examples: Sequence[Any]) -> list[dict[str, Any]]:
    """The chosen and the first rejected candidate of each example, with their log-probs under the first reference."""
    return [
        {
            "prompt_ids": e.prompt,
            "chosen_ids": e.completions[0],
            "rejected_ids": e.completions[1],
            "ref_chosen_logps": e.logps[0][0],
            "ref_rejected_logps": e.logps[0][1],
        }
        for e in examples
    ]
