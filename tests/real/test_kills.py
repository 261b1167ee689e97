"""SIGKILLs in one results folder, then the same command once more: the tables of an unkilled run.

Twenty of the demo by `make faults`; else five of a smaller recipe.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from recipes import TOY

from prefdata.tables import files

ROOT = Path(__file__).parents[2]
WHOLE = os.environ.get("PREFDATA_PROOFS") == "whole"
KILLS, GAP_S = (20, (3, 20)) if WHOLE else (5, (2, 8))
COMMAND = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", "."]
COMMAND += ["--configfile", str(ROOT / "config" / "demo.yaml") if WHOLE else "recipe.json"]

pytestmark = pytest.mark.real


def start(folder: Path, *extra: str) -> "subprocess.Popen[bytes]":
    """The plain command, in a process group of its own."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("PREFDATA", "PYTEST"))}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen([*COMMAND, *extra], cwd=folder, stdout=log, stderr=log, start_new_session=True, env=keep)


def jobs_of(pid: int) -> list[int]:
    """Living processes (no zombies) that the workflow `pid` started, by the mark in their environment."""
    mark, found = f"PREFDATA_RUN_PID={pid}".encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != pid:
            try:
                marked = mark in (entry / "environ").read_bytes().split(b"\0")
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if marked and state != "Z":
                found.append(int(entry.name))
    return found


def hashes(folder: Path) -> dict[str, str]:
    """Content hash of every table, evaluation included, log-probs left out."""
    tables = folder / "results" / ("demo" if WHOLE else TOY["name"]) / "tables"
    paths = [p for p in tables.rglob("*.parquet") if p.relative_to(tables).parts[0] != "logps"]
    return {str(p.relative_to(tables)): files.manifest(p)["content_hash"] for p in paths}


def finish(folder: Path) -> None:
    assert start(folder).wait(timeout=900) == 0, (folder / "log").read_text()[-3000:]


def kill(process: "subprocess.Popen[bytes]", kind: str, rng: random.Random) -> str:
    """SIGKILL snakemake, its whole process group, or one of its jobs; no job may outlive its Snakemake."""
    running = jobs_of(process.pid)
    if kind == "job" and running:
        os.kill(rng.choice(running), signal.SIGKILL)
        return "job"
    if kind == "group":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    deadline = time.monotonic() + 5
    while jobs_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert jobs_of(process.pid) == [], "a job outlived its Snakemake"
    return kind if kind == "group" else "snakemake"


def test_kills_end_in_the_tables_of_an_unkilled_run(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        (folder / "recipe.json").write_text(json.dumps(TOY))
    finish(whole)
    seed = int(os.environ.get("PREFDATA_KILL_SEED", "0"))
    rng, done = random.Random(seed), []
    process = start(killed)
    while len(done) < KILLS:
        gap = rng.uniform(*GAP_S)
        try:
            assert process.wait(timeout=gap) is not None
            # it ended by itself: a job was killed, or all is made and must be made again
            again = ["--forcerun", "sources"] if process.returncode == 0 else []
            process = start(killed, *again)
            continue
        except subprocess.TimeoutExpired:
            done.append(kill(process, ["job", "snakemake", "job", "group"][len(done) % 4], rng))
        if process.poll() is not None:
            process = start(killed)
    if process.poll() is None:
        kill(process, "snakemake", rng)
    finish(killed)
    print(f"seed {seed}: {done}")
    one, other = hashes(whole), hashes(killed)
    assert one == other, [k for k in one if one[k] != other.get(k)]
    assert {"candidates", "ranks", "sets", "verdicts"} <= {k.split("/")[0] for k in one}
    assert not [p for p in (killed / "results").rglob("*.tmp") if p.is_file()]
