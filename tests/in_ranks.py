"""Steps of several objectives in fp64, alone or as a rank of torchrun; the first rank leaves rows and weights in a folder.

What a rank of two or four meets here: micro-batches that it has fewer of, none at all, prompts that are shared on one rank and
not on another, pools of other sizes, completions of one token, a loss that scores other prompts' answers."""

import gc
import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from models import model
from safetensors.torch import save_file
from test_train import example, run_settings
from torch._dynamo.utils import counters
from torch.distributed.tensor import DTensor
from transformers import core_model_loading

from prefdata.models.forward.read_positions import decoder_layers
from prefdata.models.loading import load_model
from train import checkpoint, loop, processes, shard_checkpoint
from train.batch_statistics import RunningMean
from train.examples import Example, Order
from train.objectives.registry import OBJECTIVES
from train.plan import Plan
from train.settings import with_defaults
from train.sharding import settled
from train.step import Step

BATCH, STEPS = 5, 2
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sft": ("sft", {"micro_tokens": 12}),
    "dpo": ("dpo", {"micro_tokens": 30}),
    "dpo_rows": ("dpo", {"model": {"sliding_window": 2, "family": "mistral"}}),
    "mcpo": ("mcpo", {"micro_tokens": 30, "negatives": {"count": 2, "redraw": "epoch"}}),
    "mcpo_again": ("mcpo", {"checkpoint_activations": True}),
    "kto": ("kto", {"micro_tokens": 40}),
    "bco": ("bco", {"micro_tokens": 40}),
    "one_left": ("mcpo", {"rows": 1}),
    "uneven": ("mcpo", {"uneven": True, "micro_tokens": 15}),
    "gpt2": ("dpo", {"model": {"family": "gpt2"}}),
}

COMPILED: dict[str, tuple[str, dict[str, Any]]] = {
    "compiled": ("mcpo", {"compile_layers": True, "micro_tokens": 30, "negatives": {"count": 2, "redraw": "epoch"}}),
    "compiled_again": ("mcpo", {"compile_layers": True, "checkpoint_activations": True}),
}
"""By themselves: each process compiles for half a minute."""


def rows(count: int, uneven: bool) -> list[Example]:
    """Prompts with four or five candidates; `uneven`: some with one alone, or of one token each, or with many."""
    if not uneven:
        return [example(i, 3 + i % 2) for i in range(count)]
    made = [example(i, (1, 6, 2, 4, 9)[i % 5]) for i in range(count)]
    made[0].completions[:] = [c[:1] for c in made[0].completions]
    return made


def steps(name: str, world: processes.World) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    objective, keys = (CASES | COMPILED)[name]
    keys = dict(keys)
    of_model, count = keys.pop("model", {}), keys.pop("rows", 2 * BATCH)
    data = rows(count, keys.pop("uneven", False))
    row = OBJECTIVES[objective]
    settings = with_defaults(run_settings(steps=STEPS, batch_prompts=BATCH, optimizer={"learning_rate": 3e-3}, **keys), row)
    lm = world.spread(model(**of_model))
    reference = model(**of_model) if objective == "kto" else None
    optimizer = loop.make_optimizer(lm, settings)
    step_of = Step(row, settings, 3, world.spread(reference) if reference is not None else None)
    held = [example(100 + i, 3) for i in range(3)]
    plan = Plan.of(settings, Order(tuple(e.id for e in data), BATCH, 7, 2 if objective == "kto" else 1), {"step": 0})
    running, made = RunningMean(), []
    for step in range(STEPS):
        made.append(loop.one_step(lm, optimizer, step_of, data, plan, step, running, world))
        made[-1] |= loop.evaluate(lm, step_of, held, made[-1].get("shift", 0.0), world)
    return made, processes.gathered(lm.named_parameters(), world)


def held_between_layers(world: processes.World) -> dict[str, int]:
    """Bytes of parameters, gradients and moments that this process holds at most where a layer begins, forwards or backwards;
    of the whole model with all of these, of a layer's weights and of those outside of layers."""
    lm = world.spread(model(num_hidden_layers=8, hidden_size=64, intermediate_size=96))
    settings = with_defaults(run_settings(steps=2, batch_prompts=BATCH, negatives={"count": 2}), OBJECTIVES["mcpo"])
    optimizer, data = loop.make_optimizer(lm, settings), rows(BATCH, uneven=False)
    plan, step_of = (
        Plan.of(settings, Order(tuple(e.id for e in data), BATCH, 7), {"step": 0}),
        Step(OBJECTIVES["mcpo"], settings, 3),
    )
    loop.one_step(lm, optimizer, step_of, data, plan, 0, RunningMean(), world)
    # all there are, those included that sharding keeps to itself
    kept, most = [x for x in gc.get_objects() if isinstance(x, torch.nn.Parameter)], 0

    def look(*args: Any) -> None:
        nonlocal most
        most = max(most, bytes_of(kept, optimizer))

    def look_twice(layer: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        look()
        if args[0].requires_grad:
            args[0].register_hook(look)

    layers = decoder_layers(lm)
    for layer in layers:
        layer.register_forward_pre_hook(look_twice, prepend=True)
    loop.one_step(lm, optimizer, step_of, data, plan, 1, RunningMean(), world)
    inside, whole = (sum(p.numel() for p in part.parameters()) * 8 for part in (layers[0], lm))
    return {"most": most, "whole": 4 * whole, "layer": inside, "outside": whole - inside * len(layers)}


def bytes_of(parameters: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
    """Of parameters, whole or in shards, with their gradients and moments."""
    kept = [*parameters, *(x.grad for x in parameters if x.grad is not None)]
    kept += [x for entry in optimizer.state.values() for x in entry.values()]
    storages = {s.data_ptr(): s.nbytes() for x in kept for s in [local(x.detach()).untyped_storage()]}
    return sum(storages.values())


LOADED: dict[str, dict[str, Any]] = {
    "llama": {},
    "tied": {"tie_word_embeddings": True, "vocab_size": 61},
    "gpt2": {"family": "gpt2"},
    "gemma2": {"family": "gemma2"},
}
"""Models on the disk: with embeddings of their own or the head's, of an uneven number; names without the causal model's prefix."""


def loaded(name: str, folder: Path, world: processes.World) -> dict[str, bool]:
    """Of a model whose weights each rank read its part of: whether they are the file's, give the logits of the whole model, and
    are as many; the config tells nothing of how it was loaded."""
    place = folder / name
    if world.first:
        model(dtype=torch.float32, **LOADED[name]).save_pretrained(place, max_shard_size="20KB")
    world.any(False)
    whole = load_model(str(place))
    # it would read a weight whole
    with patch.object(core_model_loading, "_materialize_copy", side_effect=AssertionError):
        mine = load_model(str(place), shard=world.shard("float32"))
    ids = torch.arange(3, 10).unsqueeze(0)
    with torch.no_grad():
        gap = (whole(input_ids=ids).logits - mine(input_ids=ids).logits).abs().max()
    own, all_ = processes.gathered(settled(mine).named_parameters(), world), dict(whole.named_parameters())
    share = sum(p.to_local().numel() for p in mine.parameters()) / sum(p.numel() for p in all_.values())
    return {
        "names": not world.first or own.keys() == all_.keys(),
        "weights": all(torch.equal(all_[n], w) for n, w in own.items()),
        "logits": float(gap) == 0.0,
        "share": 0.9 < share * world.size < 1.1,
        "config": mine.config.to_dict() == whole.config.to_dict() and not hasattr(mine.config, "distributed_config"),
    }


def resumed(folder: Path, world: processes.World) -> dict[str, bool]:
    """Whether a step after a checkpoint that was written while that step ran is, bit for bit, the step that a process takes
    that finds the checkpoint; and what else is promised of checkpoints."""
    identity = checkpoint.Identity("whole", "base", 0)
    settings = with_defaults(run_settings(steps=2, batch_prompts=BATCH), OBJECTIVES["mcpo"])
    data, step_of = rows(BATCH, uneven=False), Step(OBJECTIVES["mcpo"], settings, 3)
    plan = Plan.of(settings, Order(tuple(e.id for e in data), BATCH, 7), {"step": 0})

    def fresh() -> tuple[Any, torch.optim.Optimizer]:
        lm = world.spread(model(vocab_size=61))
        return lm, loop.make_optimizer(lm, settings)

    def step(number: int, lm: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        return loop.one_step(lm, optimizer, step_of, data, plan, number, RunningMean(), world)

    def found() -> tuple[dict[str, Any], Any, torch.optim.Optimizer]:
        lm, optimizer = fresh()
        state = checkpoint.resume(folder, identity, lm, optimizer, world, shard_checkpoint.load)
        return state or {"step": 0}, lm, optimizer

    def bits(lm: Any, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
        kept = dict(settled(lm).named_parameters()) | checkpoint.moments(optimizer)
        return {name: local(x).clone() for name, x in kept.items()}

    lm, optimizer = fresh()
    saver = shard_checkpoint.Saver(folder, world, keep=1)
    done = [step(0, lm, optimizer)]
    saver.save(1, settled(lm), optimizer, {**identity.state(), "rows": done})
    done.append(step(1, lm, optimizer))
    saver.finish()
    state, again, other = found()
    same_row = step(1, again, other) == done[1]
    one, two = bits(lm, optimizer), bits(again, other)
    parts = {p.name: p.stat().st_size for p in (folder / "step-00000001" / shard_checkpoint.PARTS).glob("*.safetensors")}
    world.any(False)
    saver.save(2, settled(lm), optimizer, {**identity.state(), "rows": []})
    saver.finish()
    newest = found()[0]["step"]
    kept = [p.name for p in checkpoint.checkpoints(folder)]
    if world.first:
        part = folder / kept[-1] / shard_checkpoint.PARTS / max(parts)
        part.write_bytes(part.read_bytes()[:100])
    world.any(False)
    return {
        "state": state["step"] == 1 and state["rows"] == done[:1],
        "row": same_row,
        "bits": one.keys() == two.keys() and len(one) > 60 and all(torch.equal(two[n], x) for n, x in one.items()),
        "parts": len(parts) == world.size and max(parts.values()) < 2 * min(parts.values()),
        "newest": newest == 2 and kept == ["step-00000002"],
        "damaged": found()[0]["step"] == 0,
    }


def local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def main(folder: Path, *names: str) -> None:
    torch.set_num_threads(1)
    world = processes.join()
    if not names:
        look(folder, world)
    for name in names or CASES:
        made, weights = steps(name, world)
        if world.first:
            (folder / f"{name}.json").write_text(json.dumps(made))
            save_file({n: w.clone() for n, w in weights.items()}, folder / f"{name}.safetensors")
    (folder / f"frames-{world.rank}.json").write_text(json.dumps(counters["frames"]))
    processes.leave()


def look(folder: Path, world: processes.World) -> None:
    """What else than steps is looked at."""
    (folder / f"held-{world.rank}.json").write_text(json.dumps(held_between_layers(world)))
    if world.size > 1:
        (folder / f"resumed-{world.rank}.json").write_text(json.dumps(resumed(folder / "steps", world)))
    for name in LOADED if world.size > 1 else ():
        (folder / f"loaded-{name}-{world.rank}.json").write_text(json.dumps(loaded(name, folder, world)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
