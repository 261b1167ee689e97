"""Real snakemake runs of small recipes: every rule, other shards and workers, one key, one row."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from recipes import TOY
from runs import ROOT, Workflow, clean_environment, scheduled

from prefdata.tables import files
from prefdata.tables.locks import take_lock


def test_a_second_run_has_nothing_to_do(base: Workflow) -> None:
    assert "Nothing to be done" in base.run("-n")
    summary = (base.root / "report" / "summary.txt").read_text()
    assert "mcpo/default" in summary
    held = base.table("splits", "split").filter(pl.col("split") == "sft")
    assert base.table("candidates", "noise").join(held, on="prompt_id").is_empty(), "noise is for the preference set"
    assert base.table("sets", "sets", "preference").join(held, on="prompt_id").is_empty()
    assert "pruned_rank" in summary
    facts = json.loads((base.root / "report" / "evaluation.json").read_text())
    assert [f["run"] for f in facts] == ["sft/policy", "mcpo/default"]
    assert facts[0]["accuracy"] is None, "a model under itself as reference: all ties"
    assert all(f["n"] == 12 for f in facts)


def test_manifests_name_the_inputs_that_the_dag_gives(base: Workflow) -> None:
    """Each table's manifest lists the content hash of each input, and these hashes are the files'."""
    for path in (base.root / "tables").rglob("*.parquet"):
        for name, content in files.manifest(path)["inputs"].items():
            assert files.manifest(base.root / name)["content_hash"] == content, (path, name)


@pytest.mark.parametrize(
    ("change", "again", "not_again"),
    [
        ({"prune": {"drop_ranks": [2, 3]}}, {"prune"}, {"sources", "split", "toy"}),
        ({"noise": {"tries": 5}}, {"noise"}, {"prune", "judge", "generate", "rank", "train_sft_policy"}),
        ({"evaluate": {**TOY["evaluate"], "samples": 3}}, {"summary"}, {"sets", "train_mcpo_default", "report", "publish"}),
        ({"card": {"title": "Other"}}, {"card", "publish"}, {"report", "sources", "summary"}),
        ({"threads": 2}, set(), {"sources", "train_sft_policy"}),
        ({"train": {"runs": {n: {**r, "processes": 4} for n, r in TOY["train"]["runs"].items()}}}, set(), {"train_sft_policy"}),
        ({"generate": {**TOY["generate"], "shards_per_engine": 1}}, {"generate"}, {"sources", "train_sft_policy"}),
    ],
    ids=["prune", "noise", "evaluate", "card", "threads", "processes", "grouping"],
)
def test_one_key_re_runs_its_stage_and_what_follows_only(
    base: Workflow, tmp_path: Path, change: dict[str, Any], again: set[str], not_again: set[str]
) -> None:
    recipe = tmp_path / "changed.yaml"
    recipe.write_text(yaml.safe_dump({**TOY, **change}))
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(ROOT / "Snakefile"),
        "--directory",
        ".",
        "-n",
        "--cores",
        "1",
    ]
    done = subprocess.run(
        [*command, "--configfile", str(recipe)],
        cwd=base.folder,
        capture_output=True,
        text=True,
        check=True,
        env=clean_environment(),
    )
    rules = scheduled(done.stdout + done.stderr)
    stems = {r.split("_policy-")[0].split("_exact-")[0] for r in rules}
    assert again <= stems | rules, rules
    assert not not_again & (rules | stems), rules


@pytest.mark.parametrize(("num_shards", "cores", "target"), [(1, 1, "demo"), pytest.param(7, 2, "set", marks=pytest.mark.real)])
def test_shards_workers_and_order_of_input_change_nothing(
    base: Workflow, tmp_path: Path, num_shards: int, cores: int, target: str
) -> None:
    """The same rows shuffled, in another number of shards, by another number of workers: the same tables after a sort."""
    lines = (base.root / "toy" / "source.jsonl").read_text().splitlines()
    random.Random(num_shards).shuffle(lines)
    other = Workflow(tmp_path / "other", {**TOY, "num_shards": num_shards})
    other.run("--until", "toy")
    (other.root / "toy" / "source.jsonl").write_text("\n".join(lines) + "\n")
    other.run(target, cores=cores)
    mine, theirs = base.all_tables(), other.all_tables()
    assert {n for n in mine if target == "demo" or not n.endswith("/evaluate")} == set(theirs)
    for name in theirs:
        frame = mine[name]
        if name.startswith(("logps", "sets")):
            assert_close(frame, theirs[name])
        else:
            assert frame.equals(theirs[name]), name


def assert_close(one: pl.DataFrame, other: pl.DataFrame) -> None:
    """Equal but for log-probs, which agree within 1e-5 per token."""
    if "logp" in one.columns:
        assert one.drop("logp").equals(other.drop("logp"))
        assert ((one["logp"] - other["logp"]).abs() <= 1e-5 * one["num_tokens"].clip(1)).all()
    else:
        without = pl.col("candidates").list.eval(pl.element().struct.field("candidate_id"))
        assert one.with_columns(without).equals(other.with_columns(without))


def test_an_edited_row_repeats_no_item_of_another_prompt(base: Workflow, tmp_path: Path) -> None:
    """One answer of one prompt changes: its items are made again, all others are found; other prompts' rows stay."""
    edited = Workflow(tmp_path / "edited", TOY)
    shutil.copytree(base.folder, edited.folder, dirs_exist_ok=True)
    source = edited.root / "toy" / "source.jsonl"
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    place = next(i for i, r in enumerate(rows) if r["split"] == "train")
    rows[place]["answers"][0]["answer"] = "zzz"
    source.write_text("".join(json.dumps(r) + "\n" for r in rows))
    edited.run("set", cores=2)
    changed = edited.table("prompts", "sources").join(
        base.table("candidates", "sources").select("prompt_id", "candidate_id"), on="prompt_id"
    )
    fresh = edited.table("candidates", "sources").join(base.table("candidates", "sources"), on="candidate_id", how="anti")
    (prompt,) = fresh["prompt_id"].unique().to_list()
    assert changed.height > 0
    for stage, most in (("generate", 0), ("judge", 2 * 9), ("score", 13)):
        said = edited.log(stage)
        made = [int(line.split(" items found, ")[1].split()[0]) for line in said.splitlines() if "items found" in line]
        assert made, said
        assert all(m <= most for m in made), (stage, made)
    for name in ("candidates/sources", "candidates/generate", "verdicts/judge", "ranks/rank", "candidates/noise", "sets/sets"):
        table, stage = name.split("/")
        one, other = (w.table(table, stage).filter(pl.col("prompt_id") != prompt) for w in (base, edited))
        assert one.equals(other), name


def test_a_second_run_on_the_same_folder_stops_and_names_the_holder(base: Workflow, tmp_path: Path) -> None:
    same = Workflow(tmp_path / "same", TOY)
    shutil.copytree(base.folder, same.folder, dirs_exist_ok=True)
    (same.root / "report" / "summary.txt").unlink()
    descriptor = take_lock(same.root / ".run", 0)
    try:
        assert f"in use by process {os.getpid()}" in same.run(check=False)
    finally:
        os.close(descriptor)
    assert not (same.root / "report" / "summary.txt").exists()


def test_mistakes_in_the_recipe_stop_everything_at_once(tmp_path: Path) -> None:
    workflow = Workflow(tmp_path / "bad", {**TOY, "nose": {}, "train": {"runs": {"dpoo/x": {}}}})
    said = workflow.run(check=False)
    assert "nose: unknown key (did you mean 'noise'?)" in said
    assert "Traceback" not in said
    assert not (workflow.folder / "results").exists()


def by_hand() -> list[dict[str, Any]]:
    """Twenty rows written by hand: multi-turn, ties, averages, role leakage, empties, a duplicate, control text."""

    def row(prompt: str, *answers: tuple[str, float], **extra: Any) -> dict[str, Any]:
        listed = [{"text": t, "model": f"m{i}", "place": r} for i, (t, r) in enumerate(answers)]
        return {"question": f"\n\nHuman: {prompt}\n\nAssistant: ", "replies": listed, **extra}

    tasks = ["Sdcba", "Sjihg", "Rabcd", "Rjai", "Dabc", "Djab", "Cabj", "Cjjaa", "A47+85", "A10+99", "Sjihg", "Rhgf"]
    from prefdata.sources.toy.tasks import lazy, solve

    rows = [row(t, (str(solve(t)), 1), (lazy(t) + "x", 2), ("aa" + t, 3.5), ("bb", 3.5)) for t in tasks]
    rows[0]["question"] = "\n\nHuman: hello <eos>\n\nAssistant: hi\n\nHuman: Sdcba\n\nAssistant: "
    rows.append(row("Sbac", ("abc", 1), ("ba\n\nHuman: more", 2), ("b", 3)))
    rows.append(row("Rab", ("ba", 1.5), ("ab", 1.5), ("<|end|>", 3)))
    rows.append(row("Dab", ("aabb", 1), ("", 2), ("aab", 3)))
    rows.append(row("Cab", ("bc", 1), ("bc", 2), ("ab", 3)))
    rows.append(row("Sdcba <|user|>", ("abcd", 1), ("dcba", 2), ("x", 3)))
    rows.append(row("Sab", ("ab", 1), ("aba", 2)))
    rows.append(row("A11+11", ("2,2,22", 1), ("2,2,22", 1)))
    rows.append(row("Sba", ("ab", 1)))
    assert len(rows) == 20
    return rows


def test_twenty_rows_by_hand_go_through_all_rules(tmp_path: Path) -> None:
    """Another recipe, three shards, a field mapping, a validation share and a foreign tokenizer as second reference."""
    runs = {"sft/policy": TOY["train"]["runs"]["sft/policy"], "sft/foreign": TOY["train"]["runs"]["sft/large"]}
    recipe = {
        "name": "hand",
        "num_shards": 3,
        "toy": {"demonstrations": 1, "train": 1, "test": 1},
        "sources": {
            "sources": [
                {
                    "name": "mine",
                    "path": "mine.jsonl",
                    "license": "cc0-1.0",
                    "fields": {"prompt": "question", "answers": "replies", "answer": "text", "rank": "place"},
                }
            ],
            "max_reject_rate": 0.2,
        },
        "split": {"train": 0.6, "validation": 0.0, "test": 0.4},
        "prune": {"drop_ranks": []},
        "generate": {
            "models": [{"name": "gen", "id": "run:sft/policy"}],
            "max_tokens": 8,
            "per_temperature": 1,
            "splits": ["train", "test"],
        },
        "judge": [{"name": "verify", "max_failed": 0.2}],
        "score": {"references": [{"name": "own", "model": "run:sft/policy"}, {"name": "foreign", "model": "run:sft/foreign"}]},
        "sets": {"method": "verify", "sft_method": "source", "sft_splits": ["train", "test"]},
        "train": {
            "runs": {
                **runs,
                "mrpo/default": {"epochs": 2, "batch_prompts": 4},
            }
        },
        "evaluate": {"runs": ["sft/policy", "mrpo/default"], "samples": 1, "max_tokens": 8},
    }
    workflow = Workflow(tmp_path / "hand", recipe)
    rows = by_hand()
    (workflow.folder / "mine.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    workflow.run(cores=2)
    prompts = workflow.table("prompts", "sources")
    assert prompts.height == 19
    multi = [m for m in prompts["messages"].to_list() if len(m) == 3]
    assert [m["role"] for m in multi[0]] == ["user", "assistant", "user"]
    dropped = workflow.table("drops", "sources")["reason"].to_list()
    assert sorted(dropped) == ["duplicate_prompt", "empty_answer", "role_leakage"]
    reasons = workflow.table("drops", "sets", "preference")["reason"].to_list()
    assert set(reasons) <= {"need_2", "identical", "no_preference", "unranked"}
    made = workflow.table("sets", "sets", "preference")
    assert made.height + len(reasons) == 19
    assert made.height >= 12
    for row in made.to_dicts():
        assert [x["reference"] for c in row["candidates"] for x in c["logps"]] == ["own", "foreign"] * len(row["candidates"])
        assert row["candidates"][0]["role"] == "chosen"
        assert {c["role"] for c in row["candidates"]} >= {"chosen", "rejected"}
    shards = list((workflow.root / "tables" / "sets" / "sets" / "preference").glob("*.parquet"))
    assert len(shards) == 3
    assert json.loads((workflow.root / "publish" / "receipt.json").read_text())["folder"]["revision"] == "folder"
    readme = (workflow.root / "publish" / workflow.root.name / "README.md").read_text()
    assert "mine@local" in readme
    assert "role" in readme


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "config").glob("*.yaml")))
def test_every_recipe_of_the_project_is_a_whole_dag(tmp_path: Path, name: str) -> None:
    """A dry run, offline: settings, units, rules and their files fit together, at full scale too."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--dry-run", "--quiet", "rules"]
    done = subprocess.run(
        [*command, "--directory", str(tmp_path), "--configfile", str(ROOT / "config" / name)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=clean_environment(),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rules = scheduled(done.stdout + done.stderr)
    assert {"sources", "publish", "report"} <= rules
    assert any(rule.startswith("sets_preference") for rule in rules)
    assert not (tmp_path / "results").exists()
