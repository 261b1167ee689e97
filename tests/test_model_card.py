"""The card of a trained model: the Hub's client reads it back, its snippet runs, and no path of this machine is on it."""

import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from prefdata.models.identity import public_name
from prefdata.recipe.read import validate_recipe
from train import card
from train.settings import TrainingSettings

COMMIT = "a" * 40
ROWS = [
    {"step": 1, "loss": 0.7, "eval_loss": 0.69, "eval_accuracy": 0.5},
    {"step": 2, "loss": 0.5, "eval_loss": 0.61, "eval_accuracy": 0.75, "eval_margin": 0.125},
]
SOURCES = (("s@local", "mit", None), ("t@local", "mit", "owner/source"))


def text(about: card.About, rows: list[dict[str, Any]] = ROWS, place: card.Place | None = None, **asked: Any) -> str:
    settings = TrainingSettings.model_validate({"template": "chat", "end": "eos", **asked}).model_dump(mode="json")
    facts = {"settings": settings, "start": "0123", "seed": 3, "data": "45", "left_out": "none", "best": {"step": 1}}
    return card.text("dpo/default", facts, rows, about, place or card.Place())


def test_the_hubs_client_reads_licence_base_data_and_evaluation() -> None:
    about = card.About(("policy (run:sft/policy)",), SOURCES, None, "mine", "owner/set")
    data = ModelCard(text(about, model="owner/model", revision=COMMIT)).data
    assert (data.base_model, data.datasets, data.library_name) == ("owner/model", ["owner/set"], "transformers")
    assert (data.license, data.license_name) == ("other", card.OF_BASE)
    assert data.tags == ["prefdata", "preference", "dpo"]
    found = {r.metric_type: r for r in data.eval_results}
    assert {name: r.metric_value for name, r in found.items()} == {"loss": 0.61, "accuracy": 0.75, "margin": 0.125}
    assert {(r.dataset_type, r.dataset_split, r.task_type) for r in found.values()} == {
        ("owner/set", "validation", "text-generation")
    }
    assert "share of chosen-rejected pairs" in found["accuracy"].metric_name
    assert data.model_name == "dpo/default"


def test_of_the_best_weights_their_own_evaluation_is_told() -> None:
    best = text(card.About(), place=card.Place("owner/best", "best", "owner/base", "mit"), model="m")
    data = ModelCard(best).data
    assert [(r.metric_type, r.metric_value) for r in data.eval_results] == [("loss", 0.69), ("accuracy", 0.5)]
    assert (data.base_model, data.license) == ("owner/base", "mit")
    assert "step 1: these weights" in best
    assert 'from_pretrained("owner/best")' in best
    assert "step 1, in best/" in text(card.About(), model="m")


def test_what_is_not_known_is_left_out() -> None:
    init = {"tokenizer": "toy:small", "hidden_size": 8, "heads": 1, "layers": 1, "mlp": 8}
    data = ModelCard(text(card.About((), SOURCES), [{"step": 1, "loss": 0.7}], init=init)).data
    assert data.license == "mit", "a fresh model has the licence of what it learnt from, where there is one"
    assert data.eval_results is None
    assert data.datasets == ["owner/source"], "without a published set, its sources on the Hub"
    mixed = (*SOURCES, ("u@local", "cc0-1.0", None))
    assert ModelCard(text(card.About((), mixed), init=init)).data.license == "other"
    alone = ModelCard(text(card.About(), model="/m/own")).data.to_dict()
    assert not {"base_model", "datasets"} & set(alone)


def test_no_path_of_this_machine_is_on_the_card(tmp_path: Path) -> None:
    (tmp_path / "tok").mkdir()
    recipe = {
        "name": "mine",
        "sources": {"sources": [{"name": "s", "path": f"{tmp_path}/rows.jsonl"}]},
        "score": {"references": [{"name": "r", "model": f"{tmp_path}/reference"}]},
        "publish": {"repo_id": "owner/set"},
    }
    about = card.About.of(validate_recipe(recipe, "test"))
    assert (about.published, about.references) == ("owner/set", ("r (reference)",))
    init = {"tokenizer": str(tmp_path / "tok"), "hidden_size": 8, "heads": 1, "layers": 1, "mlp": 8}
    for said in (text(about, model=f"{tmp_path}/sft"), text(about, init=init)):
        assert str(tmp_path) not in said
        assert str(tmp_path).replace("/", "\\/") not in said
        assert '"name": "/' not in said
    assert '"tokenizer": "tok"' in said


@pytest.mark.parametrize(
    ("ref", "told"),
    [
        ("run:sft/policy", "run:sft/policy"),
        ("owner/model", "owner/model"),
        ("/m/a/own", "own"),
        ("~/own", "own"),
        ("./own", "own"),
    ],
)
def test_models_are_told_without_their_path(ref: str, told: str) -> None:
    assert public_name(ref) == told


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_the_snippet_of_the_card_runs(lm: Path, template: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (code,) = re.findall(r"```python\n(.*?)\n```", text(card.About(), template=template, model="m"), re.S)
    monkeypatch.chdir(lm)
    found: dict[str, Any] = {}
    exec(code.replace("max_new_tokens=256", "max_new_tokens=3"), found)
    assert 0 < found["output"].shape[1] - found["inputs"]["input_ids"].shape[1] <= 3
    assert capsys.readouterr().out.endswith("\n")
