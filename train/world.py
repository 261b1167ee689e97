"""Several processes on one run (torchrun): FSDP2 shards weights, gradients and optimizer; each rank takes part of a batch.

Weights are gathered once a step and stay whole until its end, and gradients are reduced once, by a forward of one token on
every rank: between the two no rank waits for another, so each may run as many forwards as its prompts need. The sum over
ranks is the gradient of the whole batch, as without ranks; nothing is drawn by rank.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

Item = TypeVar("Item")


@dataclass(frozen=True)
class World:
    """This process among all. `World()` is the only one."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def share(self, batch: Sequence[Item]) -> list[Item]:
        """This rank's part; parts differ by one item at most."""
        return list(batch[self.rank :: self.size])

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank: what all of them must do alike."""
        return True in self.gathered(flag)

    def gathered(self, value: Item) -> list[Item]:
        """The value of every rank, in order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def sharded(self, model: Any) -> Any:
        """The model, sharded in place over all ranks; as it is where there is one."""
        if self.size == 1:
            return model
        fully_shard(model, reshard_after_forward=False)
        model.set_requires_gradient_sync(False)
        model.set_reshard_after_backward(False)
        return model

    def settled(self, model: Any) -> Any:
        """The model with its weights sharded again: what an evaluation left whole."""
        if self.size > 1:
            model.reshard()
        return model

    def reduce_gradients(self, model: Any) -> None:
        """Sum the gradients that the ranks have added up each for itself: one token forward and backward, times zero."""
        if self.size == 1:
            return
        model.set_requires_gradient_sync(True)
        model.set_reshard_after_backward(True)
        token = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
        (model(input_ids=token, use_cache=False).logits.double().sum() * 0).backward()
        model.set_requires_gradient_sync(False)
        model.set_reshard_after_backward(False)


ALONE = World()


def join() -> World:
    """The world that torchrun started this process in; alone without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return World(dist.get_rank(), size)


def leave() -> None:
    """End the process group, where there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, gathered from every rank where it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, full: Tensor) -> Tensor:
    """`full`, sharded as `tensor` is."""
    if not isinstance(tensor, DTensor):
        return full
    return distribute_tensor(full.to(tensor.device), tensor.device_mesh, tensor.placements)


def plain(model: Any) -> Any:
    """A model of transformers' own class with the weights of a sharded one; every rank must call it."""
    from transformers import AutoModelForCausalLM

    tensors = {name: whole(p.detach()).cpu() for name, p in model.named_parameters()}
    made = AutoModelForCausalLM.from_config(model.config, dtype=next(iter(tensors.values())).dtype)
    with torch.no_grad():
        for name, parameter in made.named_parameters():  # tied ones once, as above
            parameter.copy_(tensors[name])
    return made.eval()
