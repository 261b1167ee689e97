"""A recipe on a real Slurm of two nodes: jobs cancelled, out of time, left alone by their workflow, on a node without power; the
same command ends in the tables of a local run. And one training of two processes, one on each node.

Skipped, with the reason, without root, Debian's packages or the plugin (`make test-slurm` has all).
"""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import Cluster, free_ports, missing, running, until

from prefdata.tables import files

pytestmark = pytest.mark.real
RUN = [sys.executable, "-P", "-m", "prefdata", "run", "recipe.yaml", "set"]
ON_SLURM = ["--workflow-profile", "slurm", "--default-resources", "nodes=1"]
ON_SLURM += ["--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1", "--latency-wait", "5"]
CHAIN = ("split", "prune", "rank_source", "noise")
ON_SLURM += ["--groups", *(f"{rule}_{shard}=shard{shard}" for rule in CHAIN for shard in (0, 1))]
SLOW_S = 600


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("snakemake-executor-plugin-slurm is not installed")
    if reason := missing():
        pytest.skip(reason)
    with running() as started:
        yield started


def recipe(model: Path) -> dict[str, Any]:
    return {
        "name": "s",
        "num_shards": 2,
        "shards_per_job": 1,
        "sources": {"sources": [{"name": "mine", "path": "mine.jsonl", "license": "cc0-1.0"}]},
        "dedup": None,
        "noise": {"copies": 0},
        "score": {"references": [{"name": "policy", "model": str(model)}]},
    }


def rows() -> list[dict[str, Any]]:
    texts = ("ab", "ba", "abc", "cab")
    listed = [{"answer": t, "model": f"m{i}", "rank": i + 1} for i, t in enumerate(texts)]
    return [{"prompt": f"S{a}{b}{c}", "answers": listed} for a in "abcde" for b in "fghij" for c in "ab"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, lm: Path) -> tuple[Path, Path]:
    """Two folders with the recipe: where it is run on this machine, and where it is run by Slurm."""
    made = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("slurm")
    for folder in made:
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(lm)))
        (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
        for name in ("train.py", "prefdata.py"):  # a user's own, which no job may take for ours
            (folder / name).write_text("raise RuntimeError('the file of the user')\n")
    return made


def start(folder: Path, cluster: Cluster | None = None) -> "subprocess.Popen[bytes]":
    """The command, here or on the cluster; what it says is in the file `said`."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("PREFDATA", "PYTEST", "HF_", "SLURM"))}
    own = {"PREFDATA_NO_SUMMARY": "1", "HF_HUB_OFFLINE": "1", **(cluster.environment if cluster else {})}
    paths = [str(Path(__file__).parent / "quick"), *filter(None, [os.environ.get("PYTHONPATH")])]  # an empty one is the folder
    own["PYTHONPATH"] = os.pathsep.join(paths)
    with (folder / "said").open("ab") as said:
        words = [*RUN, *(ON_SLURM if cluster else ["--cores", "2"])]
        return subprocess.Popen(words, cwd=folder, env={**keep, **own}, stdout=said, stderr=said)


def said(folder: Path) -> str:
    return (folder / "said").read_text(errors="replace")


def ended(process: "subprocess.Popen[bytes]", folder: Path) -> int:
    """How the command ended."""
    try:
        return process.wait(SLOW_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(said(folder)[-4000:]) from None


class Caught:
    """A stage's process on a node, stopped in its work."""

    def __init__(self, pid: int, environment: dict[str, str]) -> None:
        os.kill(pid, signal.SIGSTOP)
        self.pid, self.environment = pid, environment
        self.job, self.node = environment["SLURM_JOB_ID"], environment["SLURMD_NODENAME"]

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


def catch(cluster: Cluster, run: "subprocess.Popen[bytes]", stage: str, count: int = 1) -> list[Caught]:
    """The first so many processes of a stage that appear."""
    held: dict[int, Caught] = {}

    def look() -> bool:
        for pid, environment in cluster.of_stage(stage).items():
            with suppress(ProcessLookupError):
                if pid not in held:
                    held[pid] = Caught(pid, environment)
        return len(held) >= count or run.poll() is not None

    until(look, f"{stage} runs {count} times", lambda: str(cluster.jobs()), SLOW_S)
    assert len(held) >= count, f"the workflow ended without {stage}"
    return list(held.values())


def hashes(folder: Path) -> dict[str, str]:
    """The content hash of every table."""
    tables = folder / "results" / "s" / "tables"
    return {str(p.relative_to(tables)): files.manifest(p)["content_hash"] for p in sorted(tables.rglob("*.parquet"))}


def test_the_same_command_ends_in_the_same_tables(cluster: Cluster, folders: tuple[Path, Path]) -> None:
    here, there = folders
    run = start(there, cluster)
    (cancelled,) = catch(cluster, run, "sources")
    cluster.call("scancel", cancelled.job)
    assert ended(run, there) != 0
    assert f"sources failed: SLURM-job '{cancelled.job}' failed, SLURM status is: 'CANCELLED'" in said(there)

    run = start(there, cluster)
    on_time, late = catch(cluster, run, "prune", 2)
    assert {on_time.node, late.node} == set(cluster.nodes)
    on_time.go_on()
    cluster.call("scontrol", "update", f"jobid={late.job}", "endtime=now+1seconds")  # Slurm sees it within half a minute
    assert ended(start(here), here) == 0, said(here)[-4000:]  # on this machine, meanwhile
    assert ended(run, there) != 0
    assert re.findall(r"^group shard\d failed .*/(\d+)\.log", said(there), re.M) == [late.job]

    run = start(there, cluster)
    (left,) = catch(cluster, run, "rank")
    run.kill()  # nobody cancels its jobs then
    assert ended(run, there) == -signal.SIGKILL
    assert left.job in cluster.jobs()

    run = start(there, cluster)
    (cut,) = catch(cluster, run, "score")
    assert "jobs of a run that is gone" in said(there)
    assert left.job not in cluster.jobs()
    assert cut.environment["CUDA_VISIBLE_DEVICES"] == "0"
    cluster.kill_node(cut.node)
    cluster.call("scontrol", "update", f"jobid={cut.job}", "starttime=now")  # Slurm would leave it alone for two minutes
    assert ended(run, there) == 0, said(there)[-4000:]
    cluster.start_node(cut.node)

    made = hashes(here)
    assert made == hashes(there)
    assert {"sets", "logps", "ranks", "drops"} <= {name.partition("/")[0] for name in made}
    assert not list((there / "results").rglob("*.tmp"))
    assert cluster.jobs() == {}


def test_one_training_of_two_processes_on_two_nodes(cluster: Cluster, lm: Path, tmp_path: Path) -> None:
    """torchrun started by srun, once a node: the losses of one process."""
    pairs = [{"prompt": "S" + "abcde"[i % 5] * (i // 5 + 1), "chosen": "ab" * (i % 3 + 1), "rejected": "c"} for i in range(12)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    losses = {}
    for name, words in {"one": [sys.executable, "-P", "-m", "prefdata"], "two": torchrun()}.items():
        asked = {"objective": "dpo", "model": str(lm), "data": {"path": "pairs.jsonl"}, "output": name}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**asked, "steps": 2, "batch_prompts": 6, "threads": 1}))
        done = subprocess.run(
            [*words, "train", f"{name}.yaml"],
            cwd=tmp_path,
            env={**os.environ, **cluster.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=SLOW_S,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        losses[name] = [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
    assert losses["two"] == pytest.approx(losses["one"], rel=1e-5)
    assert len(losses["one"]) == 2


def torchrun() -> list[str]:
    """As docs/scale.md has it, but for nodes that are one machine."""
    words = ["srun", "--nodes=2", "--ntasks-per-node=1", "--kill-on-bad-exit=1", sys.executable, "-P", "-m"]
    words += ["torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=prefdata"]
    return [*words, f"--rdzv-endpoint=127.0.0.1:{free_ports(1)[0]}", "-m", "prefdata"]
