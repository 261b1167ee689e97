"""What a job asks of a machine: devices, threads, memory, time."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prefdata.recipe.read import validate_recipe
from prefdata.recipe.results import Results
from prefdata.recipe.rule import Needs, of_models
from prefdata.recipe.settings.whole import Settings
from prefdata.stages.registry import STAGES
from prefdata.workflow import devices, snakefile
from train import rules

ID = {"revision": "0" * 40}


def recipe(**keys: Any) -> Settings:
    references = [{"name": "p", "model": "owner/m-8B", **ID}, {"name": "t", "model": "run:sft/own"}]
    runs = {"sft/own": {"set": "sft", "init": {"tokenizer": "toy:small"}}, "dpo/one": {}, "dpo/four": {"processes": 4}}
    runs["dpo/adapters"] = {"processes": 4, "lora": {"rank": 2}}
    made = {"name": "t", "threads": 3, "sources": {"sources": [{"name": "s", "path": "x"}]}}
    return validate_recipe({**made, "score": {"references": references}, "train": {"runs": runs}, **keys}, "t")


def needs(settings: Settings) -> dict[str, Needs]:
    results = Results(settings, STAGES)
    return {rule.name.partition("-")[0]: rule.needs for rule in [*snakefile.rules(results), *rules.rules(results)]}


def test_a_job_asks_for_what_its_models_take() -> None:
    found = needs(recipe())
    assert found["sources"] == found["noise"] == Needs(0, 1, 4_000, 240), "noise reads a tokenizer only"
    assert found["score_p"] == Needs(1, 3, 4_000 + 32_000, 1_440), "8 billion weights in fp32"
    assert found["score_t"] == Needs(1, 3, 4_000, 1_440), "a fresh model is small"
    assert found["train_dpo_one"] == Needs(1, 3, 4_000 + 4 * 32_000, 1_440)
    assert found["train_dpo_four"] == Needs(4, 12, 4 * 4_000 + 7 * 32_000, 1_440), "each has its part"
    assert found["train_dpo_adapters"] == Needs(4, 12, 4 * 4_000 + 7 * 32_000, 1_440), "each has all of it"


def test_a_trained_model_is_as_large_as_what_it_starts_from(tmp_path: Path) -> None:
    (tmp_path / "model-1.safetensors").write_bytes(bytes(3_000_000))
    (tmp_path / "model-2.safetensors").write_bytes(bytes(2_000_000))
    runs = {
        "sft/a": {"model": str(tmp_path)},
        "sft/b": {"continue_from": "sft/a"},
        "dpo/c": {"model": "run:sft/b"},
        "dpo/d": {},
    }
    settings = recipe(train={"runs": runs}, score={"references": [{"name": "p", "model": "run:dpo/d"}]})
    beside = Needs().mem_mb
    assert [of_models(settings, [f"run:{r}"], 1).mem_mb - beside for r in runs] == [10, 10, 10, 0], (
        "bf16 files; d is its own start"
    )


@pytest.mark.parametrize(("count", "limit"), [(8, 8), (0, 5)])
def test_as_many_jobs_run_as_there_are_devices(monkeypatch: pytest.MonkeyPatch, count: int, limit: int) -> None:
    monkeypatch.setattr(devices, "count", lambda: count)
    monkeypatch.setattr(snakefile, "processors", lambda: 5)

    def limited(nodes: int | None, **given: int) -> dict[str, int]:
        limits = dict(given)
        workflow = SimpleNamespace(
            resource_settings=SimpleNamespace(nodes=nodes), global_resources=limits, register_resource=limits.__setitem__
        )
        snakefile.share_devices(workflow)
        return limits

    assert limited(None) == {"gpu": limit}
    assert limited(None, gpu=2, mem=7) == {"gpu": 2, "mem": 7}, "as it was told"
    assert limited(4) == {}, "a cluster counts for itself"
