"""Trained models on the Hub: what lies there loads by the real clients, says what it is, and holds nothing of this machine."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.hf_api
import pytest
import torch
import transformers.utils.hub
from conftest import run_stages
from hub.sets import hub
from hub.standin import Fault, Hub
from huggingface_hub import ModelCard
from test_cli import call
from test_runs import row

from prefdata.errors import ConfigError, PublishError
from prefdata.recipe.read import validate_recipe
from prefdata.recipe.results import Results
from prefdata.recipe.settings.output import PublishedModel
from prefdata.sources.toy import tokenizers
from prefdata.stages.registry import STAGES
from train import push
from train import run as run_
from train.hub_models import base_of
from train.resolve import resolve, validate
from train.rules import rules

__all__ = ["hub"]


@pytest.fixture(autouse=True)
def _asks_this_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that are kept have the address that was right when they were made."""
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", os.environ["HF_ENDPOINT"])


BASE, LAST, BEST, ADAPTER = "owner/base", "owner/last", "owner/best", "owner/adapter"
MODELS: list[dict[str, Any]] = [
    {"run": "sft/base", "repo_id": BASE},
    {"run": "dpo/whole", "repo_id": LAST, "license": "mit"},
    {"run": "dpo/whole", "repo_id": BEST, "weights": "best"},
    {"run": "dpo/lora", "repo_id": ADAPTER, "weights": "adapter"},
]
RUN = {"steps": 4, "batch_prompts": 8, "optimizer": {"learning_rate": 1e-2}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A base model, one trained from it and an adapter of it."""
    folder = tmp_path_factory.mktemp("pushed")
    tokenizers.write(folder / "t")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row(i)) + "\n" for i in range(24)))
    fresh = {"tokenizer": str(folder / "t" / "small"), "hidden_size": 16, "heads": 1, "layers": 1, "mlp": 16}
    made = validate_recipe(
        {
            "name": "t",
            "dedup": None,
            "sources": {"sources": [{"name": "s", "path": str(folder / "rows.jsonl"), "license": "mit"}]},
            "split": {"sft": 0.4, "train": 0.4, "validation": 0.2, "test": 0},
            "sets": {"splits": ["train", "validation"]},
            "score": {"references": [{"name": "base", "model": "run:sft/base"}]},
            "train": {
                "runs": {
                    "sft/base": {"set": "sft", "steps": 2, "init": fresh},
                    "dpo/whole": {**RUN, "evaluation": {"every": 1}},
                    "dpo/lora": {**RUN, "lora": {"rank": 2}},
                }
            },
            "publish": {"repo_id": "owner/set", "models": MODELS, "attempts": 2, "timeout_s": 20.0},
        },
        "test",
    )
    results = Results(made, STAGES, folder / "results")
    run_stages(results, "sources", "split", "prune", "rank:source", "sets:sft")
    run_.train(results.settings, "sft/base", results)
    run_stages(results, "noise", "score", "sets:preference")
    run_.train(results.settings, "dpo/whole", results)
    run_.train(results.settings, "dpo/lora", results)
    return results


def card(hub: Hub, repo_id: str) -> Any:
    return ModelCard(hub.head(repo_id).files["README.md"].decode())


def snippet(hub: Hub, repo_id: str) -> dict[str, Any]:
    """What the card's Python leaves."""
    (code,) = re.findall(r"```python\n(.*?)\n```", card(hub, repo_id).content, re.S)
    found: dict[str, Any] = {}
    exec(code.replace("max_new_tokens=256", "max_new_tokens=3"), found)
    return found


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.tensor([[1, 2, 3, 4]])).logits
    return found


def folder_of(results: Results, run: str) -> Path:
    return Path(results.model_path(f"run:{run}"))


def test_a_pushed_model_loads_and_says_what_it_is(trained: Results, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    for repo_id in (BASE, LAST):
        push.push(trained, repo_id)
    there = hub.head(LAST).files
    assert set(there) == {
        *(".gitattributes", "README.md", "manifest.json", "train.json", "config.json", "generation_config.json"),
        *(
            "model.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "chat_template.jinja",
        ),
        *("metrics.jsonl", "metrics.html", "metrics.png"),
    }
    assert there["model.safetensors"] == (folder_of(trained, "dpo/whole") / "model.safetensors").read_bytes()
    found = snippet(hub, LAST)
    assert found["output"].shape[1] > found["inputs"]["input_ids"].shape[1]
    data = card(hub, LAST).data
    assert (data.base_model, data.datasets, data.license) == (BASE, ["owner/set"], "mit")
    assert (card(hub, BASE).data.base_model, card(hub, BASE).data.license) == (None, "mit")
    receipt = json.loads((trained.root / "publish" / "models" / f"{LAST}.json").read_text())
    assert receipt["revision"] == hub.head(LAST).sha
    said = capsys.readouterr().err
    assert f"{os.environ['HF_ENDPOINT']}/{LAST}/tree/{hub.head(LAST).sha} (11 files put, 0 removed, the card; revision" in said
    assert not (trained.root / "publish" / "models" / ".built" / LAST).exists()


def test_weights_that_the_run_did_not_write_stay_here(trained: Results, hub: Hub, tmp_path: Path) -> None:
    shutil.copytree(trained.root / "models", tmp_path / "models")
    path = tmp_path / "models" / "dpo" / "whole" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    moved = Results(trained.settings, STAGES, models={r: tmp_path / "models" / r for r in trained.settings.runs})
    with pytest.raises(PublishError, match=r"model.safetensors is not what the run wrote"):
        push.push(moved, LAST)
    assert LAST not in hub.repos
    push.push(moved, BEST)
    receipt = json.loads(hub.head(BEST).files["train.json"])
    assert receipt["weights"] == {"model.safetensors": hashlib.sha256(hub.head(BEST).files["model.safetensors"]).hexdigest()}


def test_nothing_of_this_machine_is_pushed(trained: Results, hub: Hub) -> None:
    for model in MODELS:
        push.push(trained, model["repo_id"])
        for name, content in hub.head(model["repo_id"]).files.items():
            assert str(trained.folder.parent).encode() not in content, (model, name)
    settings = json.loads(hub.head(BASE).files["train.json"])["settings"]
    assert settings["init"]["tokenizer"] == "small"


def test_the_same_again_is_no_commit_and_other_weights_are_one(
    trained: Results, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    push.push(trained, LAST)
    capsys.readouterr()
    push.push(trained, LAST)
    assert "nothing changed" in capsys.readouterr().err
    assert len(hub.log(LAST, "main")) == 2
    hub.push(LAST, {"model.safetensors": b"cut", "notes.md": b"mine"})
    push.push(trained, LAST)
    there = hub.head(LAST).files
    assert there["model.safetensors"] == (folder_of(trained, "dpo/whole") / "model.safetensors").read_bytes()
    assert there["notes.md"] == b"mine"
    assert hub.branches.get(LAST, {}) == {}


def test_the_owners_words_and_keys_survive(trained: Results, hub: Hub) -> None:
    push.push(trained, LAST)
    first, text = card(hub, LAST), hub.head(LAST).files["README.md"].decode()
    mine = text.replace("tags:\n", "tags:\n- mine\n").replace("\n---\n\n", "\nextra: kept\n---\n\nMy own words\n\n", 1)
    hub.push(LAST, {"README.md": mine.encode(), "manifest.json": None})
    push.push(trained, LAST)
    kept = card(hub, LAST)
    assert "My own words" in kept.content
    assert {"mine", "dpo"} <= set(kept.data.tags)
    assert kept.data.extra == "kept"
    assert kept.data.eval_results == first.data.eval_results, "not twice"


def test_the_best_weights_and_what_is_said_of_them(trained: Results, hub: Hub) -> None:
    push.push(trained, BEST)
    whole = folder_of(trained, "dpo/whole")
    assert hub.head(BEST).files["model.safetensors"] == (whole / "best" / "model.safetensors").read_bytes()
    best = json.loads((whole / "train.json").read_text())["best"]
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    told = {r.metric_type: r.metric_value for r in card(hub, BEST).data.eval_results}
    assert told["loss"] == round(rows[best["step"] - 1]["eval_loss"], 6) == round(best["eval_loss"], 6)
    assert f"step {best['step']}: these weights" in card(hub, BEST).content


def test_an_adapter_loads_on_its_pushed_base(trained: Results, hub: Hub) -> None:
    from prefdata.models.loading import load_model

    push.push(trained, BASE)
    push.push(trained, ADAPTER)
    assert not {"model.safetensors", "config.json"} & set(hub.head(ADAPTER).files)
    assert json.loads(hub.head(ADAPTER).files["adapter_config.json"])["base_model_name_or_path"] == BASE
    data = card(hub, ADAPTER).data
    assert (data.library_name, data.base_model) == ("peft", BASE)
    adapted = snippet(hub, ADAPTER)["model"].eval()
    merged = load_model(str(folder_of(trained, "dpo/lora")))
    torch.testing.assert_close(logits(adapted).double(), logits(merged).double(), atol=1e-5, rtol=0)
    assert not torch.allclose(logits(merged), logits(load_model(str(folder_of(trained, "sft/base")))), atol=1e-4)


def copied(trained: Results, tmp_path: Path) -> Results:
    """The same runs in a folder that a test may spoil."""
    shutil.copytree(trained.root, tmp_path / "t")
    return Results(trained.settings, STAGES, tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", '{"model_type": "nonsense"}', r"owner/last: the model would not load .*nonsense.*nothing was changed"),
        ("tokenizer.json", "{}", r"owner/last: the model would not load"),
        ("chat_template.jinja", "PLACE", r"a path of this machine in 1 rows or files: chat_template.jinja"),
        (
            "tokenizer_config.json",
            '{"x": "hf_' + "abcdefghijklmnopq" * 2 + '"}',
            r"what looks like .* tokenizer_config.json",
        ),
    ],
)
def test_what_would_not_load_or_tells_too_much_is_not_pushed(
    trained: Results, hub: Hub, tmp_path: Path, name: str, content: str, said: str
) -> None:
    spoilt = copied(trained, tmp_path)
    (folder_of(spoilt, "dpo/whole") / name).write_text(content.replace("PLACE", str(spoilt.root.resolve())))
    with pytest.raises(PublishError, match=said):
        push.push(spoilt, LAST)
    assert LAST not in hub.repos or set(hub.head(LAST).files) == {".gitattributes"}, "made at most, and empty"
    assert hub.branches.get(LAST, {}) == {}


def test_a_model_of_somebody_else_is_not_replaced(trained: Results, hub: Hub) -> None:
    hub._commit(LAST, {"config.json": b"{}", "README.md": b"# Theirs\n"})
    hub.kinds[LAST] = "models"
    with pytest.raises(PublishError, match=r"owner/last: there is a model that we did not push \(config.json for one\)"):
        push.push(trained, LAST)
    assert hub.head(LAST).files["config.json"] == b"{}"


def test_a_fault_at_the_commit_makes_no_second_one(trained: Results, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefdata.output.hub.commit.time.sleep", lambda seconds: None)
    hub.faults.append(Fault(r"POST .*/commit/main", 503, after=True))
    push.push(trained, LAST)
    assert len(hub.log(LAST, "main")) == 2


def test_a_dry_run_changes_nothing(trained: Results, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    push.foretell(trained, LAST)
    assert "would put model.safetensors" in capsys.readouterr().out
    assert LAST not in hub.repos


def test_the_command_pushes_and_names_what_it_has(trained: Results, hub: Hub, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(trained.settings.model_dump(mode="json")))
    os.symlink(trained.folder, tmp_path / "results")
    said = call("publish-model", "owner/lost", "--settings", str(recipe), cwd=tmp_path)
    assert (said.returncode, "publish.models has no owner/lost (did you mean 'owner/last'?)" in said.stderr) == (2, True)
    said = call("publish-model", LAST, "--settings", str(recipe), cwd=tmp_path, HF_HUB_DISABLE_XET="1")
    assert said.returncode == 0, said.stderr
    assert "model.safetensors" in hub.head(LAST).files


def test_jobs_come_after_the_set_the_run_and_the_base(trained: Results) -> None:
    by_name = {rule.name: rule for rule in rules(trained)}
    adapter, base = by_name["publish_model_owner_adapter"], by_name["publish_model_owner_base"]
    assert base.outputs[0] in adapter.inputs
    assert adapter.command == "publish-model owner/adapter"
    for rule in (adapter, base):
        assert str(trained.root / "publish" / "receipt.json") in rule.inputs
    assert f"{folder_of(trained, 'dpo/lora')}/train.json" in adapter.inputs
    assert base.outputs[0] not in base.inputs


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"run": "dpo/whol"}, r"publish.models \(owner/x\): dpo/whol is no run \(did you mean 'dpo/whole'"),
        ({"run": "dpo/lora", "weights": "best"}, "dpo/lora keeps no best weights: train.runs.dpo/lora.evaluation.every"),
        ({"run": "dpo/whole", "weights": "adapter"}, "dpo/whole trains no adapter: train.runs.dpo/whole.lora"),
        ({"run": "dpo/lora", "weights": "adapter"}, "an adapter needs its base on the Hub, and run:sft/base is not there"),
    ],
)
def test_models_that_cannot_be_pushed_are_mistakes_of_the_recipe(trained: Results, model: dict[str, Any], said: str) -> None:
    asked = trained.settings.publish.model_dump() | {"models": [{**model, "repo_id": "owner/x"}]}
    settings = validate_recipe({**trained.settings.model_dump(mode="json"), "name": "t", "publish": asked}, "test")
    with pytest.raises(ConfigError, match=said):
        validate(settings)


def test_a_base_is_on_the_hub_by_its_last_weights_or_by_its_own_name(trained: Results) -> None:
    def base(models: list[dict[str, Any]], run: str = "dpo/whole", **keys: Any) -> str | None:
        asked = trained.settings.publish.model_copy(update={"models": [PublishedModel(**m) for m in models]})
        settings = trained.settings.model_copy(update={"publish": asked})
        return base_of(settings, resolve(settings, run).model_copy(update=keys))

    last, best = {"run": "sft/base", "repo_id": BASE}, {"run": "sft/base", "repo_id": BEST, "weights": "best"}
    assert (base([last, best]), base([best, last]), base([best])) == (BASE, BASE, None)
    assert base([last], "sft/base") is None, "a fresh model has none"
    assert base([], model="owner/elsewhere") == "owner/elsewhere"
    assert base([], model=str(trained.folder)) is None
    assert base([], model="/models/gone") is None, "a folder that is there no more is no name on the Hub either"


def test_a_repository_holds_one_model() -> None:
    with pytest.raises(ConfigError, match="owner/x is named twice"):
        validate_recipe({"name": "t", "publish": {"models": [{"run": "a/b", "repo_id": "owner/x"}] * 2}}, "test")
