"""What a training step holds on one GPU, counted on any machine: the trainer's own forwards, backward and optimizer step over
tensors that have a shape and no memory (torch's fake tensors), among processes that are not there (its fake process group).

Counted is every tensor that lives. Not seen are what kernels and NCCL take for their own work, the CUDA context, and what
fragmentation loses.
"""

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prefdata.models.forward import chunked_head, head, log_softmax
from prefdata.models.forward.packed_attention import packing
from train import loop, micro_batch, step
from train.examples import Example, micro_batches
from train.lockstep import forward_in
from train.objectives.negatives import NEGATIVES
from train.objectives.registry import Objective
from train.policy import adapted
from train.precision import forwards
from train.processes import World
from train.settings import TrainingSettings
from train.sharding import in_shards, settled

GIB = 2**30


@dataclass(frozen=True)
class Peak:
    """Bytes that a rank holds at most, and in which part of a step; and what it holds between steps: weights and moments."""

    most: int
    when: str
    between: int


@dataclass(frozen=True)
class Rows:
    """A run's batches: tokens of a prompt and of each of its candidates."""

    prompt: int
    completion: int
    candidates: int

    def example(self, number: int) -> Example:
        names = [f"{number:08x}{n:08x}" for n in range(self.candidates)]
        completions = [[0] * self.completion for _ in names]
        logps = [[0.0] * self.candidates]
        return Example(f"{number:016x}", [0] * self.prompt, completions, names, ["source"] * self.candidates, logps, [])


class Held(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within: bytes of the tensors that live, made within or told by `see`, and the most there were, with `part` at that time.
    What an operator allocates and frees by itself is not seen."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held, self.most, self.when, self.part = 0, 0, "", ""
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and self.counts(tensor):
                self.see(tensor)
        return out

    def counts(self, tensor: Tensor) -> bool:
        """Whether its storage is one of those asked for."""
        return True

    def see(self, tensor: Tensor) -> None:
        """Count its storage, once, until it is gone."""
        self.sized((tensor.to_local() if isinstance(tensor, DTensor) else tensor).untyped_storage())

    def sized(self, storage: torch.UntypedStorage) -> None:
        """Count a storage by the size that it has now: sharding empties and fills those of whole weights."""
        key, size = storage._cdata, storage.nbytes()
        if key not in self.sizes:
            self.sizes[key] = 0
            weakref.finalize(storage, self._gone, key)
        self.held += size - self.sizes[key]
        self.sizes[key] = size
        if self.held > self.most:
            self.most, self.when = self.held, self.part

    def _gone(self, key: int) -> None:
        self.held -= self.sizes.pop(key)


@contextmanager
def counting(held: Held) -> Iterator[None]:
    """Within: `held` counts, changes of a storage's size included, which are no operator's."""
    resize = torch.UntypedStorage.resize_

    def resized(storage: torch.UntypedStorage, size: int) -> Any:
        out = resize(storage, size)
        held.sized(storage)
        return out

    with patch.object(torch.UntypedStorage, "resize_", resized), held:
        yield


@contextmanager
def sizes_of_a_gpu() -> Iterator[None]:
    """Within: what is cut into blocks for a CPU's cache has the sizes that a GPU gets."""
    with ExitStack() as stack:
        for sizes in (chunked_head.BLOCK, log_softmax.BLOCK, micro_batch.WEIGHED_TOKENS):
            stack.enter_context(patch.dict(sizes, cpu=sizes["cuda"]))
        yield


def peak(config: Any, objective: Objective, settings: TrainingSettings, rows: Rows, ranks: int) -> Peak:
    """Of a run of the model that transformers makes of `config`, in fp32 as it is loaded, on each of `ranks` processes: a step
    with moments there, and gradients of a micro-batch before it. Compiled layers are counted as plain ones."""
    settings = settings.model_copy(update={"compile_layers": False})
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with _processes(ranks) as world:
        with torch.device("meta"):
            model = _made(config, settings)
        with mode:
            model = model.to_empty(device="cpu")
            model.tie_weights()  # which that took apart
        model = world.spread(model, settings.precision)
        with packing(model):
            pass  # tries the model's own functions, at numbers, and remembers what it found
        with ExitStack() as stack:
            stack.enter_context(mode)
            # its look at the model's first logits is one at numbers, and there are none
            stack.enter_context(patch.object(head, "_tail", lambda model, products, logits: head.tails(model)[0]))
            stack.enter_context(sizes_of_a_gpu())
            held = Held()
            for weight in model.parameters():
                held.see(weight)
            stack.enter_context(counting(held))
            return _steps(model, step.Step(objective, settings, 0), rows, world, held)


def _made(config: Any, settings: TrainingSettings) -> Any:
    from transformers import AutoModelForCausalLM

    made = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    return adapted(made, settings.lora, 0) if settings.lora else made


def _steps(model: Any, of_run: step.Step, rows: Rows, world: World, held: Held) -> Peak:
    """A step that makes the moments, and one of two micro-batches."""
    optimizer = loop.make_optimizer(model, of_run.settings)
    for batches in (1, 2):
        optimizer.zero_grad(set_to_none=True)
        for _ in range(batches):
            _micro_batch(model, of_run, rows, held)
        held.part = "sum of gradients"
        world.sum_gradients(model)
        held.part = "optimizer"
        torch.nn.utils.clip_grad_norm_(model.parameters(), of_run.settings.optimizer.clip_norm)
        optimizer.step()
    most = held.most, held.when
    optimizer.zero_grad(set_to_none=True)
    settled(model)
    return Peak(*most, held.held)


def _micro_batch(model: Any, of_run: step.Step, rows: Rows, held: Held) -> None:
    """Forwards and backward of as many prompts as a forward takes."""
    draws = NEGATIVES[of_run.objective.negatives].draws(of_run.settings.negatives.count)
    drawn = rows.candidates - 1 if draws is None else min(draws, rows.candidates - 1)
    most = of_run.settings.micro_tokens // (rows.prompt + rows.completion * (1 + drawn)) + 1
    micro = next(micro_batches([rows.example(n) for n in range(most)], of_run.settings.micro_tokens, draws))
    held.part = "forward"
    with forwards(model, of_run.settings):
        forward = forward_in(model, micro, of_run.slot(model, micro) if in_shards(model) else None)
        if NEGATIVES[of_run.objective.negatives].needs_policy and rows.candidates - 1 > drawn:
            forward.pooled(1)
        chosen, rejected = forward.trained([list(range(1, 1 + drawn)) for _ in micro])
    held.part = "backward"
    forward.backward(chosen.sum() + rejected.sum())


@contextmanager
def _processes(ranks: int) -> Iterator[World]:
    """The first of so many processes, whose others do nothing and give what was asked."""
    if ranks == 1:
        yield World()
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        yield World(0, ranks)
    finally:
        dist.destroy_process_group()
