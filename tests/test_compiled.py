"""Compiled layers: the same step, one set of graphs for all layers and lengths, and what is said where nothing compiles."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_forwards import gradients
from test_train import example, model, run_settings
from torch._dynamo.utils import counters

from prefdata.errors import ConfigError, EngineError
from prefdata.models.forward import logprob
from train.precision import checkpointed, compiled

pytestmark = pytest.mark.filterwarnings("default")  # of torch, which its own compiler uses in ways it warns of

needs_compiler = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("c++")), reason="no C++ compiler")


@pytest.fixture(autouse=True)
def nothing_compiled_yet() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@needs_compiler
def test_gradients_are_those_of_plain_layers_whatever_the_rows_and_few_graphs_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """fp32: what is joined in one kernel rounds otherwise. A layer computed again is the compiled one."""
    lm, graphs = model(num_hidden_layers=4, dtype=torch.float32), []
    for visit in range(3):
        monkeypatch.setattr("test_forwards.example", lambda i, n, first=100 * visit: example(first + i, n))
        loss, plain = gradients(lm, "mcpo", run_settings(), visit)
        for again in (False, True):
            found, others = gradients(lm, "mcpo", run_settings(compile_layers=True, checkpoint_activations=again), visit)
            assert found == pytest.approx(loss, rel=1e-5)
            assert all((a - b).norm() <= 1e-4 * b.norm() for a, b in zip(others, plain, strict=True))
        graphs.append(counters["stats"]["unique_graphs"])
    assert 0 < graphs[0] == graphs[-1] <= 12
    assert counters["frames"]["ok"] == counters["frames"]["total"], "a layer that is not compiled runs as it is, unsaid"


def test_the_models_own_forwards_come_back() -> None:
    lm: Any = model()
    first, last = lm.model.layers[0], lm.model.layers[-1]
    with compiled(lm):
        within = first.forward
        with checkpointed(lm):
            assert first.forward is not within
        assert first.forward is within
        assert "forward" not in vars(last)
    assert not [m for m in lm.modules() if "forward" in vars(m)]


def test_without_a_compiler_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # nothing was compiled before
    lm, said = model(), r"layers cannot be compiled: .*install a C\+\+ compiler"
    with inductor.patch("cpp.cxx", (None, "/no/such/compiler")), pytest.raises(EngineError, match=said), compiled(lm):
        logprob.prefix(lm, [[1, 2, 3]])


def test_a_model_without_layers_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.precision.decoder_layers", lambda model: [])
    with pytest.raises(ConfigError, match="no layers that can be compiled"), compiled(model()):
        pass
