"""Small recipes, rows and models for tests; every run lies in the test's own folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from recipes import TOY
from runs import Workflow

from prefdata.recipe.job import Job
from prefdata.recipe.read import validate_recipe
from prefdata.recipe.results import Results
from prefdata.sources.toy import tokenizers
from prefdata.stages.registry import STAGES
from prefdata.tables.locks import lock
from prefdata.workflow.execute import execute
from prefdata.workflow.recipes import checked

hypothesis_settings.register_profile("prefdata", deadline=None, print_blob=True, derandomize=True)
hypothesis_settings.load_profile("prefdata")
MUTATIONS = "test_mutations.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that parallel workers end together. A file of the real ones stays in one worker, since its tests
    share what is slow to make, but for mutants: they are short, and come last."""
    for item in items:
        if item.path.parent.name == "real" and item.path.name != MUTATIONS:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    items.sort(key=lambda item: ("workflow" not in item.path.parts, item.path.name == MUTATIONS))


@pytest.fixture(scope="session")
def toy_tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the toy tokenizers small and large."""
    folder = tmp_path_factory.mktemp("tokenizers")
    tokenizers.write(folder)
    return folder


@pytest.fixture(scope="session")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Llama of 64 tokens with the toy tokenizer `small`."""
    import torch
    import transformers
    from models import config

    from prefdata.models.tokens import load_encoder

    folder = tmp_path_factory.mktemp("lm")
    tokenizers.write(folder / "t")
    encoder = load_encoder(str(folder / "t" / "small"))
    torch.manual_seed(0)
    shape = config("llama", vocab_size=len(encoder.tokenizer), max_position_embeddings=64, initializer_range=0.1)
    transformers.LlamaForCausalLM(shape).save_pretrained(folder / "m")
    encoder.tokenizer.save_pretrained(folder / "m")
    return folder / "m"


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Results]:
    """make_run(sources=..., ...) -> Results in this test's folder."""

    def make(**keys: Any) -> Results:
        return Results(
            checked(validate_recipe({"name": "t", "dedup": None, **keys}, "test"), "test"), STAGES, tmp_path / "results"
        )

    return make


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., str]:
    """write_rows(rows or text) -> path of a JSONL file."""

    def write(rows: Any, name: str = "rows.jsonl") -> str:
        path = tmp_path / name
        text = rows if isinstance(rows, str) else "".join(json.dumps(r) + "\n" for r in rows)
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def nectar(prompt: str = "Sba", answers: Any = (("ab", 1), ("ba", 2)), **extra: Any) -> dict[str, Any]:
    """One Nectar row; answers are (text, rank) or (text, rank, model)."""
    listed = [{"answer": a[0], "rank": a[1], "model": a[2] if len(a) > 2 else f"m{i}"} for i, a in enumerate(answers)]
    return {"prompt": f"\n\nHuman: {prompt}\n\nAssistant: ", "answers": listed, **extra}


def run_stages(run: Results, *names: str) -> None:
    """Run data stages in this process: "rank:source" is one unit, a bare name every unit."""
    for name in names:
        stage, _, unit = name.partition(":")
        for each in [unit] if unit else run.units(stage):
            execute(Job(run, stage, each))


@pytest.fixture(autouse=True)
def _quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests neither reach a hub nor inherit a workflow."""
    for name in ("HF_TOKEN", "HF_ENDPOINT", "PREFDATA_RUN_PID", "PREFDATA_SETTINGS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Workflow:
    """The toy recipe, run whole with two workers; once, whatever the number of pytest's own workers."""
    own = tmp_path_factory.getbasetemp()
    shared = own if worker_id == "master" else own.parent
    with lock(shared / "base.lock", wait_s=900):
        workflow = Workflow(shared / "base", TOY)
        workflow.run(cores=2)
    return workflow
