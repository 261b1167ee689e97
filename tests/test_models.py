"""What identifies a model: every weight shard, the config, the tokenizer and the template."""

from pathlib import Path

import pytest

from prefdata.errors import ConfigError
from prefdata.models.identity import content_revision, revision_of
from prefdata.models.loading import load_config, load_model


def test_every_file_that_makes_a_model_changes_its_revision(tmp_path: Path) -> None:
    names = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "chat_template.jinja",
    ]
    for name in names:
        (tmp_path / name).write_text("x")
    seen = {content_revision(tmp_path)}
    for name in names:
        (tmp_path / name).write_text("y")
        seen.add(content_revision(tmp_path))
    assert len(seen) == len(names) + 1
    (tmp_path / "metrics.jsonl").write_text("z")
    assert content_revision(tmp_path) in seen, "curves are no part of a model"
    (tmp_path / "train.json").write_text('{"revision": "abc"}')
    assert revision_of(str(tmp_path), None) == "abc"


def test_a_model_on_the_hub_needs_its_revision() -> None:
    with pytest.raises(ConfigError, match="needs its revision"):
        revision_of("owner/model", None)
    assert revision_of("owner/model", "a" * 40) == "a" * 40


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    for call in (load_config, load_model):
        with pytest.raises(ConfigError, match="no model"):
            call(str(tmp_path))
