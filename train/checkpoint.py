"""Checkpoints: safetensors and JSON, whole or not at all, exact.

A checkpoint is a folder step-<n> that holds model, optimizer and state; it is written under another name and renamed
last, so the newest complete one always loads.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from prefdata.errors import ConfigError, DataError
from prefdata.tables.atomic import atomic_write, beside, fsync
from train.processes import SINGLE, World, gathered, like
from train.saving import save_tensors
from train.sharding import in_shards

BEST = "best.safetensors"
AGAIN = "train the run that it belongs to again"
OPTIMIZER = "optimizer"
"""The folder beside a model that holds the optimizer a later run continues with."""


def save(
    folder: Path,
    step: int,
    model: Any,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    keep: int = 2,
    world: World = SINGLE,
) -> None:
    """Write the checkpoint of `step` finished steps; older ones beyond `keep` are removed. Every rank must call it; the
    first one writes."""
    weights, kept = gathered(unique(model), world), optimizer_tensors(optimizer, world)
    if not world.first:
        return
    final = place(folder, step)
    with appearing(beside(final), final, {"step": step, "world": world.size, **state}, keep) as temporary:
        save_tensors(weights, temporary / "model.safetensors")
        save_tensors(kept, temporary / "optimizer.safetensors")


class Saver:
    """Writes a run's checkpoints. Every rank makes one and calls each method alike."""

    def __init__(self, folder: Path, world: World = SINGLE) -> None:
        self.folder, self.world = folder, world

    def save(self, step: int, model: Any, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        save(self.folder, step, model, optimizer, state, world=self.world)

    def poll(self) -> None:
        """As train.shard_checkpoint has it: it is there when `save` returns."""

    def finish(self) -> None:
        """Likewise."""


def place(folder: Path, step: int) -> Path:
    """Where the checkpoint of `step` finished steps lies."""
    return folder / f"step-{step:08d}"


@contextmanager
def appearing(temporary: Path, final: Path, state: dict[str, Any], keep: int) -> Iterator[Path]:
    """Within: a folder to write to, which is the checkpoint afterwards. Raises DataError."""
    try:
        begin(temporary, final)
        yield temporary
        appear(temporary, final, state, keep)
    except OSError as error:
        raise unwritten(error.strerror, final) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def begin(temporary: Path, final: Path) -> None:
    """Make the folder, and remove what a killed run left: the run's lock makes us its only writer. Raises DataError."""
    for stale in temporary.parent.glob(".step-*.tmp"):
        shutil.rmtree(stale, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise unwritten(error.strerror, final) from error


def appear(temporary: Path, final: Path, state: dict[str, Any], keep: int) -> None:
    """Let what was written count, and remove older checkpoints beyond `keep`."""
    (temporary / "state.json").write_text(json.dumps(state), encoding="utf-8")
    for file in temporary.rglob("*"):
        fsync(file)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(temporary, final)
    fsync(final.parent)
    for old in checkpoints(final.parent)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def unwritten(what: str | None, final: Path) -> DataError:
    """The error of a checkpoint that cannot be written."""
    return DataError(f"cannot write a checkpoint: {what}", str(final), "free space and run again")


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(p for p in folder.glob("step-*") if (p / "state.json").exists())


@dataclass(frozen=True)
class Identity:
    """What a checkpoint is of: `whole` names everything that its run depends on, `base` all of it but the seed."""

    whole: str
    base: str
    seed: int

    def state(self) -> dict[str, Any]:
        return {"identity": self.whole, "base": self.base, "seed": self.seed}


def load(path: Path, model: Any, optimizer: torch.optim.Optimizer) -> bool:
    """Fill model and optimizer from a checkpoint; whether it could be read."""
    try:
        tensors = load_file(path / "model.safetensors")
        saved = load_file(path / "optimizer.safetensors")
    except (SafetensorError, OSError):
        return False
    _fill(model, tensors)
    load_optimizer(optimizer, saved)
    return True


def resume(
    folder: Path,
    identity: Identity,
    model: Any,
    optimizer: torch.optim.Optimizer,
    world: World = SINGLE,
    load: Callable[[Path, Any, torch.optim.Optimizer], bool] = load,
) -> dict[str, Any] | None:
    """Load the newest complete checkpoint of this very run into model and optimizer; its state, or None.

    A checkpoint of other settings, data or start is not ours: it is removed and the run begins anew. Raises ConfigError where
    only the seed is another one, or the number of processes, which would sum in another order: both are slips more often
    than wishes, and would cost the steps that are done.
    """
    with world.first_then_all():
        if world.first:
            _discard_others(folder, identity)
            _discard_of_other_form(folder, world, in_shards(model))
    for path in reversed(checkpoints(folder)):
        state = _state(path)
        if state.get("world", 1) != world.size:
            raise ConfigError(
                f"the run was begun by {state.get('world', 1)} processes, not {world.size}",
                str(path),
                f"start as many again, or remove {folder} to begin anew",
            )
        if load(path, model, optimizer):
            return state
    return None


def _state(path: Path) -> dict[str, Any]:
    return json.loads((path / "state.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def _discard_others(folder: Path, identity: Identity) -> None:
    for path in checkpoints(folder):
        state = _state(path)
        if state["identity"] == identity.whole:
            continue
        if state.get("base") == identity.base and state["seed"] != identity.seed:
            raise ConfigError(
                f"the run was begun with the seed {state['seed']}, not {identity.seed}",
                str(path),
                f"take the old seed back, or remove {folder} to begin anew",
            )
        shutil.rmtree(path, ignore_errors=True)


def _discard_of_other_form(folder: Path, world: World, parts: bool) -> None:
    """What as many processes wrote before checkpoints were in parts cannot be read, and would outlive those of lower steps."""
    for path in checkpoints(folder):
        state = _state(path)
        if state.get("world", 1) == world.size and state.get("parts", False) != parts:
            shutil.rmtree(path, ignore_errors=True)


def save_best(folder: Path, model: Any, world: World) -> None:
    """Keep the weights as the best ones so far. Every rank must call it."""
    weights = gathered(unique(model), world)
    if world.first:
        atomic_write(folder / BEST, lambda path: save_tensors(weights, path))


def load_best(folder: Path, model: Any) -> None:
    """Put the best weights into the model."""
    _fill(model, load_file(folder / BEST))


def keep(folder: Path, moments: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write what a run that continues from this one starts with, beside the model."""
    folder.mkdir()
    save_tensors(moments, folder / "optimizer.safetensors")
    (folder / "state.json").write_text(json.dumps(state, sort_keys=True), encoding="utf-8")


def continued(folder: Path | None, optimizer: torch.optim.Optimizer, tokenizer: str) -> dict[str, Any]:
    """The state that a run starts with: another run's, optimizer included, from its folder, or that of step 0. `tokenizer`:
    what identifies the run's own. Raises DataError where there is none, or where it is of another model or tokenizer."""
    if folder is None:
        return {"step": 0, "rows": []}
    try:
        state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        saved = load_file(folder / "optimizer.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"no optimizer to continue with ({error})", str(folder), AGAIN) from error
    if (other := _other_shape(optimizer, saved)) is not None:
        raise DataError(f"the optimizer is of another model than lies beside it: {other}", str(folder), AGAIN)
    if state.get("tokenizer", tokenizer) != tokenizer:
        raise DataError("the tokenizer is not the one that the run before was trained with", str(folder.parent), AGAIN)
    load_optimizer(optimizer, saved)
    return {**state, "rows": []}


def _other_shape(optimizer: torch.optim.Optimizer, moments: dict[str, Tensor]) -> str | None:
    """The first moment that does not fit its parameter."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    kept = {int(name.partition(".")[0]) for name in moments}
    trained = {i for i, p in enumerate(parameters) if p.requires_grad}
    if not kept <= trained or not kept:  # a weight that never had a gradient (an expert nobody chose) has no moment
        return f"it has {len(kept)} tensors, the model {len(parameters)}"
    for name, tensor in moments.items():
        own = parameters[int(name.partition(".")[0])]
        if tensor.dim() and tensor.shape != own.shape:
            return f"a moment of {tuple(tensor.shape)} for a weight of {tuple(own.shape)}"
    return None


def _fill(model: Any, tensors: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in unique(model):
            parameter.copy_(like(parameter, tensors[name]))


def unique(model: Any) -> list[tuple[str, Tensor]]:
    """Parameters that train, by name, tied ones once, without gradient."""
    return [(n, p.detach()) for n, p in model.named_parameters() if p.requires_grad]


def optimizer_tensors(optimizer: torch.optim.Optimizer, world: World = SINGLE) -> dict[str, Tensor]:
    """Steps and moments by parameter, whole, on the first rank. Every rank must call it."""
    return gathered(moments(optimizer).items(), world)


def moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Steps and moments by parameter, as they are."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{k}": torch.as_tensor(v) for i, entry in state.items() for k, v in entry.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Tensor]) -> None:
    """Fill the optimizer from steps and moments by parameter, whole or in the parameters' shards."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    entries: dict[int, dict[str, Tensor]] = {}
    for name, tensor in saved.items():
        index, _, key = name.partition(".")
        sharded = like(parameters[int(index)], tensor) if tensor.dim() and not isinstance(tensor, DTensor) else tensor
        entries.setdefault(int(index), {})[key] = sharded
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
