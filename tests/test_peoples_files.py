"""Sets in other people's hands, end to end: what `datasets` and polars make of a published set, large drops, broken models."""

import json
import math
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
import transformers
import yaml
from conftest import nectar, run_stages
from hypothesis import given
from hypothesis import strategies as st
from models import config
from servers.scripted import Scripted, Server
from test_from_file import pairs, published, settings_file
from test_generating import generated, made, says

import prefdata
from prefdata.draws import hex_id
from prefdata.errors import ConfigError, DataError, EngineError, PublishError
from prefdata.models.tokens import load_encoder
from prefdata.output import read_back
from prefdata.output.large_drops import large
from prefdata.recipe.results import Results
from prefdata.recipe.units import Part
from prefdata.sources.toy import tokenizers
from prefdata.stages import sources
from prefdata.tables import files, schema
from prefdata.tables.schema import TABLES, Table
from prefdata.workflow import cli
from train import from_file

__all__ = ["generated", "published", "settings_file"]
Row = dict[str, Any]
Published = Callable[..., Path]
Scored = Callable[..., Results]
SET = ("sources", "split", "prune", "rank:source", "noise", "sets")
ALL = (*SET, "report", "card", "publish")
REPORTED = "report/report.json"


# ---- what a published set says ----


def call(name: str, **arguments: Any) -> Row:
    """Its keys are in no alphabetical order."""
    return {"type": "function", "id": "c1", "function": {"name": name, "arguments": arguments}}


TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"properties": {"town": {"type": "string"}}}}}]
ASKED = [
    {"role": "user", "content": "Rain in Köln?"},
    {"role": "assistant", "content": None, "tool_calls": [call("weather", town="Köln")]},
    {"role": "tool", "content": "no", "name": "weather", "tool_call_id": "c1"},
    {"role": "user", "content": "And in Rome?"},
]
CALLING = {"role": "assistant", "content": "", "tool_calls": [call("weather", day=2, in_town={"Rome": None})]}
THINKING = {"role": "assistant", "content": "no", "reasoning_content": "Öfter says no", "tool_calls": [call("stop")]}
SAID = {"prompt": ASKED, "chosen": [CALLING], "rejected": [THINKING], "tools": TOOLS, "chat_template_kwargs": {"mood": "dry"}}
PLAIN = [{"prompt": f"S{a}", "chosen": "ab", "rejected": "c"} for a in "abcdefghijkl"]


@pytest.fixture(autouse=True)
def _few_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buckets bound the memory of large sources; a dozen rows need no 128 of them."""
    monkeypatch.setattr(sources, "MIN_BUCKETS", 4)


@pytest.fixture
def publish(make_run: Callable[..., Results], write_rows: Callable[..., str], tmp_path: Path) -> Published:
    """publish(rows, folder, format, key=...) -> the folder of the set that was published from these rows."""

    def call(rows: Sequence[Row], folder: str = "results", kind: str = "trl_pairs", **keys: Any) -> Path:
        source = {"name": "s", "path": write_rows(rows, f"{folder}.jsonl"), "format": kind, "license": "mit"}
        keys = {"prune": {"drop_ranks": []}, "noise": {"copies": 0}, **keys}
        run = replace(make_run(sources={"sources": [source]}, **keys), folder=tmp_path / folder)
        run_stages(run, *ALL)
        return run.root / "publish" / "t"

    return call


def load(folder: Path, name: str | None = "preference") -> list[Row]:
    """All rows of a config as `datasets` gives them; one cache for all sets of a test."""
    found = datasets.load_dataset(str(folder), name, cache_dir=str(folder.parents[3] / "cache"))
    return [row for split in found.values() for row in split.to_list()]


def shape(value: object) -> str:
    """A value as JSON: its keys in their own order, and none but its own."""
    return json.dumps(value, ensure_ascii=False)


def prompt_ids(folder: Path) -> list[str]:
    return sorted(row["prompt_id"] for p in sorted(folder.glob("data/sets/*")) for row in pq.read_table(p).to_pylist())


def test_datasets_gives_tool_calls_as_objects_and_reasoning_as_text(publish: Published) -> None:
    rows = load(publish([SAID, *PLAIN[:3]]))
    (said,) = [r for r in rows if r["tools"] is not None]
    assert shape(said["chosen"][0]["tool_calls"]) == shape(CALLING["tool_calls"])
    assert shape(said["rejected"][0]["tool_calls"]) == shape(THINKING["tool_calls"])
    assert shape(said["prompt"][1]["tool_calls"]) == shape(ASKED[1]["tool_calls"])
    assert said["rejected"][0]["reasoning_content"] == "Öfter says no"
    assert said["prompt"][2]["tool_call_id"] == "c1"
    assert [m["content"] for m in said["prompt"]] == ["Rain in Köln?", None, "no", "And in Rome?"]
    assert (shape(json.loads(said["tools"])), said["chat_template_kwargs"]) == (shape(TOOLS), {"mood": "dry"})
    others = [r for r in rows if r is not said]
    assert all(r["chat_template_kwargs"] == {} for r in others), "TRL takes no null for it"
    assert {m[k] for r in others for m in [*r["prompt"], *r["chosen"]] for k in ("tool_calls", "reasoning_content")} == {None}


def test_a_set_without_extras_has_role_and_content_only(publish: Published) -> None:
    rows = load(publish(PLAIN))
    assert "tools" in rows[0]
    assert "chat_template_kwargs" not in rows[0]
    assert {frozenset(m) for r in rows for k in ("prompt", "chosen", "rejected") for m in r[k]} == {
        frozenset(("role", "content"))
    }


def test_all_files_of_a_config_have_one_schema_though_one_shard_has_tool_calls(publish: Published) -> None:
    folder = publish([SAID, *PLAIN], num_shards=4)
    for name in ("preference", "sets", "candidates"):
        schemas = [pq.read_schema(p) for p in sorted(folder.glob(f"data/{name}/*-of-00004.parquet"))]
        assert len(schemas) > 2
        assert all(s.equals(schemas[0]) for s in schemas)
    having = [p for p in folder.glob("data/preference/*") if any(r["tools"] for r in pq.read_table(p).to_pylist())]
    assert len(having) == 1
    assert len(load(folder)) == 13


IN_ORDER = {"role": "tool", "content": "no", "tool_call_id": "c1", "name": "weather"}
WEIGHED = {"role": "assistant", "content": "no", "weight": 0}


@pytest.mark.parametrize(
    "prompt",
    [
        ASKED,
        [*ASKED[:2], IN_ORDER, ASKED[3]],
        [ASKED[0], WEIGHED, ASKED[3]],
    ],
    ids=["tool_calls", "keys_in_another_order", "a_key_that_is_no_text"],
)
def test_published_pairs_read_back_are_the_same_prompts(
    publish: Published, make_run: Callable[..., Results], tmp_path: Path, prompt: list[Row]
) -> None:
    folder = publish([{**SAID, "prompt": prompt}, *PLAIN], num_shards=3)
    path = sorted(map(str, folder.glob("data/preference/*.parquet")))
    run = make_run(sources={"sources": [{"name": "back", "path": path, "format": "trl_pairs"}]}, num_shards=2)
    run = replace(run, folder=tmp_path / "back")
    run_stages(run, "sources")
    found = [i for s in run.shards for i in files.read_table(run.table(Part("prompts", "sources"), s), "prompts")["prompt_id"]]
    assert sorted(found) == prompt_ids(folder)


def test_candidates_of_a_set_unnest_in_polars(publish: Published) -> None:
    rows = [nectar(f"S{a}", [("a", 1), ("b", 2), ("c", 3)]) for a in "abcd"]
    sets = pl.read_parquet(publish(rows, kind="nectar") / "data/sets/*.parquet")
    flat = sets.explode("candidates").unnest("candidates")
    assert flat.height == 12
    assert flat.filter(pl.col("role") == "chosen")["response"].to_list() == ["a"] * 4
    assert flat.select("prompt_id", "candidate_id").is_unique().all()


# ---- the cache and the header that it is found by ----


def ranked(letters: str, answers: Sequence[str] = "abc", **extra: Any) -> list[Row]:
    return [nectar(f"S{a}", [(text, i + 1) for i, text in enumerate(answers)], **extra) for a in letters]


def header(folder: Path) -> dict[str, Any]:
    found = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    assert isinstance(found, dict)
    return found


def test_two_sets_of_one_name_in_one_cache_give_their_own_rows(publish: Published) -> None:
    one, other = publish(PLAIN[:4], "one"), publish(PLAIN[4:8], "other")
    assert one.name == other.name
    for folder, letters in ((one, "abcd"), (other, "efgh"), (one, "abcd")):
        assert sorted(r["prompt"][0]["content"] for r in load(folder)) == [f"S{a}" for a in letters]
        assert sorted(r["prompt_id"] for r in load(folder, "sets")) == prompt_ids(folder)


def test_one_folder_before_and_after_another_pruning_in_one_cache(publish: Published) -> None:
    for ranks, left in (([], {"a", "b", "c"}), ([2], {"a", "c"})):
        folder = publish(ranked("abcdef"), kind="nectar", prune={"drop_ranks": ranks})
        assert [{c["response"] for c in r["candidates"]} for r in load(folder, "sets")] == [left] * 6
        assert {r["response"] for r in load(folder, "candidates")} == left
        assert {r["rejected"][0]["content"] for r in load(folder)} <= left - {"a"}


@pytest.mark.parametrize("origins", [["source"], ["generated"]])
def test_the_header_lists_configs_and_splits_that_have_files(publish: Published, origins: list[str]) -> None:
    rows = [*ranked("abcd", split="train"), *ranked("efg", split="test")]
    folder = publish(rows, kind="nectar", sets={"origins": origins})
    listed = header(folder)["configs"]
    assert {c["config_name"] for c in listed} == {p.parent.name for p in folder.glob("data/*/*.parquet")}
    assert {c["config_name"] for c in listed} >= {"sets", "candidates"}
    for each in listed:
        paths = [sorted(folder.glob(f["path"])) for f in each["data_files"]]
        assert [f["split"] for f in each["data_files"]] == ["train", "test"]
        assert all(paths)
        assert sorted(p for some in paths for p in some) == sorted((folder / "data" / each["config_name"]).iterdir())
        assert len(load(folder, each["config_name"])) == (21 if each["config_name"] == "candidates" else 7)


def test_a_config_that_is_gone_leaves_the_header_of_the_folder(publish: Published) -> None:
    publish(ranked("abcdef"), kind="nectar")
    folder = publish(ranked("abcdef"), kind="nectar", sets={"origins": ["generated"]})
    assert {c["config_name"] for c in header(folder)["configs"]} == {p.parent.name for p in folder.glob("data/*/*.parquet")}
    assert len(load(folder, "sets")) == 6


def target_with(tmp_path: Path, own: str, data_files: object, first: Sequence[Row] = ()) -> Path:
    """A folder to publish to that has a config of somebody's own."""
    folder = tmp_path / "results" / "t" / "publish" / "t"
    folder.mkdir(parents=True)
    rows = pl.DataFrame([{"x": 1}, {"x": 2}])
    rows.write_parquet(folder / own) if own.endswith("parquet") else rows.write_ndjson(folder / own)
    known = {"configs": [*first, {"config_name": "default", "data_files": data_files}], "pretty_name": "Mine"}
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(known)}---\nMy words\n")
    return folder


def test_a_config_of_ones_own_called_default_stays_loadable(publish: Published, tmp_path: Path) -> None:
    folder = target_with(tmp_path, "mine.parquet", "mine.parquet")
    for given_ in (PLAIN[:4], PLAIN[:6]):
        assert publish(given_) == folder
        assert load(folder, None) == [{"x": 1}, {"x": 2}]
        assert len(load(folder)) == len(given_)
        assert "My words" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    "data_files",
    ["mine.jsonl", ["min*.jsonl"], [{"split": "train", "path": "mine.jsonl"}], [{"split": "train", "path": ["mine.jsonl"]}]],
    ids=["text", "list", "split", "paths"],
)
def test_beside_a_first_config_in_json_lines_nothing_is_published(
    publish: Published, tmp_path: Path, data_files: object
) -> None:
    """`datasets` reads every config of a folder in the format of the first: one of the two could not be loaded."""
    folder = target_with(tmp_path, "mine.jsonl", data_files)
    before = {p: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(
        PublishError, match=r"^README.md: the target's config default reads min.*jsonl, .*write those files as Parq"
    ):
        publish(PLAIN[:4])
    assert {p: p.read_bytes() for p in folder.iterdir()} == before
    assert load(folder, None) == [{"x": 1}, {"x": 2}]


def test_ours_load_where_the_first_config_is_parquet_whatever_comes_after(publish: Published, tmp_path: Path) -> None:
    first = {"config_name": "theirs", "data_files": [{"split": "train", "path": "theirs*.parquet"}]}
    folder = target_with(tmp_path, "mine.jsonl", "mine.jsonl", [first])
    pl.DataFrame([{"x": 3}]).write_parquet(folder / "theirs0.parquet")
    assert len(load(publish(PLAIN[:4]))) == 4
    assert load(folder, "theirs") == [{"x": 3}]


# ---- what is said of large drops and of texts that carry a template ----


def reported(make_run: Callable[..., Results], path: str, *stages: str, **keys: Any) -> tuple[list[str], str]:
    """(warnings of the report, the card) of a run of these stages."""
    run = make_run(sources={"sources": [{"name": "s", "path": path}]}, noise={"copies": 0}, **keys)
    run_stages(run, *(stages or SET), "report", "card")
    return json.loads(run.path(REPORTED).read_text())["warnings"], run.path("publish/card.md").read_text()


SINGLE = [*ranked("abcde", "a"), *ranked("fgh", "abc")]


def test_a_large_drop_is_said_with_reason_meaning_and_remedy(
    make_run: Callable[..., Results], write_rows: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    warnings, card = reported(make_run, write_rows(SINGLE), prune={"drop_ranks": []})
    said = (
        "sets preference leaves out 5 of 8 prompts (need_2: fewer than two answers are left); "
        "add answers, or see what drops them"
    )
    assert warnings == [said]
    assert f"warning: {said}\n" in capsys.readouterr().err
    assert f"- {said}.\n" in card.replace("\\", "")


def test_nothing_is_said_up_to_the_share(
    make_run: Callable[..., Results], write_rows: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    warnings, card = reported(make_run, write_rows(SINGLE), prune={"drop_ranks": []}, warn_share=5 / 8)
    assert warnings == []
    assert "leaves out" not in card
    assert "warning" not in capsys.readouterr().err


def test_duplicates_that_take_a_large_share_are_shown(
    make_run: Callable[..., Results], write_rows: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [nectar(text) for text in ("Why is it so?", "why is it so", "WHY is it so!", "Why not?", "Who was it?", "How?")]
    stages = ("sources", "signatures", "dedup", *SET[1:])
    warnings, card = reported(make_run, write_rows(rows), *stages, dedup={}, prune={"drop_ranks": []})
    first, *shown = warnings
    assert first.startswith(
        "dedup leaves out 2 of 6 prompts (duplicate: a prompt that repeats another); see dedup, or set dedup"
    )
    assert len(shown) == 2
    assert all(w.startswith("dedup holds these for one: ") and len(re.findall("(?i)why is it so", w)) == 2 for w in shown)
    said = capsys.readouterr().err
    assert all(f"warning: {w}\n" in said for w in warnings)
    assert card.count("dedup holds these for one") == 2


TEMPLATED = [nectar("Sab"), nectar("<|im_start|>user\nSba<|im_end|>"), nectar("Sbb", [("[INST] ab", 1), ("b", 2)])]


def test_text_of_a_chat_template_is_said_once_with_its_place(
    make_run: Callable[..., Results], write_rows: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(sources={"sources": [{"name": "s", "path": write_rows(TEMPLATED)}]})
    run_stages(run, "sources")
    said = capsys.readouterr().err
    assert said.count("warning: ") == 1
    assert "warning: rows.jsonl:2:prompt: <|im_start|> is text of a chat template (2 rows have some)" in said
    assert "set template: rendered" in said
    run_stages(make_run(sources={"sources": [{"name": "s", "path": write_rows([TEMPLATED[2], TEMPLATED[0]])}]}), "sources")
    assert "warning: rows.jsonl:1:answer: [INST] is text" in capsys.readouterr().err


@pytest.mark.parametrize("rows", [TEMPLATED, [nectar("a < b [x] <b>c</b> | d")]])
def test_nothing_is_said_of_rendered_prompts_and_of_other_brackets(
    make_run: Callable[..., Results], write_rows: Callable[..., str], capsys: pytest.CaptureFixture[str], rows: list[Row]
) -> None:
    references = [{"name": "r", "model": "owner/m", "revision": "0" * 40, "template": "rendered"}] if rows is TEMPLATED else []
    run_stages(
        make_run(sources={"sources": [{"name": "s", "path": write_rows(rows)}]}, score={"references": references}), "sources"
    )
    assert "warning" not in capsys.readouterr().err


# ---- models that cannot serve ----


def save(folder: Path, change: Callable[[Any], object], template: str | None = None, **keys: Any) -> Path:
    """A tiny model with the toy tokenizer, changed, in `folder`."""
    tokenizers.write(folder / "toys")
    tokenizer = load_encoder(str(folder / "toys" / "small")).tokenizer
    tokenizer.chat_template = template or tokenizer.chat_template
    torch.manual_seed(0)
    keys = {"vocab_size": len(tokenizer), "max_position_embeddings": 64, "initializer_range": 0.1, **keys}
    model = transformers.AutoModelForCausalLM.from_config(config(keys.pop("family", "llama"), **keys))
    with torch.no_grad():
        change(model)
    model.save_pretrained(folder / "m")
    tokenizer.save_pretrained(folder / "m")
    return folder / "m"


def all_nan(model: Any) -> None:
    for weight in model.parameters():
        weight.fill_(float("nan"))


def nan_for(character: str) -> Callable[[Any], None]:
    """The toy tokenizer has one token a byte: its own row of the embedding."""

    def change(model: Any) -> None:
        alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
        model.get_input_embeddings().weight[alphabet.index(character)] = float("nan")

    return change


@pytest.fixture
def scored(make_run: Callable[..., Results], write_rows: Callable[..., str]) -> Scored:
    """scored(model, rows) -> a run whose set was scored under the model."""

    def call(model: Path, rows: Sequence[Row], **keys: Any) -> Results:
        run = make_run(
            sources={"sources": [{"name": "s", "path": write_rows(rows)}], "max_reject_rate": 1},
            score={"references": [{"name": "primary", "model": str(model)}]},
            prune={"drop_ranks": []},
            noise={"copies": 0},
            **keys,
        )
        run_stages(run, *SET[:-1], "score", "sets")
        return run

    return call


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """`prefdata ...` in this process."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(sys, "argv", ["prefdata", *arguments])
    cli.run_command()


TOO_FEW_ROWS = r"the tokenizer's largest id is 261, the model's embedding has 250 rows"


def test_ids_beyond_the_embedding_are_told_before_any_scoring(scored: Scored, tmp_path: Path) -> None:
    model = save(tmp_path / "few", lambda model: None, vocab_size=250)
    with pytest.raises(ConfigError, match=TOO_FEW_ROWS):
        scored(model, ranked("abc"))


@pytest.mark.parametrize("objective", ["dpo", "simpo"])
def test_ids_beyond_the_embedding_are_told_by_the_trainer(
    settings_file: Callable[..., Path],
    write_rows: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    objective: str,
) -> None:
    model = save(tmp_path / "few", lambda model: None, vocab_size=250)
    path = settings_file(objective=objective, model=str(model), data={"path": write_rows(pairs(4))})
    with pytest.raises(SystemExit) as ended:
        command(monkeypatch, "train", str(path))
    assert ended.value.code == 2
    assert re.search(rf"^error: .*{TOO_FEW_ROWS}", capsys.readouterr().err, re.M)
    assert not (tmp_path / "out").exists()


def test_ids_beyond_the_embedding_are_told_by_fit(tmp_path: Path) -> None:
    folder = save(tmp_path / "few", lambda model: None, vocab_size=250)
    model, tokenizer = (
        kind.from_pretrained(folder) for kind in (transformers.AutoModelForCausalLM, transformers.AutoTokenizer)
    )
    with pytest.raises(ConfigError, match=TOO_FEW_ROWS):
        prefdata.fit(model, tokenizer, [{"prompt": "S", "chosen": "a", "rejected": "b"}], "simpo", steps=1)


@pytest.fixture(scope="module")
def adapter(lm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter as peft saves it, the tokenizer beside it."""
    import peft

    folder = tmp_path_factory.mktemp("adapter")
    model = transformers.AutoModelForCausalLM.from_pretrained(lm)
    peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(lm).save_pretrained(folder)
    return folder


def test_an_adapter_is_told_from_a_model(
    adapter: Path,
    lm: Path,
    scored: Scored,
    generated: Callable[..., Results],
    settings_file: Callable[..., Path],
    write_rows: Callable[..., str],
) -> None:
    said = "a LoRA adapter, not a model.*merge"
    with pytest.raises(ConfigError, match=said):
        scored(adapter, ranked("abc"))
    with pytest.raises(ConfigError, match=said):
        generated("", ["Sab"], {"server": None, "id": str(adapter)})
    for keys in ({"model": str(adapter)}, {"reference_models": [{"name": "r", "model": str(adapter)}]}):
        with pytest.raises(ConfigError, match=said):
            path = settings_file(objective="dpo", data={"path": write_rows(pairs(4))}, **{"model": str(lm), **keys})
            from_file.prepare(from_file.load(path), cli.bring_up)


SLIDING = {"family": "mistral", "sliding_window": 4}


@pytest.mark.parametrize(
    ("answers", "keys"),
    [
        pytest.param(("ab", "ba", "cc"), {}, id="answers_of_one_length"),
        pytest.param(
            ("abab", "b", "cccccc"),
            {},
            id="answers_of_several_lengths",
        ),
        pytest.param(
            ("ab", "ba", "cc"),
            SLIDING,
            id="no_shared_prefix",
        ),
    ],
)
def test_a_model_of_nan_names_its_weights(scored: Scored, tmp_path: Path, answers: Sequence[str], keys: Row) -> None:
    with pytest.raises(EngineError, match="every log-prob is NaN: the weights of .*weight hold NaN"):
        scored(save(tmp_path / "nan", all_nan, **keys), ranked("abc", answers))


def test_nan_for_one_character_takes_the_prompts_that_have_it(scored: Scored, tmp_path: Path) -> None:
    rows = [nectar(text, [("ab", 1), ("ba", 2)]) for text in ("x", "xx", "Sabc", "Sbcd", "Scde")]
    run = scored(save(tmp_path / "x", nan_for("x")), rows)
    sets = files.read_table(run.table(Part("sets", "sets", "preference"), 0), "sets")
    assert sorted(m[0]["content"] for m in sets["prompt"].to_list()) == ["Sabc", "Sbcd", "Scde"]


@pytest.mark.parametrize("place", [0, 2])
def test_nan_for_one_character_takes_one_candidate(scored: Scored, tmp_path: Path, place: int) -> None:
    answers = ["ab", "ba", "bb"]
    answers[place] = "bxa"
    rows = [*ranked("abc", ("ab", "ba", "bb")), nectar("Sd", [(text, i + 1) for i, text in enumerate(answers)])]
    run = scored(save(tmp_path / "x", nan_for("x")), rows)
    unit = run.units("score")[0]
    logps, drops = (files.read_table(run.table(Part(t, "score", unit), 0), t) for t in ("logps", "drops"))
    assert logps.height == 11
    assert logps["logp"].is_finite().all()
    (drop,) = drops.to_dicts()
    assert (drop["scope"], drop["reason"], drop["detail"]) == ("candidate", "not_finite:primary", "a log-prob of nan")
    candidates = files.read_table(run.table(Part("candidates", "sources"), 0), "candidates")
    (own,) = candidates.filter(pl.col("response") == "bxa").to_dicts()
    assert (drop["prompt_id"], drop["candidate_id"]) == (own["prompt_id"], own["candidate_id"])
    sets = files.read_table(run.table(Part("sets", "sets", "preference"), 0), "sets")
    assert sorted(map(len, sets["candidates"])) == [*([] if place == 0 else [2]), 3, 3, 3]
    clean = scored(save(tmp_path / "clean", lambda model: None), rows)
    whole = files.read_table(clean.table(Part("logps", "score", clean.units("score")[0]), 0), "logps")
    both = logps.join(whole, on=["prompt_id", "candidate_id"], how="left")
    assert (both["logp"] - both["logp_right"]).abs().max() < 1e-4  # nothing of the other's NaN reached them


# ---- numbers that are none ----

FLOATS = [(t, c) for t in TABLES.values() for c, d in t.columns.items() if d == pl.Float64]


def rows_of(table: Table, count: int) -> pl.DataFrame:
    """Rows of a table that nothing stands against."""
    made = [{c: cell(c, d, table, i) for c, d in table.columns.items()} for i in range(count)]
    return schema.frame(table.name, made)


def cell(column: str, dtype: Any, table: Table, number: int) -> object:
    if column in table.nullable:
        return None
    if isinstance(dtype, pl.Enum):
        return dtype.categories[0]
    if dtype == pl.String:
        return hex_id(column, number)
    return [] if isinstance(dtype, pl.List) else -1


def test_float_columns_are_those_known() -> None:
    assert {t.name for t, _ in FLOATS} == {"candidates", "verdicts", "ranks", "logps"}


@given(
    st.sampled_from(FLOATS),
    st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.none(), min_size=1, max_size=6),
    st.integers(0, 5),
    st.sampled_from([float("nan"), float("inf"), float("-inf")]),
)
def test_no_table_holds_nan_and_no_log_prob_is_infinite(
    which: tuple[Table, str], values: list[float | None], place: int, number: float
) -> None:
    table, column = which
    values = [v if v is not None or column in table.nullable else 0.0 for v in values]
    frame = rows_of(table, len(values)).with_columns(pl.Series(column, values, dtype=pl.Float64))
    assert schema.require(frame, table).equals(frame)
    row = place % len(values)
    values[row] = number
    frame = frame.with_columns(pl.Series(column, values, dtype=pl.Float64))
    if math.isnan(number) or table.name == "logps":
        with pytest.raises(DataError, match=f"^file:{row}:{column}: .*{number} in a table of {table.name}"):
            schema.require(frame, table, "file")
    else:
        assert schema.require(frame, table, "file").equals(frame)


def test_a_published_set_with_a_log_prob_that_is_no_number_is_refused(
    published: Path, settings_file: Callable[..., Path]
) -> None:
    assert read_back.read(published)[0].height == 12
    (path,) = published.glob("data/sets/*")
    rows, kinds = pl.read_parquet(path).to_dicts(), pl.read_parquet_schema(path)
    for number in map(float, ("inf", "-inf", "nan")):
        rows[5]["candidates"][1]["logps"][0]["logp"] = number
        pl.DataFrame(rows, schema=kinds).write_parquet(path)
        with pytest.raises(DataError, match=f"{path.name}:5:candidates: .*a log-prob that is no finite number"):
            read_back.read(published)
    with pytest.raises(DataError, match="no finite number"):
        from_file.load(settings_file(objective="dpo", data={"path": str(published), "format": "sets"}))


# ---- tables that are not there ----


def test_a_missing_table_names_the_command_that_makes_it(
    write_rows: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Following what each error says ends in the set."""
    recipe = {"name": "t", "dedup": None, "sources": {"sources": [{"name": "s", "path": write_rows(ranked("abc"))}]}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFDATA_SETTINGS", "recipe.yaml")
    asked, called = [["sets", "--unit", "preference"]], list[str]()
    while asked and len(called) < 30:
        called.append(" ".join(asked[-1]))
        try:
            command(monkeypatch, *asked[-1])
        except SystemExit as ended:
            if not ended.code:
                asked.pop()
                continue
            said = capsys.readouterr().err
            found = re.search(r"no such file.*make it: prefdata (\S+(?: --unit \S+)?), or run the whole recipe", said)
            assert found, said
            asked.append(found[1].split())
    assert asked == []
    assert "rank --unit source" in called
    assert "sources" in called
    assert list((tmp_path / "results/t/tables/sets/sets/preference").glob("*.parquet"))


# ---- answers that are none ----


def test_empty_and_blank_answers_are_drops_and_no_candidates(
    generated: Callable[..., Results], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {"fine": "an answer", "empty": "", "blank": " \n\t "}
    says(monkeypatch, lambda body: texts[body["messages"][-1]["content"].split()[-1]])
    with Server(Scripted()) as url:
        run = generated(url, [f"cue:say {k}" for k in texts], temperatures=[1.0], max_failed=0)
    rows, drops = made(run, "candidates"), made(run, "drops")
    assert [r["response"] for r in rows] == ["an answer"] * 2
    assert Counter((d["scope"], d["reason"]) for d in drops) == {("row", "empty_answer"): 4}
    assert {d["prompt_id"] for d in drops}.isdisjoint(r["prompt_id"] for r in rows)
    assert all(d["source"] and d["source_row"] for d in drops)


def test_answers_that_go_on_as_somebody_else_are_drops_as_those_of_sources(
    generated: Callable[..., Results], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the reasoning before the answer says; a share that is large is told."""
    texts = {
        "fine": "an answer of a Human",
        "human": "an answer\n\nHuman: and now?",
        "crlf": "an answer\r\n\r\n**Assistant:** more",
        "head": "an answer\n### Human: and now?",
        "thought": "\n\nHuman: asks</think>an answer",
    }
    says(monkeypatch, lambda body: texts[body["messages"][-1]["content"].split()[-1]])
    with Server(Scripted()) as url:
        run = generated(url, [f"cue:say {k}" for k in texts], temperatures=[1.0], max_failed=0)
        responses, drops = [r["response"] for r in made(run, "candidates")], made(run, "drops")
        model = {"reasoning_end": "</think>"}
        thinking = generated(url, ["cue:say thought"], model, temperatures=[1.0], max_failed=0)
    assert responses == [texts["fine"]] * 2
    assert Counter((d["scope"], d["reason"]) for d in drops) == {("row", "role_leakage"): 8}
    assert all(d["source"] and d["source_row"] and d["detail"].startswith("sample ") for d in drops)
    assert [r["response"] for r in made(thinking, "candidates")] == ["an answer"] * 2
    assert made(thinking, "drops") == []
    entry = {"stage": "generate", "unit": "g", "in": {"prompts": 5}, "out": {"candidates": 2}, "drops": {"role_leakage": 8}}
    (told,) = large([entry], 0.3)
    assert told == (
        "generate g leaves out 8 of 10 answers (role_leakage: an answer that goes on to write the next human turn); "
        "cut the answers at the marker, or look at what wrote them"
    )


REFUSING = (
    "<bos>{% for m in messages %}{% if 'zz' in m['content'] %}{{ raise_exception('nothing about zz') }}{% endif %}"
    "{% if m['role'] == 'assistant' %}<assistant>{{ m['content'] }}<eos>{% else %}<user>{{ m['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_a_prompt_that_the_template_refuses_is_dropped_by_the_models_name(
    generated: Callable[..., Results], tmp_path: Path
) -> None:
    model = save(tmp_path / "refusing", lambda model: None, REFUSING)
    run = generated("", ["Sab", "Szz", "Sba"], {"server": None, "id": str(model)}, temperatures=[1.0], max_failed=0)
    (drop,) = [d for d in made(run, "drops") if d["reason"] != "empty_answer"]
    assert (drop["scope"], drop["reason"]) == ("prompt", "refused_by_template:gen")
    assert "nothing about zz" in drop["detail"]
    answered = {r["prompt_id"] for r in made(run, "candidates")}
    assert len(answered) == 2
    assert drop["prompt_id"] not in answered


# ---- a published set and another start ----


def test_another_start_than_the_primary_reference_is_said(
    published: Path, settings_file: Callable[..., Path], lm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(lm, other)
    (other / "generation_config.json").write_text("{}")
    data = {"path": str(published), "format": "sets"}
    from_file.load(settings_file(objective="dpo", data=data))
    assert "warning" not in capsys.readouterr().err
    from_file.load(settings_file(objective="dpo", data=data, model=str(other)))
    said = capsys.readouterr().err
    assert said.count("warning: ") == said.count("\n") == 1
    assert re.match(
        rf"warning: the run starts from {other} \(\w+\), the set's primary reference primary is \w+: log-ratios", said
    )
