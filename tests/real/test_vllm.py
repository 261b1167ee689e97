"""Real vLLM on a CPU: its engine against ours, the tiny instruct recipe on both, its own HTTP server as a judge."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest
import yaml

from prefdata.tables import files
from prefdata.tables.schema import TABLES

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[2]
ENV = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "PREFDATA_NO_SUMMARY": "1"}
VLLM = {"dtype": "float32", "eager": True}
COMMAND = ["{python}", "-m", "vllm.entrypoints.openai.api_server", "--model", "{model}", "--served-model-name", "run:sft/judge"]
COMMAND += ["--port", "{port}", "--dtype", "float32", "--enforce-eager"]


def recipe(engine: dict[str, Any]) -> dict[str, Any]:
    """config/instruct_tiny.yaml made smaller, policy and judge run by `engine`."""
    made = yaml.safe_load((ROOT / "config" / "instruct_tiny.yaml").read_text())
    made["toy"] = {"demonstrations": 200, "train": 16, "test": 8, "judgements": 300}
    for name, run in made["train"]["runs"].items():
        run["steps"] = 4 if name.startswith("mcpo") else 60
    made["generate"]["models"][0] |= engine
    made["judge"][0]["model"] |= engine
    made["judge"] = [{**judge, "truncated": "judged", "min_consistency": 0.0} for judge in made["judge"]]
    return made


def snakemake(folder: Path, made: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "r.yaml").write_text(yaml.safe_dump(made))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    command += ["--configfile", str(folder / "r.yaml"), "--cores", "2"]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-6000:]


def rows(folder: Path, table: str, stage: str) -> pl.DataFrame:
    paths = sorted((folder / "results" / "instruct_tiny" / "tables" / table / stage).rglob("*.parquet"))
    return pl.concat([files.read_table(p, table) for p in paths])


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe on the embedded engine."""
    folder = tmp_path_factory.mktemp("ours")
    snakemake(folder, recipe({}))
    return folder


def test_vllm_gives_our_greedy_texts_and_label_log_probs(ours: Path) -> None:
    model = ours / "results" / "instruct_tiny" / "models" / "sft" / "judge"
    told = {}
    for kind in ("transformers", "vllm"):
        command = [sys.executable, str(ROOT / "tests" / "real" / "ask_engine.py"), kind, str(model)]
        done = subprocess.run(command, env=ENV, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]
        told[kind] = json.loads(done.stdout.splitlines()[-1])
    kept = ("text", "finish", "num_tokens", "reason")
    greedy = {kind: [{k: c[k] for k in kept} for c in replies["greedy"]] for kind, replies in told.items()}
    assert greedy["vllm"] == greedy["transformers"]
    assert [c["reason"] for c in told["vllm"]["greedy"]].count("no_room") == 1
    labels = {kind: [c["logps"] for c in replies["labels"]] for kind, replies in told.items()}
    for one, other in zip(labels["vllm"], labels["transformers"], strict=True):
        assert one == (None if other is None else pytest.approx(other, abs=1e-4))
    sampled = [c["text"] for c in told["vllm"]["sampled"]]
    assert sampled[:5] != sampled[5:], "another seed is another text"


def test_an_online_run_answers_each_segment_with_the_checkpoint_of_that_moment_on_vllm(tmp_path: Path) -> None:
    """config/online_tiny.yaml made smaller; vLLM is started once a segment, with other weights each time."""
    made = yaml.safe_load((ROOT / "config" / "online_tiny.yaml").read_text())
    made["toy"] = {"demonstrations": 400, "train": 24, "test": 8}
    made["train"]["runs"] = {k: made["train"]["runs"][k] for k in ("sft/policy", "mcpo/online")}
    made["train"]["runs"]["sft/policy"]["steps"] = 150
    made["train"]["runs"]["mcpo/online"] |= {"epochs": 1, "batch_prompts": 6}
    made["online"] |= {"runs": {"mcpo/online": 2}, "vllm": VLLM, "greedy_prompts": 4}
    made["evaluate"] = {"runs": ["mcpo/online"], "samples": 1, "max_tokens": 8, "vllm": VLLM}
    snakemake(tmp_path, made)
    root = tmp_path / "results" / "online_tiny"
    made_by = [
        json.loads((root / "models" / run / "train.json").read_text())["revision"] for run in ("sft/policy", "mcpo/online-1of2")
    ]
    for k in (1, 2):
        paths = sorted((root / "tables" / "candidates" / "generate").glob(f"mcpo-online-s{k}of2-*/*.parquet"))
        answers = pl.concat([files.read_table(p, "candidates") for p in paths])
        assert answers["producer"].unique().to_list() == [f"mcpo-online@{made_by[k - 1]}"]
        assert answers["segment"].unique().to_list() == [k]
        assert answers["seed"].n_unique() == answers.height, "a seed of its own for each request"
    facts = [json.loads(p.read_text()) for p in sorted((root / "report" / "online").glob("*.json"))]
    assert [f["training"]["to"] for f in facts] == [2, 4]
    evaluation = json.loads((root / "report" / "evaluation.json").read_text())
    assert [(f["run"], f["n"]) for f in evaluation] == [("mcpo/online-1of2", 8), ("mcpo/online", 8)]


def test_the_tiny_recipe_has_the_same_tables_on_vllm(ours: Path, tmp_path: Path) -> None:
    snakemake(tmp_path, recipe({"vllm": VLLM}))
    for table, stage in [("candidates", "generate"), ("verdicts", "judge"), ("ranks", "rank"), ("sets", "sets")]:
        assert rows(ours, table, stage).schema == rows(tmp_path, table, stage).schema == TABLES[table].schema
    for folder in (ours, tmp_path):
        # a small model's answer may be nothing but white space, and which is depends on the engine's last bits
        said_nothing = rows(folder, "drops", "generate").filter(pl.col("scope") == "row").height
        assert said_nothing < 4
        generated = rows(folder, "candidates", "generate")["candidate_id"]
        assert generated.len() == 16 * 6 - said_nothing
        ranks = rows(folder, "ranks", "rank").filter(pl.col("method") == "small")
        assert generated.is_in(ranks["candidate_id"].implode()).all()
        answers = 16 * 12 + 8 * 6 - said_nothing  # six of seven of the source's stay, train has six more
        verdicts = rows(folder, "verdicts", "judge").filter(pl.col("judge").str.starts_with("small@"))
        assert verdicts.height == 2 * (answers - 24), "n - 1 of each prompt, in both orders"
    assert set(verdicts["outcome"]) <= {"a", "b", "tie"}
    assert verdicts["margin"].null_count() == 0
    assert all(json.loads(raw).keys() == {"A", "B"} for raw in verdicts["raw"])
    seeds = rows(tmp_path, "candidates", "generate")["seed"]
    assert seeds.n_unique() == seeds.len(), "a seed of its own for every sample"


def test_vllms_own_server_judges_over_http_and_lives_as_long_as_the_job(ours: Path, tmp_path: Path) -> None:
    """The same comparisons as on the embedded engine; killed in between, the server goes too."""
    made = recipe({})
    server = {"url": "http://127.0.0.1:{port}/v1", "command": COMMAND, "concurrency": 4, "start_s": 300}
    made["judge"][0]["model"] |= {"server": server}
    (ours / "http.yaml").write_text(yaml.safe_dump(made))
    command = [sys.executable, "-m", "prefdata", "judge", "--settings", "http.yaml"]
    first = subprocess.Popen(command, cwd=ours, env=ENV, stderr=subprocess.PIPE)
    server_process = wait_for(
        lambda: [c for c in psutil.Process(first.pid).children() if "api_server" in " ".join(c.cmdline())]
    )[0]
    time.sleep(3)
    family = [server_process, *server_process.children(recursive=True)]
    first.send_signal(signal.SIGKILL)
    first.communicate()
    wait_for(lambda: all(not p.is_running() or p.status() == psutil.STATUS_ZOMBIE for p in family))
    done = subprocess.run(command, cwd=ours, env=ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-6000:]
    root = ours / "results" / "instruct_tiny" / "tables" / "verdicts" / "judge"
    units = {
        p.name: pl.concat([files.read_table(f, "verdicts") for f in sorted(p.glob("*.parquet"))]) for p in root.glob("small-*")
    }
    assert len(units) == 2
    pairs = [u.select("prompt_id", "a", "b", "order", "margin", "outcome") for u in units.values()]
    both = pairs[0].join(pairs[1], on=["prompt_id", "a", "b", "order"], suffix="_http")
    # a server reads "<bos>" in an answer as its control token, which our own tokenisation does not (docs/judges.md)
    candidates = pl.concat([rows(ours, "candidates", "sources"), rows(ours, "candidates", "generate")])
    marked = candidates.filter(pl.col("response").str.contains("<"))["candidate_id"].to_list()
    both = both.filter(~pl.col("a").is_in(marked) & ~pl.col("b").is_in(marked))
    assert both.height > 100, "knock-outs part where a verdict is a matter of the last bits"
    assert (both["margin"] - both["margin_http"]).abs().max() < 1e-3
    clear = both.filter(pl.col("margin").abs() > 1e-3)
    assert clear["outcome"].to_list() == clear["outcome_http"].to_list()
    assert not [p for p in psutil.process_iter() if "api_server" in " ".join(_command(p))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def wait_for(found: Any, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if value := found():
                return value
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.2)
    raise AssertionError("not within the time")
