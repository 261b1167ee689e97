"""The command line: help that teaches, one line for a mistake, light imports, no orphans."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from prefdata.errors import ConfigError
from prefdata.recipe.units import unit_of
from prefdata.stages.registry import STAGES
from prefdata.workflow.run import command

ROOT = Path(__file__).parent.parent


def call(*words: str, cwd: Path = ROOT, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "prefdata", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
        env={**os.environ, **env},
    )


def test_help_lists_every_stage() -> None:
    said = call("--help").stdout
    for name in STAGES:
        assert name in said
    assert "--unit" in call("score", "--help").stdout
    assert "--run" in call("train", "--help").stdout


def test_importing_prefdata_loads_nothing_heavy() -> None:
    code = "import sys, prefdata, prefdata.workflow.cli, prefdata.recipe.job; print([m for m in ('torch', 'vllm', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: t\nsources: {sources: [{name: s, path: nowhere.jsonl}]}\n")
    done = call("sources", "--settings", str(recipe), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: nowhere.jsonl: no such file; correct sources.sources (s).path\n"
    assert "Traceback" in call("sources", "--settings", str(recipe), "--debug", cwd=tmp_path).stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["split", "--settings", "none.yaml"], "no such settings file"),
        (["split", "--settings", "r.yaml", "--shards", "9"], "no shards [9]: the recipe has 1, numbered from 0"),
        (["split", "--settings", "r.yaml", "--shards", "x"], "'x' is no shard"),
        (["rank", "--settings", "r.yaml", "--unit", "y"], "rank has no unit 'y'; choose one of ['source']"),
        (["split", "--settings", "r.yaml"], "no such file; make it: prefdata sources, or run the whole recipe"),
        (["prune", "--settings", "r.yaml", "--unit", "x"], "prune has no unit 'x'"),
    ],
)
def test_mistakes_of_the_command_line(tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "r.yaml").write_text("name: t\nsources: {sources: [{name: s, path: nowhere.jsonl}]}\n")
    done = call(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_prints_every_key_with_its_reason() -> None:
    said = call("settings").stdout
    assert "prune.drop_ranks  [[2]]" in said
    assert "\nloss.beta  [0.1]\n" in call("train", "--keys").stdout


def test_a_job_whose_workflow_is_gone_stops_at_once() -> None:
    done = call("--help", PREFDATA_RUN_PID="1")
    assert "is gone" in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "-rf", "a\0b", "x" * 300, "", "\u202e", "CON", ".."])
def test_units_of_hostile_names_are_safe_folder_names(name: str) -> None:
    unit = unit_of(name)
    assert len(unit) < 60
    assert unit.strip(".-/") == unit
    assert all(c.isascii() and (c.isalnum() or c == "-") for c in unit)
    assert unit_of(name + "2") != unit


def test_a_secret_in_the_environment_reaches_no_message(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: t\nsources: {sources: [{name: s, path: nowhere.jsonl}]}\n")
    done = call("sources", "--settings", "r.yaml", "--debug", cwd=tmp_path, HF_TOKEN="hf_canary")
    assert "hf_canary" not in done.stdout + done.stderr


def test_prefdata_run_gives_snakemake_the_users_targets_and_options() -> None:
    """--configfile and --resources take all words up to the next option, a target too."""
    for options in (["publish"], ["-n", "set"], ["--resources", "gpu=2", "--cores", "1", "set"]):
        words = command(Path("r.yaml"), options)
        assert words[-len(options) :] == options
        before = words[: -len(options)]
        assert before[-2].startswith("--")
        assert before[-2] not in ("--configfile", "--resources")


def test_a_profile_that_travels_is_called_by_its_name(tmp_path: Path) -> None:
    for given in (["--workflow-profile", "slurm", "set"], ["--workflow-profile=slurm", "set"]):
        words = command(Path("r.yaml"), given)
        named = Path(words[words.index("--workflow-profile") + 1])
        assert yaml.safe_load((named / "config.v9+.yaml").read_text())["executor"] == "slurm"
        assert words.count("--workflow-profile") == 1
        assert words[-1] == "set"
    words = command(Path("r.yaml"), [])
    assert words[-1] == str(ROOT / "profiles" / "default")
    assert str(tmp_path) in command(Path("r.yaml"), ["--workflow-profile", str(tmp_path)])
    for wrong in ("slrum", ""):
        with pytest.raises(ConfigError, match="no such folder, and no profile of that name"):
            command(Path("r.yaml"), ["--workflow-profile", wrong])
