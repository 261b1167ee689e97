"""Several processes on one run (torchrun): weights, gradients and the optimizer are in shards (train/sharding.py), each rank
takes part of a batch, and all make the same calls of the model (train/lockstep.py). Where only adapters train, every rank has
the whole model instead, and the adapters' gradients are summed.

The sum over ranks is the gradient of the whole batch, as without ranks; nothing is drawn by rank.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from train.sharding import in_shards, shard

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

    def shard(self, precision: str) -> Callable[[Any], Any] | None:
        """What puts a model in shards on all ranks; None where there is one."""
        return None if self.size == 1 else partial(shard, precision=precision)

    def spread(self, model: Any, precision: str = "float32") -> Any:
        """The model, its weights in shards on all ranks; as it is where there is one rank, and where weights are frozen: then
        those that train are the first rank's on all of them."""
        if self.size == 1 or in_shards(model):
            return model
        if all(p.requires_grad for p in model.parameters()):
            return shard(model, precision)
        for weight in _trained(model):
            dist.broadcast(weight.data, 0)
        return model

    @contextmanager
    def first_then_all(self) -> Iterator[None]:
        """Within: the first rank alone, then the others: for what writes a file that all of them read."""
        if not self.first:
            self.any(False)
        yield
        if self.first:
            self.any(False)

    def sum_gradients(self, model: Any) -> None:
        """The mean of the gradients that the ranks have added up each for itself, where weights are not in shards: gradients of
        shards are means already."""
        if self.size == 1 or in_shards(model):
            return
        for weight in _trained(model):  # a rank without rows has none
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
            dist.all_reduce(weight.grad)
            weight.grad /= self.size


def _trained(model: Any) -> list[Any]:
    return [p for p in model.parameters() if p.requires_grad]


SINGLE = World()


def join() -> World:
    """The world that torchrun started this process in; alone without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return SINGLE
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not dist.is_initialized():
        # the others wait while the first one reads and scores the set
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(days=7))
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


def one_by_one(tensors: Iterable[tuple[str, Tensor]], world: World) -> Iterator[tuple[str, Tensor]]:
    """Each tensor whole on the first rank's CPU, the next one when it is asked for; none on the others, which must go through
    all of them too."""
    for name, tensor in tensors:
        full = whole(tensor.detach())
        if world.first:
            yield name, full.cpu()


def gathered(tensors: Iterable[tuple[str, Tensor]], world: World) -> dict[str, Tensor]:
    """All of the tensors on the first rank's CPU, nothing on the others. Every rank calls it."""
    return dict(one_by_one(tensors, world))


def plain(model: Any, world: World) -> Any:
    """A model of transformers' own class with the weights of a sharded one, on the first rank's CPU; None on the others. Every
    rank calls it. One that is not sharded is itself."""
    from transformers import AutoModelForCausalLM

    if not in_shards(model):
        return model if world.first else None
    tensors = gathered(model.named_parameters(), world)
    if not world.first:
        return None
    dtype = next(iter(tensors.values())).dtype
    with torch.device("meta"):  # its weights are those that were gathered, not copies of them
        made = AutoModelForCausalLM.from_config(model.config, dtype=dtype)
    own = {name: nn.Parameter(tensor) for name, tensor in tensors.items()}
    for name, tensor in (own | {n: b.cpu() for n, b in model.named_buffers()}).items():
        holder, _, last = name.rpartition(".")
        setattr(made.get_submodule(holder), last, tensor)
    made.tie_weights()  # tied ones have one name above
    made.generation_config = model.generation_config
    return made.eval()
