"""Checkpoints of weights in shards: every rank writes and reads its part of weights and moments (torch.distributed.checkpoint)
as safetensors, and writes while the next steps run. No rank ever has the whole of either.

What a checkpoint is, and when it counts, is as in train/checkpoint.py: a folder step-<n> that is renamed last.
"""

import copy
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load as load_parts
from torch.distributed.checkpoint.state_dict_saver import save as save_parts

from prefdata.tables.atomic import beside
from train import checkpoint
from train.processes import World

PARTS = "parts"
"""The folder of a checkpoint that the ranks write to."""


class Saver:
    """Writes a run's checkpoints, one at a time. Every rank makes one and calls each method alike."""

    def __init__(self, folder: Path, world: World, keep: int = 2) -> None:
        self.folder, self.world, self.keep = folder, world, keep
        # of its own: what the writing threads tell each other must not meet what the steps do
        self.group = dist.new_group(backend="gloo")
        self.thread = ThreadPoolExecutor(1)
        self.begun: Begun | None = None

    def save(self, step: int, model: Any, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Begin the checkpoint of `step` finished steps: weights and moments are copied before it returns, and on the disk
        after `finish`, `poll` or the next `save`. Raises DataError where it, or the one before, could not be written."""
        self.finish()
        final = checkpoint.place(self.folder, step)
        own = beside(final)
        if self.world.first:
            checkpoint.begin(own, final)
        temporary = self.world.gathered(own)[0]  # nobody writes before it is there
        # copied here: async_save's own copying failed at times (docs/log.md)
        parts = {"model": _copied(dict(checkpoint.unique(model))), "optimizer": _copied(checkpoint.moments(optimizer))}
        writer = HuggingFaceStorageWriter(str(temporary / PARTS), save_distributed=True)
        written = self.thread.submit(save_parts, parts, storage_writer=writer, process_group=self.group)
        kept = copy.deepcopy(state)  # it is written later, and the next steps add their rows to it
        self.begun = Begun(written, temporary, final, {"step": step, "world": self.world.size, "parts": True, **kept})

    def poll(self) -> None:
        """Let the checkpoint count if it is written by now."""
        if self.begun is not None and self.begun.written.done():
            self.finish()

    def finish(self) -> None:
        """Wait until it is."""
        if self.begun is None:
            return
        begun, self.begun = self.begun, None
        try:
            begun.written.result()
            if self.world.first:  # whose part is done when all are
                checkpoint.appear(begun.temporary, begun.final, begun.state, self.keep)
        except CheckpointException as error:
            raise checkpoint.unwritten(_first(error), begun.final) from error
        except OSError as error:
            raise checkpoint.unwritten(error.strerror, begun.final) from error
        finally:
            if self.world.first:
                shutil.rmtree(begun.temporary, ignore_errors=True)


@dataclass(frozen=True)
class Begun:
    """A checkpoint on its way to the disk."""

    written: Future[Any]
    temporary: Path
    final: Path
    state: dict[str, Any]


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, whatever becomes of the tensors."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def _first(error: CheckpointException) -> str:
    """What the first rank that failed says."""
    failed = next(iter(error.failures.values()))[0]
    return getattr(failed, "strerror", None) or str(failed).strip().splitlines()[-1]


def load(path: Path, model: Any, optimizer: torch.optim.Optimizer) -> bool:
    """Fill model and optimizer from a checkpoint; whether it could be read. Every rank must call it."""
    moments: dict[str, Tensor] = {}
    try:
        kept = HuggingFaceStorageReader(str(path / PARTS)).read_metadata().state_dict_metadata
    except (OSError, ValueError, KeyError, SafetensorError):
        return False
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name in (n.removeprefix("optimizer.") for n in kept if n.startswith("optimizer.")):
        own = parameters[int(name.partition(".")[0])].detach()
        moments[name] = torch.zeros((), dtype=torch.float32) if name.endswith(".step") else torch.zeros_like(own)
    try:
        wanted = {"model": dict(checkpoint.unique(model)), "optimizer": moments}
        load_parts(wanted, storage_reader=HuggingFaceStorageReader(str(path / PARTS)))
    except CheckpointException:
        return False
    checkpoint.load_optimizer(optimizer, moments)
    return True
