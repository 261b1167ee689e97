"""lm-evaluation-harness on a tiny model with a local task, against our own log-probs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from prefdata.errors import ConfigError
from prefdata.models.forward.logprob import grouped_logps
from prefdata.models.loading import load_model
from prefdata.models.tokens import load_encoder
from prefdata.recipe import places
from prefdata.recipe.job import Job
from prefdata.recipe.settings.training import HarnessSettings
from prefdata.stages import harness, summary

CHOICES = ["ab", "ba", "abc", "cab"]
QUESTIONS = [{"question": f"S{'abcd'[i % 4]}{'bca'[i % 3]}:", "choices": CHOICES, "label": i % 4} for i in range(12)]
TASK = """
task: local_choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
target_delimiter: ""
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
metadata: {{version: 2.0}}
"""


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one task."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "local.yaml").write_text(TASK.format(rows=tmp_path / "rows.jsonl"))
    return folder


def own_accuracy(lm: Path) -> float:
    """By our forward: the choice with the largest log-prob is the label."""
    encoder, model = load_encoder(str(lm)), load_model(str(lm))
    ids = encoder.tokenizer.encode
    prompts = [ids(q["question"], add_special_tokens=False) for q in QUESTIONS]
    answers = [ids(c, add_special_tokens=False) for c in CHOICES]
    with torch.no_grad():
        sums = grouped_logps(model, prompts, [answers] * len(prompts), 4096)
    return sum(int(s.argmax()) == q["label"] for s, q in zip(sums, QUESTIONS, strict=True)) / len(QUESTIONS)


def test_a_task_gives_the_accuracy_of_our_own_log_probs(lm: Path, tasks: Path) -> None:
    found = harness.facts(str(lm), HarnessSettings(tasks=["local_choices"], include=str(tasks)), chat=False, seed=0)
    task = found["tasks"]["local_choices"]
    accuracy, error = task["metrics"]["acc"]
    assert accuracy == pytest.approx(own_accuracy(lm))
    assert 0 < accuracy < 1, "the case can tell something"
    assert error == pytest.approx((accuracy * (1 - accuracy) / (len(QUESTIONS) - 1)) ** 0.5)
    assert (task["version"], task["n"]) == (2.0, 12)


def test_an_unknown_task_is_named(lm: Path, tasks: Path) -> None:
    settings = HarnessSettings(tasks=["local_choises"], include=str(tasks))
    with pytest.raises(ConfigError, match="the harness has no task local_choises .did you mean 'local_choices'"):
        harness.facts(str(lm), settings, chat=False, seed=0)


def test_the_stage_evaluates_every_run_and_the_summary_shows_it(make_run: Any, lm: Path, tasks: Path) -> None:
    run = make_run(
        sources={"sources": [{"name": "s", "path": "x.jsonl"}]},
        train={"runs": {"dpo/a": {"model": str(lm)}}},
        score={"references": [{"name": "r", "model": str(lm)}]},
        evaluate={"runs": ["dpo/a"]},
        harness={"tasks": ["local_choices"], "include": str(tasks), "limit": 5, "chat": False},
    )
    folder = Path(run.model_path("run:dpo/a"))
    folder.mkdir(parents=True)
    for file in lm.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "train.json").write_text(json.dumps({"revision": "0" * 16, "settings": {"template": "chat", "end": "eos"}}))
    (unit,) = run.units("harness")
    harness.run(Job(run, "harness", unit))
    facts = json.loads(run.path(places.harness("dpo/a")).read_text())
    assert facts["run"] == "dpo/a"
    assert facts["tasks"]["local_choices"]["n"] == 5
    table = summary._harness_table([facts])
    assert [c.header for c in table.columns] == ["run", "local_choices acc"]
