"""Published configs: their rows by hand, their types beside ordinary sets', what a recipe cannot make."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from random import Random
from string import ascii_letters
from typing import Any

import datasets
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import nectar, run_stages
from recipes import ONLINE

from prefdata.draws import hex_id
from prefdata.errors import ConfigError
from prefdata.output import published_files, read_back
from prefdata.output.arrow_types import portable
from prefdata.output.looking import opened
from prefdata.output.published_configs import CONFIGS, problems
from prefdata.recipe.job import Job
from prefdata.recipe.read import validate_recipe
from prefdata.recipe.results import Results
from prefdata.stages import publish
from prefdata.tables import schema
from prefdata.tables.drops import drop

ROWS = [
    nectar(f"S{a}b", [("ab", 1, "good"), ("b", 2, "fair"), ("c", 3, "poor")], split="test" if a > "e" else "train")
    for a in "abcdefg"
]
OF_SETS = ("preference", "preference_full", "ranked", "unpaired", "sft", "sets", "candidates", "drops")
Publish = Callable[..., Results]


@pytest.fixture
def published(make_run: Publish, write_rows: Callable[..., str]) -> Publish:
    def make(rows: Any = ROWS, configs: Any = OF_SETS, **keys: Any) -> Results:
        source = {"name": "s", "path": write_rows(rows), "license": "mit", **keys.pop("source", {})}
        sources = {"sources": [source], "max_reject_rate": 0.5}
        own = {"configs": list(configs)} if configs else {}
        keys = {"prune": {"drop_ranks": []}, "publish": own, "sets": {"sft_splits": ["train"]}, **keys}
        run = make_run(sources=sources, **keys)
        run_stages(run, "sources", "split", "prune", "rank:source", "noise", "sets", "report", "card")
        publish.run(Job(run, "publish"))
        return run

    return make


def load(run: Results, config: str, tmp_path: Path) -> list[dict[str, Any]]:
    loaded = datasets.load_dataset(str(run.root / "publish" / "t"), config, cache_dir=str(tmp_path / "cache"))
    return [row for split in loaded.values() for row in split]


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


# ---- rows ----


def test_each_config_has_the_rows_that_its_readers_want(published: Publish, tmp_path: Path) -> None:
    run = published()
    rows = {config: load(run, config, tmp_path) for config in OF_SETS if config != "drops"}
    pair = min(rows["preference"], key=lambda r: r["prompt_id"])
    asked, text = pair["prompt"], pair["rejected"][0]["content"]
    model = {"b": "fair", "c": "poor"}[text]
    assert (pair["source"], pair["chosen_model"], pair["rejected_model"]) == ("s@local", "good", model)
    assert pair["score_chosen"] is None, "the source ranked without a score"
    full = next(r for r in rows["preference_full"] if r["prompt_id"] == pair["prompt_id"])
    assert full["prompt"] == asked[-1]["content"]
    assert full["chosen"] == [*asked, said("assistant", "ab")]
    assert full["rejected"] == [*asked, said("assistant", text)]
    ranked = next(r for r in rows["ranked"] if r["prompt_id"] == pair["prompt_id"])
    assert ranked["context"] == asked
    told = [(c["rank"], c["model"], c["completion"]) for c in ranked["completions"]]
    assert told == [(n, m, [said("assistant", t)]) for n, m, t in ((1, "good", "ab"), (2, "fair", "b"), (3, "poor", "c"))]
    assert (ranked["chosen"], ranked["rejected"]) == (said("assistant", "ab"), said("assistant", text))
    labelled = [r for r in rows["unpaired"] if r["prompt_id"] == pair["prompt_id"]]
    assert [(r["completion"], r["label"]) for r in labelled] == [(pair["chosen"], True), (pair["rejected"], False)]
    assert len(rows["unpaired"]) == 2 * len(ROWS)
    assert len(rows["sft"]) == 5, "the prompts of sets.sft_splits"
    assert all(r["messages"][-1] == said("assistant", "ab") and r["messages"][0]["role"] == "user" for r in rows["sft"])
    assert len(rows["candidates"]) == 3 * len(ROWS)


def test_scores_are_those_of_the_ranking(published: Publish, tmp_path: Path) -> None:
    answers = [{"model": "a", "response": "ab", "overall_score": 4.5}, {"model": "b", "response": "ba", "overall_score": 2.0}]
    rows = [{"instruction": f"Sa{i}b", "completions": answers} for i in range(4)]
    run = published(
        rows, ["preference"], source={"format": "ultrafeedback"}, split={"train": 1.0, "validation": 0.0, "test": 0.0}
    )
    pairs = load(run, "preference", tmp_path)
    assert {(r["score_chosen"], r["score_rejected"]) for r in pairs} == {(4.5, 2.0)}


def test_tool_calls_are_objects_in_every_config(published: Publish, tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"day": None, "a": 1}}}
    prompt = [said("system", "S"), said("user", "Sab")]
    row = {
        "prompt": prompt,
        "chosen": [{"role": "assistant", "content": "", "tool_calls": [call]}],
        "rejected": [said("assistant", "b")],
        "split": "train",
    }
    configs = ("preference", "preference_full", "ranked", "unpaired", "sft")
    run = published([row], configs, source={"format": "trl_pairs"})
    first = {config: load(run, config, tmp_path)[0] for config in configs}
    found = {
        "preference": first["preference"]["chosen"][0],
        "preference_full": first["preference_full"]["chosen"][-1],
        "ranked": first["ranked"]["completions"][0]["completion"][0],
        "unpaired": first["unpaired"]["completion"][0],
        "sft": first["sft"]["messages"][-1],
    }
    assert all(json.dumps(m["tool_calls"]) == json.dumps([call]) for m in found.values()), found
    assert json.dumps(first["ranked"]["chosen"]["tool_calls"]) == json.dumps([call])


def test_drops_say_what_is_not_there(published: Publish, tmp_path: Path) -> None:
    lone = nectar("Szb", [("ab", 1)], split="train")
    broken = nectar("Syb", [("ab", 1), ("b\u0000", 2)], split="train")
    run = published([*ROWS, lone, broken], ["drops", "candidates"])
    reasons = sorted(r["reason"] for r in load(run, "drops", tmp_path))
    assert reasons == ["control_characters", "need_2", "need_2"]
    assert len(load(run, "candidates", tmp_path)) == 3 * len(ROWS)


def test_verdicts_and_logps_are_about_published_candidates(make_run: Publish) -> None:
    """Not about a dropped candidate, nor about a prompt that is not in the set; a score of one candidate alone is."""
    settings = make_run(sources={"sources": [{"name": "s", "path": "x"}]}).settings
    prompts, ids = [hex_id("p", n) for n in range(2)], [hex_id("c", n) for n in range(3)]
    kept, gone, other = ids
    made = {"response": "x", "origin": "source", "producer": "m", "sample": 0, "finish": "stop"}
    pairs = [(prompts[0], i) for i in ids] + [(prompts[1], kept)]
    by_judge = {"judge": "j", "rubric": "r", "round": 0}
    in_set = {"prompt_id": prompts[0], "split": "train", "prompt": [said("user", "x")], "candidates": []}
    frames = {
        "sets": schema.frame("sets", [in_set]),
        "candidates": schema.frame("candidates", [{"prompt_id": p, "candidate_id": c, **made} for p, c in pairs]),
        "drops": schema.frame(
            "drops", [drop("candidate", "prune", "pruned_rank", {"prompt_id": prompts[0]}, candidate_id=gone)]
        ),
        "verdicts": schema.frame(
            "verdicts",
            [{"prompt_id": p, "a": a, "b": b, "order": "ab", **by_judge} for p, a, b in _comparisons(prompts, ids)],
        ),
        "logps": schema.frame(
            "logps", [{"prompt_id": p, "candidate_id": c, "reference": "r", "logp": -1.0, "num_tokens": 1} for p, c in pairs]
        ),
    }
    verdicts = CONFIGS["verdicts"].rows(frames, settings, {})
    assert {(r["prompt_id"], r["a"], r["b"]) for r in verdicts.to_dicts()} == {
        (prompts[0], kept, other),
        (prompts[0], other, None),
    }
    assert set(verdicts["split"]) == {"train"}
    logps = CONFIGS["logps"].rows(frames, settings, {})
    assert set(logps["candidate_id"]) == {kept, other}
    assert set(logps["prompt_id"]) == {prompts[0]}


def _comparisons(prompts: list[str], ids: list[str]) -> list[tuple[str, str, str | None]]:
    kept, gone, other = ids
    first = [(kept, other), (kept, gone), (gone, other), (other, None), (gone, None)]
    return [*((prompts[0], a, b) for a, b in first), (prompts[1], kept, None)]


def test_verdicts_of_the_judge_that_ranks_the_set_are_published(
    make_run: Publish, write_rows: Callable[..., str], tmp_path: Path
) -> None:
    source = {"name": "s", "path": write_rows(ROWS), "license": "mit"}
    judges = [{"name": "exact", "kind": "exact"}, {"name": "unused", "kind": "exact"}]
    keys = {"judge": judges, "sets": {"method": "exact"}, "publish": {"configs": ["verdicts"]}}
    run = make_run(sources={"sources": [source]}, prune={"drop_ranks": []}, **keys)
    stages = ("sources", "split", "prune", "judge", "judge_report", "rank", "noise", "sets", "report", "card", "publish")
    run_stages(run, *stages)
    rows = load(run, "verdicts", tmp_path)
    (own,) = (run.root / "tables" / "verdicts" / "judge").glob("exact-*")
    assert len(rows) == pl.read_parquet(own).height, "those of the other judge are not among them"
    assert {r["order"] for r in rows} == {"ab", "ba"}
    assert len({r["prompt_id"] for r in rows}) == len(ROWS)


# ---- types and layout ----


def test_no_large_type_is_left(published: Publish) -> None:
    run = published()
    for path in (run.root / "publish" / "t").rglob("*.parquet"):
        assert "large_" not in str(pq.read_schema(path)), path
        group = pq.read_metadata(path).row_group(0)
        assert all(group.column(i).has_offset_index for i in range(group.num_columns))


def test_a_published_set_is_joined_with_an_ordinary_one(published: Publish, tmp_path: Path) -> None:
    run = published()
    whole = datasets.load_dataset(str(run.root / "publish" / "t"), "preference", split="train", cache_dir=str(tmp_path / "c"))
    ours = whole.select_columns(["prompt", "chosen", "rejected"])
    one = {"prompt": [said("user", "x")], "chosen": [said("assistant", "y")], "rejected": [said("assistant", "z")]}
    theirs = datasets.Dataset.from_list([one] * 3)
    assert ours.features == theirs.features
    assert datasets.concatenate_datasets([ours, theirs]).num_rows == 5 + 3
    assert datasets.concatenate_datasets([whole, theirs]).num_rows == 5 + 3, "columns that one lacks are null"
    mixed = datasets.interleave_datasets([ours, theirs])
    assert {r["chosen"][0]["content"] for r in mixed} == {"ab", "y"}


def test_row_groups_hold_thousands_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pa.table({"prompt_id": [f"{i:016x}" for i in range(100)]})
    writer = published_files._Writer(tmp_path / "data" / "sets" / "train.parquet", rows.schema)
    for _ in range(100):
        writer.write(rows)
    writer.close()
    meta = pq.read_metadata(tmp_path / "data" / "sets" / "train.parquet")
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [4096, 4096, 1808]
    assert writer.built().rows == 10_000


def test_a_row_more_leaves_the_pages_after_it_as_they_were(tmp_path: Path) -> None:
    """Pages are cut where the content says so: a Hub that stores chunks by content stores the changed ones alone."""
    random = Random(0)
    texts = ["".join(random.choices(ascii_letters, k=1000)) for _ in range(3000)]
    stored = []
    for name, rows in (("old", texts), ("new", ["one more", *texts])):
        table = pa.table({"prompt_id": [f"{i:016x}" for i in range(len(rows))], "text": rows})
        writer = published_files._Writer(tmp_path / name, table.schema)
        writer.write(table)
        writer.close()
        stored.append((tmp_path / name).read_bytes())
    old, new = stored
    middle = len(old) // 2
    assert old[middle : middle + 50_000] in new


def test_large_tables_are_cast_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefdata.output.arrow_types.MAX_BYTES", 40)
    table = pa.table({"t": pa.array(["x" * 9, None, "z" * 9, "w"], pa.large_string())})
    pieces = list(portable(table))
    assert len(pieces) > 1
    assert pa.concat_tables(pieces).to_pylist() == table.to_pylist()
    assert {str(p.schema.field("t").type) for p in pieces} == {"string"}


def test_old_files_with_large_types_are_still_read(published: Publish, tmp_path: Path) -> None:
    folder = published().root / "publish" / "t"
    rows, _ = read_back.read(folder)
    for path in (folder / "data" / "sets").iterdir():
        table = read_back._rows(path).to_arrow()
        assert "large_string" in str(table.schema)
        pq.write_table(pa.table(table), path, write_page_checksum=True)
    again, _ = read_back.read(folder)
    assert again.equals(rows)
    assert opened.open_set(str(folder)).prompts() == len(ROWS)


# ---- the setting ----


def test_the_default_is_what_it_was(published: Publish) -> None:
    folder = published(configs=None).root / "publish" / "t"
    assert {p.name for p in (folder / "data").iterdir()} == {"preference", "sets", "candidates"}


def test_the_header_lists_what_is_there_and_preference_is_the_default(published: Publish) -> None:
    folder = published(configs=["sft", "drops", "sets", "preference"]).root / "publish" / "t"
    names = datasets.get_dataset_config_names(str(folder))
    assert names == ["preference", "sft", "sets"], "nothing was dropped"
    assert datasets.load_dataset_builder(str(folder)).config.name == "preference"


@pytest.mark.parametrize(
    ("configs", "said"),
    [
        (["prefrence"], "'prefrence' is no config .did you mean 'preference'"),
        (["sets", "verdicts"], "verdicts cannot be made: no judge ranks the set"),
        (["logps"], "logps cannot be made: no reference scores the set"),
        ([], ".*at least 1 item"),
    ],
)
def test_what_cannot_be_published_is_refused_before_any_job(make_run: Publish, configs: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=f"publish.configs: {said}"):
        make_run(sources={"sources": [{"name": "s", "path": "x"}]}, publish={"configs": configs})


def test_configs_of_a_set_that_only_online_runs_make_are_refused_and_the_default_is_not() -> None:
    """Also where the settings are read again, all keys written out, as the jobs of a workflow do."""
    recipe = deepcopy(ONLINE)
    recipe["sources"]["sources"] = [{**ONLINE["sources"]["sources"][0], "prompts_only": True}]
    recipe |= {"evaluate": {}, "train": {"runs": {"mcpo/online": {"steps": 2, "batch_prompts": 8}}}}
    recipe["score"] = {"references": [{"name": "policy", "model": "owner/name", "revision": "0" * 40}]}
    recipe["online"] |= {"runs": {"mcpo/online": 2}}
    written = validate_recipe(recipe, "test").model_dump(mode="json")
    assert problems(validate_recipe(written, "test")) == []
    written["publish"]["configs"] = ["preference_full"]
    assert [line.split(":")[1] for line in problems(validate_recipe(written, "test"))] == [
        " only online runs answer the prompts, and what they made is published"
    ]


def test_only_what_a_config_needs_is_read(make_run: Publish) -> None:
    def tables(*names: str) -> set[str]:
        run = make_run(sources={"sources": [{"name": "s", "path": "x"}]}, publish={"configs": list(names)})
        return {part.table for part in Job(run, "publish").reads}

    assert tables("preference", "ranked") == {"sets"}
    assert tables("drops") == {"prompts", "drops"}
    assert tables("candidates") == {"sets", "prompts", "splits", "candidates", "drops"}
    assert set(CONFIGS) == {*OF_SETS, "verdicts", "logps"}
