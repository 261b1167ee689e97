"""A trained model on the disk: one file or many, an index in either case, hashes that the receipt keeps."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from test_fit import ROWS

import prefdata
from prefdata.errors import ConfigError
from prefdata.models.identity import INDEX, RECEIPT
from prefdata.models.loading import load_model
from train import saving

KEYS = {"steps": 2, "optimizer": {"learning_rate": 1e-3}}


def trained(lm: Path, folder: Path) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(lm)
    prefdata.fit(model, transformers.AutoTokenizer.from_pretrained(lm), ROWS, "dpo", folder=folder, **KEYS)
    return model


def weight_map(folder: Path) -> dict[str, str]:
    return dict(json.loads((folder / INDEX).read_text())["weight_map"])


@pytest.mark.parametrize("most", ["5GB", "4KB"])
def test_a_model_of_any_number_of_files_has_an_index_of_what_lies_there(
    most: str, lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "SHARD", most)
    model = trained(lm, tmp_path / "out")
    files = sorted(p.name for p in (tmp_path / "out").glob("*.safetensors"))
    assert (files == ["model.safetensors"]) == (most == "5GB")
    found = {name: file for file in files for name in load_file(tmp_path / "out" / file)}
    assert weight_map(tmp_path / "out") == found
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(
        t.numel() * t.element_size() for file in files for t in load_file(tmp_path / "out" / file).values()
    )
    again = load_model(str(tmp_path / "out")).state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in model.state_dict().items())
    receipt = json.loads((tmp_path / "out" / RECEIPT).read_text())
    assert receipt["weights"] == {f: hashlib.sha256((tmp_path / "out" / f).read_bytes()).hexdigest() for f in files}


@pytest.mark.parametrize("most", ["5GB", "4KB"])
def test_a_file_of_weights_that_is_gone_is_named(most: str, lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "SHARD", most)
    trained(lm, tmp_path / "out")
    last = sorted((tmp_path / "out").glob("*.safetensors"))[-1]
    last.unlink()
    with pytest.raises(ConfigError, match="remove the folder, and train it again") as raised:
        load_model(str(tmp_path / "out"))
    assert last.name in str(raised.value)
