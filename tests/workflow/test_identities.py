"""Objectives that are one by their formulas give the same weights, bit for bit, through the whole workflow."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from recipes import TOY
from runs import Workflow

INIT = {"tokenizer": "toy:letters", "hidden_size": 32, "heads": 1, "layers": 1, "mlp": 32}
COMMON: dict[str, Any] = {"steps": 6, "batch_prompts": 8, "optimizer": {"learning_rate": 3e-3}, "loss": {"beta": 0.3}}
SOFT = {"beta": 1e-12}
"""The kernel's own beta: its weights are then uniform."""


def recipe(name: str, runs: dict[str, Any], ranks: list[int], *references: str) -> dict[str, Any]:
    """`references`: names of the one model that is every reference."""
    policy = {"set": "sft", "steps": 12, "init": INIT}
    return {
        "name": name,
        "seed": 3,
        "toy": {"demonstrations": 60, "train": 24, "test": 4},
        "sources": TOY["sources"],
        "dedup": None,
        "prune": {"drop_ranks": ranks, "splits": ["train"]},
        "noise": {"copies": 0},
        "score": {"references": [{"name": n, "model": "run:sft/policy"} for n in references]},
        "train": {"runs": {"sft/policy": policy, **{run: {**COMMON, **own} for run, own in runs.items()}}},
    }


def hashes(folder: Path, made: dict[str, Any]) -> dict[str, str]:
    workflow = Workflow(folder, made)
    workflow.run()
    runs = [r for r in made["train"]["runs"] if r != "sft/policy"]
    paths = {r: workflow.root / "models" / r / "model.safetensors" for r in runs}
    return {r: hashlib.sha256(path.read_bytes()).hexdigest() for r, path in paths.items()}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of one set under two references that are one model: the hash of each run's weights."""
    runs = {
        "dpo/s1": {"seed": 1},
        "dpo/s2": {"seed": 2, "optimizer": {"learning_rate": 1e-3}},
        "multi_dpo/s1": {"seed": 1},
        "mrpo/s1": {"seed": 1},
        "mrpo/fixed": {"seed": 1, "references": {"adaptive_eps": False, "alpha": [0.2, 0.8]}},
        "rnce/never": {"seed": 1, "negatives": {"redraw": "never"}},
        "mcpo/never": {"seed": 1, "negatives": {"redraw": "never", **SOFT}},
        "mcpo_max/start": {"seed": 1, "steps": 1},
        "rnce/start": {"seed": 1, "steps": 1},
        "rnce/epoch": {"seed": 1},
        "mcpo/epoch": {"seed": 1, "negatives": SOFT},
        "mcpo/hard": {"seed": 1, "negatives": {"beta": 30.0}},
    }
    return hashes(tmp_path_factory.mktemp("identities"), recipe("identities", runs, [2], "policy", "same"))


def test_equal_references_are_one(found: dict[str, str]) -> None:
    assert found["dpo/s1"] == found["multi_dpo/s1"] == found["mrpo/s1"] == found["mrpo/fixed"]


def test_one_fixed_negative_is_dpos_pair(found: dict[str, str]) -> None:
    assert found["dpo/s1"] == found["rnce/never"] == found["mcpo/never"]


def test_a_flat_kernel_is_rnce(found: dict[str, str]) -> None:
    assert found["rnce/epoch"] == found["mcpo/epoch"]
    assert found["rnce/start"] == found["mcpo_max/start"], "where the policy is its reference all weights are ties"


def test_the_runs_can_differ(found: dict[str, str]) -> None:
    apart = ("dpo/s1", "dpo/s2", "rnce/epoch", "mcpo/hard", "rnce/start")
    assert len({found[r] for r in apart}) == len(apart)


def test_a_pool_of_one_leaves_nothing_to_draw(tmp_path: Path) -> None:
    runs = {f"{name}/one": {"seed": 1} for name in ("dpo", "rnce", "mcpo", "mcpo_max", "mcpo_min", "dpo_all")}
    found = hashes(tmp_path, recipe("one", runs, [2, 3, 4, 5, 6], "policy"))
    assert len(set(found.values())) == 1
