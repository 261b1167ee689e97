"""A set published without the texts of its sources, and the script that joins them again."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pyarrow.parquet as pq
import pytest
from conftest import nectar, run_stages
from hub.sets import hub  # noqa: F401

from prefdata.draws import hex_id
from prefdata.errors import ConfigError, DataError
from prefdata.output import delta, read_back
from prefdata.recipe.job import Job
from prefdata.recipe.results import Results
from prefdata.stages import publish
from prefdata.tables import schema
from prefdata.tables.content import ContentHash
from prefdata.workflow.join import join

ROOT = Path(__file__).parents[1]
ROWS = [
    nectar(f"Question {a}", [(f"splendid {a}", 1), (f"fair {a}", 2), (f"poor {a}", 3)], split="test" if a > "e" else "train")
    for a in "abcdefg"
]
WORDS = (b"Question", b"splendid", b"fair", b"poor")
CONFIGS = ["preference", "preference_full", "ranked", "unpaired", "sets", "candidates", "drops"]
KEPT = ("response", "origin", "producer", "finish", "extras")
Make = Callable[..., Results]


@pytest.fixture
def published(make_run: Make, write_rows: Callable[..., str], tmp_path: Path) -> Make:
    def make(name: str, rows: Any = ROWS, license: str = "cc-by-nc-nd-4.0", **own: Any) -> Path:
        source = {"name": "s", "path": write_rows(rows), "license": license}
        run = make_run(
            sources={"sources": [source]}, prune={"drop_ranks": []}, publish={"configs": CONFIGS, **own}, num_shards=2
        )
        run_stages(run, "sources", "split", "prune", "rank:source", "noise", "sets", "report", "card")
        publish.run(Job(run, "publish"))
        return shutil.copytree(run.root / "publish" / "t", tmp_path / name)

    return make


def everything(folder: Path) -> bytes:
    """All bytes, those of Parquet files decoded."""
    texts = [p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".parquet"]
    return b"".join([*texts, *(pl.read_parquet(p).write_json().encode() for p in folder.rglob("*.parquet"))])


def run_script(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, str(folder / "join.py"), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder.parent,
    )


def test_no_text_of_a_source_leaves(published: Make) -> None:
    folder = published("delta", delta=True)
    found = everything(folder)
    assert not [word for word in WORDS if word in found]
    assert {p.name for p in (folder / "data").iterdir()} == {"sets", "candidates"}, "nothing was dropped"
    row = pl.read_parquet(folder / "data" / "sets").row(0, named=True)
    assert row["prompt"] is None
    assert [(c["role"], c["rank"], c["response"]) for c in row["candidates"]] == [
        ("chosen", 1, None),
        ("rejected", 2, None),
        ("rejected", 3, None),
    ]


def test_the_card_of_a_delta_quotes_no_duplicates(make_run: Make, write_rows: Callable[..., str]) -> None:
    """Of prompts that dedup holds for one the report shows examples, which the card repeats."""
    words = "which of these seven rivers of the old kingdom is the longest one of all"
    rows = [nectar(f"{words} {a}", [("splendid", 1), ("poor", 2)], split="train") for a in ("today", "now")]

    def warnings(**own: Any) -> str:
        sources = {"sources": [{"name": "s", "path": write_rows(rows), "license": "mit"}], "max_reject_rate": 1.0}
        run = make_run(sources=sources, dedup={}, warn_share=0.1, prune={"drop_ranks": []}, publish=own)
        run_stages(run, "sources", "signatures", "dedup", "split", "prune", "rank:source", "noise", "sets", "report", "card")
        return (run.root / "publish" / "card.md").read_text()

    assert "rivers" in warnings()
    assert "rivers" not in warnings(delta=True)


def test_the_script_gives_back_what_would_have_been_published(published: Make, tmp_path: Path) -> None:
    whole, bare = published("whole"), published("delta", delta=True)
    done = run_script(bare, str(tmp_path / "joined"), f"s={tmp_path}/rows.jsonl")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("28 of 28 rows have their texts now"), "7 prompts and their 21 candidates"
    for path in whole.rglob("*.parquet"):
        joined = tmp_path / "joined" / path.relative_to(whole)
        assert pl.read_parquet(joined).equals(pl.read_parquet(path)), joined
        assert pl.read_parquet_schema(joined) == pl.read_parquet_schema(path)
    for config in CONFIGS[:-1]:
        loaded = datasets.load_dataset(str(tmp_path / "joined"), config, cache_dir=str(tmp_path / "cache"))
        assert set(loaded) == {"train", "test"}
    assert read_back.read(tmp_path / "joined")[0].equals(read_back.read(whole)[0])
    listed = [json.loads((folder / "manifest.json").read_text())["files"] for folder in (tmp_path / "joined", whole)]
    assert listed[0] == listed[1], "the hashes of an ordinary publication"


def test_what_never_had_texts_is_copied_as_it_is(published: Make, tmp_path: Path) -> None:
    bare = published("delta", delta=True)
    name = "data/drops/train-00000-of-00001.parquet"
    rows = pl.DataFrame({"prompt_id": ["p"], "stage": ["prune"]}).to_arrow()
    (bare / name).parent.mkdir()
    pq.write_table(rows, bare / name, write_page_checksum=True)
    done = run_script(bare, str(tmp_path / "joined"), f"s={tmp_path}/rows.jsonl")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "joined" / name).read_bytes() == (bare / name).read_bytes()
    digest = ContentHash(rows.schema)
    digest.update(rows)
    assert json.loads((tmp_path / "joined" / "manifest.json").read_text())["files"][name] == digest.hexdigest()


def test_all_joined_files_have_one_schema_though_one_shard_has_tool_calls(
    make_run: Make, write_rows: Callable[..., str], tmp_path: Path
) -> None:
    def answer(text: str, **more: Any) -> list[dict[str, Any]]:
        return [{"role": "assistant", "content": text, **more}]

    call = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    rows = [
        {"prompt": f"Question {i}", "chosen": answer("splendid"), "rejected": answer("poor"), "split": "train"}
        for i in range(8)
    ]
    rows[0]["chosen"] = answer("", tool_calls=[call])
    path = write_rows(rows)
    sources = {"sources": [{"name": "s", "path": path, "format": "trl_pairs", "license": "mit"}]}
    run = make_run(sources=sources, prune={"drop_ranks": []}, publish={"delta": True}, num_shards=3)
    run_stages(run, "sources", "split", "prune", "rank:source", "noise", "sets", "report", "card")
    publish.run(Job(run, "publish"))
    join(run.root / "publish" / "t", tmp_path / "joined", [("s", path)])
    schemas = [pq.read_schema(p) for p in (tmp_path / "joined" / "data" / "preference").iterdir()]
    assert len(schemas) > 1
    assert all(s.equals(schemas[0]) for s in schemas)
    loaded = datasets.load_dataset(str(tmp_path / "joined"), "preference", split="train", cache_dir=str(tmp_path / "cache"))
    assert [r["chosen"][0]["tool_calls"] for r in loaded if r["chosen"][0]["tool_calls"]] == [[call]]


def test_a_source_that_forbids_it_is_pushed_as_a_delta(hub: Any, published: Make) -> None:  # noqa: F811
    published("delta", delta=True, repo_id="owner/set")
    files = hub.head("owner/set").files
    assert "join.py" in files
    assert hub.head("owner/set").files["join.py"] == (ROOT / "cards" / "join.py").read_bytes()
    before = len(hub.repos["owner/set"])
    published("again", delta=True, repo_id="owner/set")
    assert len(hub.repos["owner/set"]) == before, "the same again is no commit"
    published("whole", license="mit", repo_id="owner/set")
    assert "join.py" not in hub.head("owner/set").files


def test_a_delta_is_no_set_to_train_on(published: Make) -> None:
    folder = published("delta", delta=True)
    with pytest.raises(ConfigError, match=r"a delta: it has no texts of its sources; join them: python join\.py"):
        read_back.read(folder)


def test_other_texts_are_not_joined(published: Make, tmp_path: Path, write_rows: Callable[..., str]) -> None:
    folder = published("delta", delta=True)
    changed = [nectar("Question a", [("splendid a", 1), ("fair a", 2), ("other", 3)]), *ROWS[1:3]]
    path = write_rows(changed, "changed.jsonl")
    assert join(folder, tmp_path / "some", [("s", path)]).startswith(f"{3 + 8} of 28 rows")
    row = read_back.read(tmp_path / "some")[0].filter(pl.col("prompt").list.last().struct.field("content") == "Question a")
    assert [c["response"] for c in row["candidates"][0].to_list()] == ["splendid a", "fair a"]
    with pytest.raises(DataError, match="no prompt of the delta is in these sources"):
        join(folder, tmp_path / "none", [("s", write_rows([nectar("Another", [("x", 1), ("y", 2)])], "another.jsonl"))])
    assert not (tmp_path / "none").exists(), "half a set is none"


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ([], r"where does the source 's' lie\?; add s=FILE"),
        ([("s", "rows.jsonl"), ("t", "x.jsonl")], "no local source is named 't'"),
    ],
)
def test_mistakes_are_one_line(published: Make, tmp_path: Path, places: list[tuple[str, str]], said: str) -> None:
    folder = published("delta", delta=True)
    with pytest.raises(ConfigError, match=said):
        join(folder, tmp_path / "out", places)
    with pytest.raises(ConfigError, match="it is there already"):
        join(folder, folder, [("s", "rows.jsonl")])


def test_the_script_says_what_is_wrong(published: Make, tmp_path: Path) -> None:
    folder = published("delta", delta=True)
    lacking = run_script(folder, str(tmp_path / "out"))
    assert (lacking.returncode, lacking.stderr) == (2, "error: where does the source 's' lie?; add s=FILE\n")
    assert "python join.py OUT NAME=FILE" in run_script(folder).stderr
    (folder / "manifest.json").write_text(json.dumps({"delta": {"configs": 1}}))
    assert "not the manifest of a delta" in run_script(folder, str(tmp_path / "out"), "s=x").stderr


def test_what_cannot_be_joined_is_refused(make_run: Make) -> None:
    with pytest.raises(ConfigError, match=r"publish\.delta: labelled answers and sft cannot be joined"):
        make_run(sources={"sources": [{"name": "s", "path": "x"}]}, publish={"delta": True, "configs": ["sft"]})


def test_own_models_answers_keep_their_words_and_noise_has_none() -> None:
    prompt, ids = hex_id("p"), [hex_id("c", n) for n in range(3)]
    origins = ("source", "generated", "noise")
    common = {"rank": 1, "finish": "stop", "copies": 1, "logps": [], "producer": "m", "role": "rejected"}
    answers = [
        {"candidate_id": i, "origin": o, "response": f"of {o}", "extras": '{"name":"x"}', **common}
        for i, o in zip(ids, origins, strict=True)
    ]
    answers[0]["role"] = "chosen"
    row = {"prompt_id": prompt, "split": "train", "prompt": [{"role": "user", "content": "x"}], "candidates": answers}
    judged = {"prompt_id": prompt, "a": ids[0], "b": ids[1], "order": "ab", "judge": "j", "rubric": "r", "round": 0}
    made = [
        {"prompt_id": prompt, "candidate_id": c["candidate_id"], "sample": 0, "raw": "said", **{k: c[k] for k in KEPT}}
        for c in answers
    ]
    frames = {
        "sets": schema.frame("sets", [row]),
        "verdicts": schema.frame("verdicts", [{**judged, "reason": "A says x", "raw": "x"}]),
        "candidates": schema.frame("candidates", made),
    }
    bare = delta.without_texts(frames)
    assert [c["response"] for c in bare["sets"]["candidates"][0].to_list()] == [None, "of generated", None]
    assert [c["extras"] for c in bare["sets"]["candidates"][0].to_list()] == [None, '{"name":"x"}', None]
    by_id = dict(bare["candidates"].select("candidate_id", "raw").iter_rows())
    assert [by_id[i] for i in ids] == [None, "said", None]
    assert bare["verdicts"].select("reason", "raw").row(0) == (None, None)
    assert bare["sets"].schema == frames["sets"].schema
    sources = delta.texts_of(
        schema.frame(
            "prompts", [{"prompt_id": prompt, "messages": row["prompt"], "source": "s", "source_row": "r", "license": "mit"}]
        ),
        frames["candidates"].filter(pl.col("origin") == "source"),
    )
    whole = delta.with_texts(bare["sets"], sources)
    assert [c["response"] for c in whole["candidates"][0].to_list()] == ["of source", "of generated"]
