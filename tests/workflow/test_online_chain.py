"""Online runs by the real snakemake: one chain, what each change runs again, and what a finished chain has left."""

import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from recipes import ONLINE
from runs import Workflow, scheduled
from typer.testing import CliRunner

from prefdata.models.identity import RECEIPT
from prefdata.recipe.read import validate_recipe
from prefdata.recipe.results import Results
from prefdata.stages.registry import STAGES
from prefdata.tables import files
from prefdata.tables.locks import lock
from prefdata.workflow.cli import app
from prefdata.workflow.old import leftovers

PARTS = ("mcpo/online-1of3", "mcpo/online-2of3", "mcpo/online")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Workflow:
    """The recipe, run whole; once, whatever the number of pytest's own workers."""
    own = tmp_path_factory.getbasetemp()
    shared = own if worker_id == "master" else own.parent
    with lock(shared / "online.lock", wait_s=900):
        workflow = Workflow(shared / "online", ONLINE)
        workflow.run(cores=2)
    return workflow


def receipt(workflow: Workflow, run: str) -> dict[str, Any]:
    return json.loads((workflow.root / "models" / run / RECEIPT).read_text())


def again(chain: Workflow, **changes: Any) -> set[str]:
    """The jobs that other keys run again, units cut to <stage>_<run>-s<k>of<n>."""
    changed = Workflow(chain.folder, deepcopy(ONLINE) | changes)
    try:
        return {name.partition(".")[0].rpartition("-")[0] if "." in name else name for name in scheduled(changed.run("-n"))}
    finally:
        chain.write(ONLINE)


def test_a_finished_chain_has_nothing_to_do(chain: Workflow) -> None:
    assert "Nothing to be done" in chain.run("-n")


def test_each_segment_answers_its_own_prompts_with_what_the_one_before_left(chain: Workflow) -> None:
    tables = [chain.table("candidates", "generate", f"mcpo-online-s{k}of3-*") for k in (1, 2, 3)]
    asked = [set(t["prompt_id"]) for t in tables]
    train = chain.table("splits", "split").filter(pl.col("split") == "train")
    assert sum(map(len, asked)) == len(set.union(*asked)) == train.height
    assert [t["segment"].unique().to_list() for t in tables] == [[1], [2], [3]]
    starts = ["sft/policy", *PARTS[:2]]
    made_by = [t["producer"].unique().to_list() for t in tables]
    assert made_by == [[f"mcpo-online@{receipt(chain, s)['revision']}"] for s in starts]
    assert len({m for (m,) in made_by}) == 3
    for table in tables:
        assert set(table["temperature"]) == {0.8, 1.2}
        assert table.group_by("prompt_id").len()["len"].max() <= 4
    other = chain.table("candidates", "generate", "kto-online-s1of2-*")
    shared = tables[0].join(other, on="candidate_id", how="semi")
    assert shared.is_empty(), "two online runs share no candidate"


def test_the_parts_are_one_run_of_the_steps_fixed_by_the_train_split(chain: Workflow) -> None:
    """40 prompts, 2 epochs in batches of 8: 10 steps, of one linear schedule."""
    rows = [json.loads(line) for p in PARTS for line in (chain.root / "models" / p / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == list(range(1, 11))
    assert [r["lr"] for r in rows] == pytest.approx([3e-4 * (1 - k / 10) for k in range(10)])
    assert [len((chain.root / "models" / p / "metrics.jsonl").read_text().splitlines()) for p in PARTS] == [3, 3, 4]
    assert [r["epoch"] for r in rows] == sorted(r["epoch"] for r in rows)
    assert rows[0]["margin"] == pytest.approx(0, abs=1e-6), "the reference is what it starts from"
    assert (chain.root / "models" / PARTS[0] / "optimizer").exists()
    assert not (chain.root / "models" / PARTS[2] / "optimizer").exists()


def test_references_stay_the_first_policy(chain: Workflow) -> None:
    for k in (1, 2, 3):
        path = next((chain.root / "tables" / "logps" / "score").glob(f"mcpo-online-s{k}of3-*")) / "00000-of-00002.parquet"
        assert files.manifest(path)["models"] == {"run:sft/policy": receipt(chain, "sft/policy")["revision"]}
    text = (chain.root / "models" / PARTS[1] / "README.md").read_text()
    assert "segment 2 of 3 of mcpo/online: trained on answers of run:mcpo/online-1of3" in text
    assert "policy (run:sft/policy)" in text


def test_the_report_of_a_segment(chain: Workflow) -> None:
    facts = [json.loads(p.read_text()) for p in sorted((chain.root / "report" / "online").glob("mcpo-*"))]
    assert [(f["segment"], f["start"]) for f in facts] == [(1, "run:sft/policy"), *((k, f"run:{PARTS[k - 2]}") for k in (2, 3))]
    tables = [chain.table("candidates", "generate", f"mcpo-online-s{k}of3-*") for k in (1, 2, 3)]
    sets = [chain.table("sets", "sets", f"mcpo-online-s{k}of3-*") for k in (1, 2, 3)]
    for own, made, rows in zip(facts, tables, sets, strict=True):
        assert (own["answers"], own["rows"]) == (made.height, rows.height)
        assert own["best_against_greedy"]["prompts"] == min(6, rows.height)
        assert own["judge"]["consistency"]["share"] == 1
        assert 1 <= own["training"]["ess"] <= 3
    assert facts[0]["log_ratio"]["mean"] == 0, "its start is the first policy"
    assert facts[1]["log_ratio"]["mean"] != 0
    assert [f["training"]["to"] for f in facts] == [3, 6, 10]


def test_the_published_set_has_two_configs_an_online_run(chain: Workflow) -> None:
    import datasets

    folder = str(chain.root / "publish" / "on")
    rows = datasets.load_dataset(folder, "online-mcpo-online", split="train", cache_dir=str(chain.folder / "cache"))
    assert set(rows["segment"]) == {1, 2, 3}
    assert len(rows) == chain.table("sets", "sets", "mcpo-online-*").height
    made = datasets.load_dataset(folder, "online-kto-online.candidates", split="train", cache_dir=str(chain.folder / "cache"))
    assert set(made["segment"]) == {1, 2}
    assert set(made["temperature"]) == {0.8, 1.2}
    ids = {c["candidate_id"] for r in rows for c in r["candidates"]}
    kept = datasets.load_dataset(folder, "online-mcpo-online.candidates", split="train", cache_dir=str(chain.folder / "cache"))
    assert ids <= set(kept["candidate_id"])
    card = (Path(folder) / "README.md").read_text()
    assert "| mcpo/online | 2 of 3 |" in card
    plain = datasets.load_dataset(folder, "sets", cache_dir=str(chain.folder / "cache"))
    assert all(s is None for split in plain.values() for s in split["segment"])


def test_another_temperature_of_segment_2_runs_2_and_3_again_only(chain: Workflow) -> None:
    jobs = again(chain, online={**ONLINE["online"], "overrides": {2: {"temperatures": [1.4]}}})
    assert {
        "generate_mcpo-online-s2of3",
        "generate_mcpo-online-s3of3",
        "train_mcpo_online",
        "generate_kto-online-s2of2",
    } <= jobs
    assert not {"generate_mcpo-online-s1of3", "train_mcpo_online-1of3", "sources", "train_sft_policy"} & jobs


def test_what_another_number_of_segments_left_is_said_and_removed_when_asked(chain: Workflow, tmp_path: Path) -> None:
    other = Workflow(tmp_path / "copy", ONLINE)
    shutil.copytree(chain.root, other.root)
    kept = {p for p in other.root.rglob("*") if p.is_file() and "of3" not in str(p)}
    two = {**ONLINE["online"], "runs": {"mcpo/online": 2, "kto/online": 2}}
    other.write(deepcopy(ONLINE) | {"online": two})
    said = other.run("-n")
    assert "models has runs that the recipe has no more (mcpo/online-1of3, mcpo/online-2of3)" in said
    results = Results(validate_recipe(other.recipe, "test"), STAGES, other.folder / "results")
    gone = leftovers(results)
    assert all("of3" in str(p) for p in gone)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(other.folder)
        done = CliRunner().invoke(app, ["clean", "--settings", "recipe.yaml", "--old"], catch_exceptions=False)
    assert done.stdout.count("removed ") == len(gone) > 20
    left = {p for p in other.root.rglob("*") if p.is_file()}
    assert not [p for p in left if "of3" in str(p) and p.suffix != ".lock" and not {"locks", "logs"} & {*p.parts}]
    assert kept <= left
    assert "no more" not in other.run("-n")


def test_another_number_of_segments_mixes_nothing(chain: Workflow) -> None:
    jobs = again(chain, online={**ONLINE["online"], "runs": {"mcpo/online": 2, "kto/online": 2}})
    assert {"generate_mcpo-online-s1of2", "train_mcpo_online-1of2", "train_mcpo_online"} <= jobs
    assert not [j for j in jobs if "of3" in j or "kto" in j]
    assert not {"sources", "train_sft_policy"} & jobs


def test_prompts_that_only_online_runs_answer_are_published_and_loaded(chain: Workflow, tmp_path: Path) -> None:
    """No answers but the runs' own: the folder has their configs alone, and the card says so."""
    import datasets
    import yaml

    shutil.copytree(chain.root / "models" / "sft" / "policy", tmp_path / "policy")
    recipe = deepcopy(ONLINE) | {"name": "bare", "evaluate": {}, "score": {"references": []}}
    recipe["score"] = {"references": [{"name": "policy", "model": str(tmp_path / "policy")}]}
    recipe["sources"]["sources"] = [{**ONLINE["sources"]["sources"][0], "prompts_only": True}]
    recipe["train"] = {"runs": {"mcpo/online": {"steps": 2, "batch_prompts": 8}}}
    recipe["online"] |= {"runs": {"mcpo/online": 2}}
    other = Workflow(tmp_path / "bare", recipe)
    said = other.run(cores=2)
    assert "warning: sets" not in said
    folder = other.root / "publish" / "bare"
    card = (folder / "README.md").read_text()
    header = yaml.safe_load(card.split("---\n")[1])
    assert [c["config_name"] for c in header["configs"]] == ["online-mcpo-online", "online-mcpo-online.candidates"]
    assert header["configs"][0]["default"]
    assert header["license"] == "apache-2.0"
    rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert set(rows["segment"]) == {1, 2}
    made = datasets.load_dataset(str(folder), "online-mcpo-online.candidates", split="train", cache_dir=str(tmp_path / "cache"))
    assert set(made["origin"]) == {"generated"}
    assert "Configs: `online-mcpo-online`, `online-mcpo-online.candidates`." in card
    assert f"| toy@local | apache-2.0 | {len(rows)} |" in card
    assert "Ranks: by the judges of the online runs, below." in card
