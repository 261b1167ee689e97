"""docs/consumers.md: each tool's lines are run on a published set, and each row is read as that tool's code reads it.

Tools that are not installed here are reproduced: what they ask of a row, in our words (the docs say which). TRL's trainers
themselves are run in tests/real/test_consumers_trl.py.
"""

import json
import re
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from conftest import run_stages

from prefdata.recipe.job import Job
from prefdata.recipe.read import validate_recipe
from prefdata.recipe.results import Results
from prefdata.stages import publish
from prefdata.stages.registry import STAGES
from prefdata.workflow.recipes import checked

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "consumers.md"
BLOCKS = {
    heading: (kind, text)
    for heading, kind, text in re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```(\w+)\n(.*?)^```$", DOCS.read_text(), re.M | re.S)
}
CONFIGS = ["preference", "preference_full", "ranked", "unpaired", "sft", "sets"]
Row = dict[str, Any]


def published(place: Path, rows: list[Row], shape: str) -> Path:
    """The folder of a set made of these rows."""
    (place / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    source = {"name": "s", "path": str(place / "rows.jsonl"), "format": shape, "license": "mit", "split": "train"}
    recipe = {
        "name": "t",
        "dedup": None,
        "prune": {"drop_ranks": []},
        "sources": {"sources": [source]},
        "sets": {"sft_splits": ["train"]},
        "publish": {"configs": CONFIGS},
    }
    run = Results(checked(validate_recipe(recipe, "test"), "test"), STAGES, place / "results")
    run_stages(run, "sources", "split", "prune", "rank:source", "noise", "sets", "report", "card")
    publish.run(Job(run, "publish"))
    return run.root / "publish" / "t"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs, of which every second has a system message and several turns."""
    before = [("system", "be kind"), ("user", "Hello"), ("assistant", "Hi")]
    rows = [
        {
            "prompt": [{"role": r, "content": c} for r, c in [*(before if i % 2 else []), ("user", f"and {i}?")]],
            "chosen": [{"role": "assistant", "content": f"good {i}"}],
            "rejected": [{"role": "assistant", "content": f"poor {i}"}],
        }
        for i in range(4)
    ]
    return published(tmp_path_factory.mktemp("consumers"), rows, "trl_pairs")


@pytest.fixture
def lines(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the Python lines of a heading but those that need the tool; what they defined."""

    def run(heading: str, folder: Path = folder) -> dict[str, Any]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        kind, text = BLOCKS[heading]
        assert kind == "python"
        assert sum(map(bool, text.splitlines())) == 3
        made: dict[str, Any] = {}
        exec("\n".join(x for x in text.replace("owner/set", str(folder)).splitlines() if "Trainer(" not in x), made)
        return made

    return run


def load(folder: Path, tmp_path: Path, config: str | None) -> list[Row]:
    return list(datasets.load_dataset(str(folder), config, split="train", cache_dir=str(tmp_path / "c")))


def is_conversation(messages: Any) -> bool:
    return bool(messages) and all(set(m) >= {"role", "content"} and isinstance(m["content"], str) for m in messages)


def test_every_tool_of_the_table_has_its_lines() -> None:
    table = DOCS.read_text().partition("| tool | config |")[2].partition("\n\n")[0]
    tools = [line.split("|")[1].strip(" `") for line in table.splitlines()[2:]]
    named = [t.replace("`", "").replace("Trainer", "") for t in tools]
    headings = [h for h in BLOCKS if not h.startswith(("Which", "Sets", "What is"))]
    missing = [h for h in headings if not any(h.split()[0] in n or h in n for n in named)]
    assert missing == []
    assert len(headings) == len(tools)


# ---- TRL: the shapes that its documentation names ----


@pytest.mark.parametrize("heading", ["TRL DPO", "TRL Reward"])
def test_trl_pairs(lines: Any, heading: str) -> None:
    for row in lines(heading)["pairs"]:
        assert is_conversation(row["prompt"])
        assert row["prompt"][-1]["role"] == "user"
        assert is_conversation(row["chosen"])
        assert is_conversation(row["rejected"])
        assert row["chosen"][0]["role"] == "assistant"


def test_trl_answers_with_labels(lines: Any) -> None:
    rows = list(lines("TRL KTO")["answers"])
    assert [r["label"] for r in rows] == [True, False] * 4
    assert all(is_conversation(r["prompt"]) and is_conversation(r["completion"]) for r in rows)
    assert all(("good" in r["completion"][0]["content"]) == r["label"] for r in rows)


def test_trl_conversations(lines: Any) -> None:
    for row in lines("TRL SFT")["conversations"]:
        assert is_conversation(row["messages"])
        assert row["messages"][-1]["content"].startswith("good")


# ---- reproduced ----


def test_open_instruct(lines: Any, tmp_path: Path) -> None:
    """It takes all but the last message of `chosen` as the prompt, and renders both conversations."""
    lines("open-instruct")
    rows = datasets.load_dataset("parquet", data_files=str(tmp_path / "pairs.parquet"), split="train")
    for row in rows:
        prompt = row["chosen"][:-1]
        assert prompt == row["rejected"][:-1]
        assert is_conversation(prompt)
        assert prompt[-1]["role"] == "user"
        assert (row["chosen"][-1]["content"][:4], row["rejected"][-1]["content"][:4]) == ("good", "poor")


def test_openrlhf(folder: Path, tmp_path: Path) -> None:
    """It loads the default config and joins the lists under the keys that it is told."""
    kind, text = BLOCKS["OpenRLHF"]
    keys = dict(re.findall(r"--data\.(\w+)_key (\w+)", text))
    assert kind == "bash"
    for row in load(folder, tmp_path, None):
        for side in ("chosen", "rejected"):
            conversation = row[keys["prompt"]] + row[keys[side]]
            assert is_conversation(conversation)
            assert [m["role"] for m in conversation][-2:] == ["user", "assistant"]


def test_axolotl(folder: Path, tmp_path: Path) -> None:
    """argilla_chat maps each role of `chosen` but the last message's, and takes the last of both as responses."""
    (source,) = yaml.safe_load(BLOCKS["axolotl"][1])["datasets"]
    assert source["type"] == "chat_template.argilla_chat"
    for row in load(folder, tmp_path, source["name"]):
        assert {m["role"] for m in row["chosen"]} <= {"user", "assistant", "system", "tool"}
        assert row["chosen"][:-1][-1]["role"] == "user"
        assert row["rejected"][-1]["content"].startswith("poor")


def test_llama_factory(folder: Path, tmp_path: Path) -> None:
    """A ranking set of the sharegpt kind: after a system message the roles alternate, an odd number of messages that the user
    ends; chosen and rejected are one message each, a dict."""
    own = json.loads(BLOCKS["LLaMA-Factory"][1])["pairs"]
    columns, tags = own["columns"], own["tags"]
    assert own["ranking"] is True
    for row in load(folder, tmp_path, own["subset"]):
        messages = row[columns["messages"]]
        if messages[0][tags["role_tag"]] == tags["system_tag"]:
            messages = messages[1:]
        roles = [m[tags["role_tag"]] for m in messages]
        assert len(roles) % 2 == 1
        assert all(r == tags["assistant_tag" if i % 2 else "user_tag"] for i, r in enumerate(roles))
        for side in ("chosen", "rejected"):
            answer = row[columns[side]]
            assert isinstance(answer, dict)
            assert answer[tags["role_tag"]] == tags["assistant_tag"]
            assert isinstance(answer[tags["content_tag"]], str)


def test_nemo_rl(lines: Any, tmp_path: Path) -> None:
    """Two completions; the one of lower rank is preferred, equal ranks are refused."""
    lines("NeMo-RL")
    for text in (tmp_path / "pairs.jsonl").read_text().splitlines():
        row = json.loads(text)
        best, worst = row["completions"]
        assert best["rank"] < worst["rank"]
        assert is_conversation(row["context"] + best["completion"])
        assert best["completion"][0]["content"].startswith("good")


def test_torchtune(folder: Path, tmp_path: Path) -> None:
    """It marks each message of the lists `chosen` and `rejected` as masked or not, and makes a Message of it."""
    own = yaml.safe_load(BLOCKS["torchtune"][1])["dataset"]
    for row in load(folder, tmp_path, own["name"]):
        for side in ("chosen", "rejected"):
            masked = [m["role"] != "assistant" for m in row[side]]
            assert masked[-1] is False
            assert is_conversation(row[side])


def test_ultrafeedback_binarized(lines: Any, tmp_path: Path) -> None:
    answers = [
        {"model": "a", "response": "good", "overall_score": 4.5},
        {"model": "b", "response": "poor", "overall_score": 1.0},
    ]
    rows = [{"instruction": f"What is {i}?", "completions": answers} for i in range(4)]
    made = lines("UltraFeedback-binarized", published(tmp_path, rows, "ultrafeedback"))
    assert made["margins"] == [3.5] * 4
    for row in made["train"]:
        assert isinstance(row["prompt"], str)
        assert [m["content"] for m in row["chosen"]] == [row["prompt"], "good"]
        assert [m["content"] for m in row["rejected"]] == [row["prompt"], "poor"]
        assert row["prompt_id"]


def test_prefdata_reads_sets(folder: Path, tmp_path: Path) -> None:
    from prefdata.output import read_back

    own = yaml.safe_load(BLOCKS["prefdata"][1])
    assert own["data"]["format"] == "sets"
    assert read_back.read(folder)[0].height == 4
