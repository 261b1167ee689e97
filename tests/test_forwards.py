"""bf16 and activation checkpointing: the same step, computed otherwise."""

from typing import Any

import pytest
import torch
from test_train import example, model, run_settings
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prefdata.errors import ConfigError, EngineError
from prefdata.models.forward import logprob
from train import first_batch, loop
from train.batch_statistics import RunningMean
from train.examples import Order
from train.metrics import Metrics
from train.objectives.registry import OBJECTIVES
from train.plan import Plan
from train.policy import adapted, merged
from train.precision import checkpointed, forwards
from train.processes import World
from train.settings import LoraSettings, with_defaults
from train.step import Step


def gradients(lm, name: str, settings, visit: int = 0) -> tuple[float, list[torch.Tensor]]:
    settings = with_defaults(settings, OBJECTIVES[name])
    step = Step(OBJECTIVES[name], settings, 0)
    lm.zero_grad(set_to_none=True)
    with forwards(lm, settings):
        loss = torch.stack(
            [v.sum() for v in step.values(lm, [example(i, 4) for i in range(5)], visit, Metrics()).values()]
        ).sum()
    loss.backward()
    return float(loss.detach()), [p.grad.clone() for p in lm.parameters() if p.grad is not None]


@pytest.mark.parametrize("name", ["sft", "dpo", "mcpo"])
def test_checkpointing_changes_no_gradient(name: str) -> None:
    """fp64, the prompt's gradient through its keys and values included."""
    lm = model()
    loss, plain = gradients(lm, name, run_settings())
    again, found = gradients(lm, name, run_settings(checkpoint_activations=True))
    assert again == loss
    assert len(found) == len(plain) > 0
    assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-15) for a, b in zip(found, plain, strict=True))


class Made(TorchDispatchMode):
    """Remembers whatever tensors are made within, without keeping them."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: list[StorageWeakRef] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.storages += [StorageWeakRef(x.untyped_storage()) for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        return out


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["sft", "dpo", "mcpo"])
def test_a_step_leaves_nothing_but_gradients(name: str, attention: str, checkpointing: bool) -> None:
    """Every tensor of its forwards is freed at once: a graph that holds what leads back to it is never freed at all."""
    lm = model()
    lm.set_attn_implementation(attention)
    settings = with_defaults(run_settings(checkpoint_activations=checkpointing), OBJECTIVES[name])
    step, batch = Step(OBJECTIVES[name], settings, 0), [example(i, 4) for i in range(5)]
    with Made() as made:
        with forwards(lm, settings):
            terms = step.values(lm, batch, 0, Metrics())
            loss = torch.stack([v.sum() for v in terms.values()]).sum()
        loss.backward()
        del terms, loss
    kept = {x.untyped_storage()._cdata for p in lm.parameters() for x in (p, p.grad) if x is not None}
    kept |= {b.untyped_storage()._cdata for b in lm.buffers()}
    assert len(made.storages) > 100
    assert not [s for s in made.storages if not s.expired() and s.cdata not in kept]


def test_checkpointing_keeps_the_layers_inputs_only() -> None:
    """Each layer runs twice for a step with gradient, once without; the layers are as they were afterwards."""
    lm, runs = model(), 0

    def count(*_: object) -> None:
        nonlocal runs
        runs += 1

    layer = lm.model.layers[0]
    layer.self_attn.register_forward_hook(count)
    with checkpointed(lm), torch.no_grad():
        lm(torch.tensor([[1, 2, 3]]))
    assert runs == 1
    runs = 0
    gradients(lm, "dpo", run_settings(checkpoint_activations=True))
    assert runs == 4  # prompts and completions, each again in backward
    assert "forward" not in vars(layer)


def test_the_librarys_own_checkpointing_stops_the_run() -> None:
    lm = model(dtype=torch.float32)
    lm.gradient_checkpointing_enable()
    lm.train()
    with pytest.raises((EngineError, RuntimeError), match="gradient checkpointing"):
        first_batch.check(lm, [example(i, 3) for i in range(4)], 4, 10_000)


@pytest.mark.parametrize("rank", [0, 1])
def test_one_rank_says_how_rows_run(rank: int, capsys: pytest.CaptureFixture[str]) -> None:
    first_batch.check(model(dtype=torch.float32), [example(i, 3) for i in range(4)], 4, 10_000, World(rank, 2))
    assert capsys.readouterr().err.count("train: ") == (rank == 0)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", ["dpo", "mcpo"])
def test_bf16_is_near_and_keeps_every_gradient(name: str, shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights stay fp32. By rows, MC-PO's pass without gradient comes first: it must not cut the graph of the one that trains."""
    if not shared:
        monkeypatch.setattr(logprob, "shares_prefix", lambda model, longest: False)
    lm = model(dtype=torch.float32)
    # with replacement, so that the kernel weighs its pool whatever its size
    settings = run_settings(negatives={"count": 2, "replacement": True})
    loss, plain = gradients(lm, name, settings)
    near, found = gradients(lm, name, settings.model_copy(update={"precision": "bfloat16"}))
    assert near != loss
    # a bf16 product is off by 2^-9 at most, relatively; two layers and the head make about ten of them in a row
    assert near == pytest.approx(loss, rel=10 * 2**-9)
    assert len(found) == len(plain) > 0
    assert all(g.dtype == torch.float32 for g in found)
    whole, other = (torch.cat([g.flatten() for g in some]) for some in (plain, found))
    assert torch.cosine_similarity(whole, other, dim=0) > 0.99


# ---- adapters ----


def test_adapters_start_at_the_model_and_train_alone() -> None:
    lm = model()
    before, _ = gradients(lm, "dpo", run_settings())
    frozen = {n: p.clone() for n, p in lm.named_parameters()}
    lm = adapted(lm, LoraSettings(rank=2, alpha=4.0), 0)
    loss, found = gradients(lm, "dpo", run_settings())
    assert loss == before
    trained = [n for n, p in lm.named_parameters() if p.requires_grad]
    assert len(found) == len(trained) > 0
    assert all("lora_" in n for n in trained)
    settings = with_defaults(run_settings(steps=3, batch_prompts=4, optimizer={"learning_rate": 0.05}), OBJECTIVES["dpo"])
    data = [example(i, 3) for i in range(4)]
    optimizer = loop.make_optimizer(lm, settings)
    plan = Plan.of(settings, Order(tuple(e.prompt_id for e in data), 4, 0), {"step": 0})
    step = Step(OBJECTIVES["dpo"], settings, 0)
    losses = [loop.one_step(lm, optimizer, step, data, plan, s, RunningMean())["loss"] for s in range(3)]
    assert losses[-1] < losses[0]
    for name, parameter in lm.named_parameters():
        if ".base_layer" in name:
            assert torch.equal(parameter, frozen[name.replace(".base_layer", "")])


def test_a_head_tied_to_the_embeddings_gets_no_adapter() -> None:
    lm = model(tie_word_embeddings=True)
    with pytest.raises(ConfigError, match="lm_head shares its weights with the embeddings"):
        adapted(lm, LoraSettings(modules=["lm_head"]), 0)


def test_merged_adapters_are_a_plain_model_with_the_same_logits() -> None:
    lm = adapted(model(), LoraSettings(rank=2), 0)
    with torch.no_grad():
        for name, parameter in lm.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([[1, 2, 3, 4]])
    plain = merged(lm)
    assert set(dict(plain.named_parameters())) == set(dict(model().named_parameters()))
    with torch.no_grad():
        assert torch.allclose(plain(ids).logits, lm(ids).logits, atol=1e-9)
        assert not torch.allclose(plain(ids).logits, model()(ids).logits, atol=1e-3)
    assert any("lora_A" in name for name, _ in lm.named_parameters())  # still adapted
