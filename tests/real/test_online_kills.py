"""SIGKILLs at random over the chain of two online runs, then the same command once more: tables and weights of an unkilled run."""

import hashlib
import json
import os
import random
import subprocess
import time
from copy import deepcopy
from pathlib import Path

import pytest
from recipes import ONLINE
from test_kills import COMMAND, kill

from prefdata.tables import files

KILLS, LATER_S = 10 if os.environ.get("PREFDATA_PROOFS") == "whole" else 5, (0.1, 2.0)
"""A kill comes so much later than the chain has made as many files as were drawn for it: all over the chain, however fast."""
KINDS = ("job", "snakemake", "job", "group")
WEIGHTS = ("model.safetensors", "optimizer.safetensors", "state.json", "metrics.jsonl")

pytestmark = pytest.mark.real


def written(folder: Path) -> Path:
    """A folder with the recipe; less demonstrations, and a checkpoint after each step."""
    recipe = deepcopy(ONLINE)
    recipe["toy"]["demonstrations"] = 200
    for run in recipe["train"]["runs"].values():
        run["checkpoint_s"] = 1e-9
    folder.mkdir()
    (folder / "recipe.json").write_text(json.dumps(recipe))
    return folder


def start(folder: Path, *extra: str) -> "subprocess.Popen[bytes]":
    """The plain command, in a process group of its own."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("PREFDATA", "PYTEST"))}
    command = [*COMMAND[:-1], "recipe.json", *extra]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True, env=keep)


def finish(folder: Path) -> None:
    assert start(folder).wait(timeout=600) == 0, (folder / "log").read_text()[-3000:]


def tables(folder: Path) -> dict[str, str]:
    """Content hash of every table, log-probs left out."""
    root = folder / "results" / ONLINE["name"] / "tables"
    paths = [p for p in root.rglob("*.parquet") if p.relative_to(root).parts[0] != "logps"]
    return {str(p.relative_to(root)): files.manifest(p)["content_hash"] for p in paths}


def weights(folder: Path) -> dict[str, str]:
    """Hash of the weights, the kept optimizer and the metrics of every run."""
    root = folder / "results" / ONLINE["name"] / "models"
    paths = [p for p in root.rglob("*") if p.name in WEIGHTS]
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def made(folder: Path) -> int:
    """Tables and models that are there."""
    root = folder / "results" / ONLINE["name"]
    return len([*root.glob("tables/*/*/*/*.parquet"), *root.glob("models/*/*/model.safetensors")])


def test_kills_end_in_the_tables_and_weights_of_an_unkilled_chain(tmp_path: Path) -> None:
    whole, killed = written(tmp_path / "whole"), written(tmp_path / "killed")
    finish(whole)
    seed = int(os.environ.get("PREFDATA_KILL_SEED", "0"))
    rng, done = random.Random(seed), list[str]()
    wanted = sorted(rng.sample(range(made(whole)), KILLS))
    process, ended = start(killed), 0
    while len(done) < KILLS:
        if process.poll() is not None:  # a job was killed, or all is made and must be made again
            ended += 1
            assert ended < 3 * KILLS, (killed / "log").read_text()[-3000:]
            process = start(killed, *(["--forcerun", "sources"] if process.returncode == 0 else []))
        if made(killed) < wanted[len(done)]:
            time.sleep(0.1)
            continue
        try:
            process.wait(timeout=rng.uniform(*LATER_S))
        except subprocess.TimeoutExpired:
            count = made(killed)
            done.append(f"{kill(process, KINDS[len(done) % len(KINDS)], rng)} at {count}")
    if process.poll() is None:
        kill(process, "snakemake", rng)
    finish(killed)
    print(f"seed {seed}: {done} of {made(whole)} files")
    for found in (tables, weights):
        one, other = found(whole), found(killed)
        assert one.keys() == other.keys()
        assert [name for name in one if one[name] != other[name]] == []
    assert {"candidates", "verdicts", "ranks", "sets"} <= {name.split("/")[0] for name in tables(whole)}
    runs = {str(Path(name).parent) for name in weights(whole) if name.endswith("model.safetensors")}
    assert runs == {"sft/policy", "mcpo/online-1of3", "mcpo/online-2of3", "mcpo/online", "kto/online-1of2", "kto/online"}
    assert sum(name.endswith("optimizer.safetensors") for name in weights(whole)) == 3
    assert not [*(killed / "results").rglob("*.tmp")]
