"""`prefdata` as people have it: from a wheel in an environment of its own, an editable install, and a bare checkout; in a folder
whose own Snakefile, profile, train.py and prefdata.py must not be taken for ours."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[2]
RECIPE: dict[str, Any] = {
    "name": "mine",
    "num_shards": 3,
    "shards_per_job": 2,
    "toy": {"demonstrations": 40, "train": 12, "test": 8},
    "sources": {"sources": [{"name": "toy", "path": "toy:", "license": "apache-2.0"}]},
    "train": {
        "runs": {
            "sft/policy": {
                "set": "sft",
                "steps": 3,
                "init": {"tokenizer": "toy:small", "hidden_size": 32, "heads": 1, "layers": 1, "mlp": 32},
            }
        }
    },
    "evaluate": {"runs": ["sft/policy"], "samples": 1, "max_tokens": 8},
}
SOURCES = "connection_pool,rouge_score,sqlitedict,word2number"
"""Published as sources only, of Python alone."""
TOOLS = ("prefdata", "train", "cards", "rubrics", "config", "profiles")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    for name in filter(None, listed):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(made), str(source)], check=True)
    (found,) = made.glob("*.whl")
    return found


@pytest.fixture(scope="module", params=["wheel", "editable", "checkout"])
def prefdata(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[str, str]]:
    """The command's words, and its environment."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PREFDATA", "PYTEST", "PYTHON", "HF_"))}
    clean |= {"HF_HUB_OFFLINE": "1", "PREFDATA_NO_SUMMARY": "1"}
    if request.param == "editable":
        return [str(Path(sys.executable).parent / "prefdata")], clean
    place = tmp_path_factory.mktemp(request.param)
    if request.param == "checkout":
        for name in TOOLS:
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        return [sys.executable, "-P", "-m", "prefdata"], {**clean, "PYTHONPATH": str(place)}
    venv.create(place / "venv", with_pip=False)
    python = place / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(request.getfixturevalue("wheel"))], check=True)
    site = next((place / "venv" / "lib").glob("python*/site-packages"))
    ours = next(p for p in sys.path if p.endswith("site-packages"))
    (site / "dependencies.pth").write_text(ours + "\n")  # what it depends on; our own editable install is not read there
    return [str(place / "venv" / "bin" / "prefdata")], clean


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder that holds files by our names."""
    for name in ("train.py", "prefdata.py", "Snakefile"):
        (tmp_path / name).write_text("raise RuntimeError('the file of the user')\n")
    (tmp_path / "profiles" / "default").mkdir(parents=True)
    (tmp_path / "profiles" / "default" / "config.yaml").write_text("no-such-option: 1\n")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return tmp_path


def call(prefdata: tuple[list[str], dict[str, str]], folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command, environment = prefdata
    return subprocess.run(
        [*command, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=900
    )


def test_a_recipe_runs_from_a_folder_of_ones_own(prefdata: tuple[list[str], dict[str, str]], folder: Path) -> None:
    done = call(prefdata, folder, "run", "recipe.yaml", "--cores", "2")
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert (folder / "results" / "mine" / "publish" / "mine" / "README.md").exists()
    assert (folder / "results" / "mine" / "models" / "sft" / "policy" / "model.safetensors").exists()
    again = call(prefdata, folder, "run", "recipe.yaml", "-n")
    assert "Nothing to be done" in again.stdout + again.stderr
    rows = call(prefdata, folder, "train", "--settings", "recipe.yaml")
    assert rows.stdout == "sft/policy: 3 steps from a fresh model\n"


def test_recipes_and_starters_travel_with_it(prefdata: tuple[list[str], dict[str, str]], folder: Path) -> None:
    for like in ("nectar", "instruct", "demo"):
        assert call(prefdata, folder, "init", f"my-{like}", "--like", like).returncode == 0
    (folder / "mine.jsonl").write_text('{"prompt": "a", "answers": [{"answer": "b", "model": "m", "rank": 1}]}\n')
    (folder / "prompts.jsonl").write_text('{"prompt": "a"}\n')
    for recipe in ("demo", "base", "my-nectar.yaml", "my-instruct.yaml", "my-demo.yaml"):
        done = call(prefdata, folder, "run", recipe, "-n", "--quiet", "rules")
        assert done.returncode == 0, (recipe, done.stderr[-2000:])
    refused = call(prefdata, folder, "run", "demmo")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "did you mean 'demo'" in refused.stderr
    assert call(prefdata, folder, "init", "my-demo").stderr.startswith("error: my-demo.yaml: the file is there already")


def test_wheels_of_all_pins_exist_for_every_python(tmp_path: Path) -> None:
    """By the installer's dry runs, against the package index; they mostly wait for it, so all at once."""
    started = {version: dry_run(version, tmp_path / version) for version in ("3.11", "3.12", "3.13")}
    said = {version: process.communicate()[1] for version, process in started.items()}
    assert {v: said[v][-2000:] for v, process in started.items() if process.returncode != 0} == {}


def dry_run(version: str, folder: Path) -> "subprocess.Popen[str]":
    platforms = [f"manylinux_2_{n}_x86_64" for n in (5, 12, 17, 24, 27, 28, 31, 34)] + [
        "manylinux1_x86_64",
        "manylinux2014_x86_64",
    ]
    command = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed", "--no-deps"]
    command += [
        "--only-binary=:all:",
        f"--no-binary={SOURCES}",
        "--implementation",
        "cp",
        "--python-version",
        version,
        "--target",
        str(folder),
    ]
    command += [word for p in platforms for word in ("--platform", p)]
    command += ["-r", str(ROOT / "constraints.txt")]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
