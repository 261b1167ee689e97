"""The training loop: prepare (train.run, train.fit), steps, what is left (train.result)."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from prefdata.draws import hex_id
from prefdata.errors import EngineError
from prefdata.models.tokens import Encoder
from prefdata.progress import Progress
from train import checkpoint, shard_checkpoint
from train.balance import Balance
from train.batch_statistics import RunningMean
from train.examples import Example, Order
from train.first_batch import check
from train.left_out import LeftOut
from train.lockstep import even, forward_in, idle, slots
from train.metrics import Metrics, merged
from train.objectives.registry import Objective
from train.online_weights import OnlineWeights
from train.plan import Plan
from train.precision import compiled, forwards, warn_of_slow_bf16
from train.processes import SINGLE, World, plain, whole
from train.result import Trained
from train.settings import TrainingSettings, what_identifies
from train.sharding import in_shards, settled
from train.step import Step
from train.stopping import Stopping
from train.version import VERSION

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass(frozen=True)
class Prepared:
    """All that the steps of a run need. `held`: what it is evaluated on while it trains; `reference`: the primary one as a
    model, for losses that score what no table holds; `scratch`: where checkpoints go; `before`: the folder of the optimizer
    that it continues with; `whole`: steps of all parts, where the run is a part of a longer one."""

    name: str
    objective: Objective
    settings: TrainingSettings
    seed: int
    model: Any
    encoder: Encoder
    data: Sequence[Example]
    held: Sequence[Example]
    order: Order
    reference: Any
    limit: int
    identity: checkpoint.Identity
    scratch: Path
    before: Path | None = None
    whole: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def facts_of(
    settings: TrainingSettings, seed: int, data: str, start: str, left: LeftOut, labels: Balance | None = None
) -> dict[str, Any]:
    """What the receipt and the card tell of a run before its first step."""
    known = {"settings": settings.model_dump(mode="json"), "start": start, "seed": seed, "data": data, "left_out": str(left)}
    return known | ({"labels": str(labels)} if labels else {})


def identity_of(
    name: str, settings: TrainingSettings, seed: int, data: str, start: str, references: Sequence[str], held: Sequence[Example]
) -> checkpoint.Identity:
    """What a checkpoint of the run is of. `data`, `start`: hashes of the rows and of what the model starts from."""
    compared = json.dumps([references, [_facts_of(e) for e in held]])
    base = hex_id("run", VERSION, name, json.dumps({**what_identifies(settings), "seed": None}), data, start)
    return checkpoint.Identity(hex_id(base, json.dumps(what_identifies(settings)), seed, compared), base, seed)


def _facts_of(example: Example) -> list[Any]:
    """What a held-out example is, as an identity has it."""
    label = [] if example.desirable is None else [example.desirable]
    return [example.id, example.completions, example.logps, *label]


def steps(run: Prepared, world: World = SINGLE) -> Trained | None:
    """Take every step of a run, from its newest checkpoint on; what it leaves, on the first rank.

    SIGTERM ends it after the step at hand with a checkpoint (SystemExit 143): the same call goes on, exactly.
    """
    settings = run.settings
    model = world.spread(run.model, settings.precision)
    narrow = settings.precision == "bfloat16" and in_shards(model)  # then layers are gathered in bf16
    with forwards(model, settings) if narrow else compiled(model) if settings.compile_layers else nullcontext():
        check(model, run.data, settings.batch_prompts, settings.micro_tokens, world, narrow)
    if settings.precision == "bfloat16":
        warn_of_slow_bf16(model)
    optimizer = make_optimizer(model, settings)
    tokenizer = run.encoder.identity
    before = checkpoint.continued(run.before, optimizer, tokenizer)
    loads = shard_checkpoint.load if in_shards(model) else checkpoint.load
    state = checkpoint.resume(run.scratch, run.identity, model, optimizer, world, loads) or before
    saver = shard_checkpoint.Saver(run.scratch, world) if in_shards(model) else checkpoint.Saver(run.scratch, world)
    plan = Plan.of(settings, run.order, before, run.whole)
    reference = None if run.reference is None else world.spread(run.reference, settings.precision)
    step_of = Step(run.objective, settings, run.seed, reference, run.limit)
    weights = OnlineWeights.of(run.data, settings, run.seed)
    running, best = RunningMean(*state.get("running", ())), state.get("best")
    saved = time.monotonic()
    with Progress(f"train {run.name}", plan.last - plan.first, shown=world.first) as progress, Stopping() as stopping:
        progress.advance(state["step"] - plan.first)
        for step in range(state["step"], plan.last):
            started = time.monotonic()
            own = weights.at(step_of, step, plan.earlier(step))
            row = one_step(model, optimizer, own, run.data, plan, step, running, world) | weights.shown(own)
            took = time.monotonic() - started
            if run.held and ((step + 1) % settings.evaluation.every == 0 or step + 1 == plan.last):  # type: ignore[operator]
                row |= evaluate(model, weights.evaluated(step_of), run.held, row.get("shift", 0.0), world)
                if best is None or row["eval_loss"] < best["eval_loss"]:
                    best = {"step": step + 1, "eval_loss": row["eval_loss"]}
                    checkpoint.save_best(run.scratch, settled(model), world)
            state["rows"].append(row)
            saver.poll()
            progress.advance(1, _note(row, took))
            requested = world.any(stopping.requested)
            due = world.any(time.monotonic() - saved >= settings.checkpoint_s) or requested
            if due and step + 1 < plan.last:
                kept = {"rows": state["rows"], "running": [running.total, running.count], "best": best, **run.identity.state()}
                saver.save(step + 1, settled(model), optimizer, kept)
                saved = time.monotonic()
                if requested:
                    saver.finish()
                    stopping.leave(f"train {run.name}: stopped after step {step + 1} of {plan.last}; the same command goes on")
    saver.finish()
    moments = checkpoint.optimizer_tensors(optimizer, world) if settings.keep_optimizer else {}
    final = plain(settled(model), world)
    if final is None:
        return None
    kept_state = {"step": plan.last, "running": [running.total, running.count], "tokenizer": tokenizer, **plan.state()}
    facts = {**run.facts, "negatives": run.objective.negatives, "best": best}
    return Trained(final, run.encoder, moments, run.scratch, state["rows"], facts, kept_state)


def one_step(
    model: Any,
    optimizer: torch.optim.Optimizer,
    step_of: Step,
    data: Sequence[Example],
    plan: Plan,
    step: int,
    running: RunningMean,
    world: World = SINGLE,
) -> dict[str, Any]:
    """One optimizer step over as many micro-batches as the batch needs; its row of metrics, of all ranks together."""
    batch, metrics = [data[i] for i in plan.members(step)], Metrics()
    for group in optimizer.param_groups:
        group["lr"] = plan.learning_rate(step)
    optimizer.zero_grad(set_to_none=True)
    try:
        shift = _backward(model, step_of, batch, plan.epoch(step), step, running, metrics, world)
        world.sum_gradients(model)
    except RuntimeError as error:
        raise _explained(error, step, plan.settings.micro_tokens) from error
    norm = float(whole(torch.nn.utils.clip_grad_norm_(model.parameters(), plan.settings.optimizer.clip_norm)))
    if not math.isfinite(norm):
        raise EngineError(
            f"the gradient's norm is {norm}", f"step {step}", "the last checkpoint is kept; lower the learning rate"
        )
    optimizer.step()
    return {
        "step": step + 1,
        "epoch": plan.epoch(step),
        "lr": optimizer.param_groups[0]["lr"],
        "grad_norm": norm,
        "tokens": sum(e.tokens() for e in batch),
        **({} if shift is None else {"shift": shift}),
    } | merged(world.gathered(metrics)).shown()


def _backward(
    model: Any,
    step_of: Step,
    batch: list[Example],
    epoch: int,
    step: int,
    running: RunningMean,
    metrics: Metrics,
    world: World,
) -> float | None:
    """Add the gradient of this rank's part of the batch to the model's; the batch's shift, where its loss has one."""
    counts = _counts(batch)
    with forwards(model, step_of.settings):
        shift = step_of.shift(model, batch, epoch, running, world)
    cut = list(step_of.micro_batches(world.share(batch)))
    for micro, slot in zip_longest(cut, slots(model, world, cut, partial(step_of.slot, model))):
        if micro is None:
            assert slot is not None  # only ranks that agree have more slots than rows
            idle(model, slot, forwards(model, step_of.settings))
            continue
        with forwards(model, step_of.settings):
            forward = forward_in(model, micro, slot)
            terms = step_of.values(model, micro, epoch, metrics, shift or 0.0, forward)
        loss = torch.stack([values.sum() / counts[per] for per, values in terms.items()]).sum()
        if not math.isfinite(float(loss.detach())):
            raise EngineError(f"the loss is {float(loss.detach())}", f"step {step}", f"rows {[e.id for e in micro]}")
        forward.backward(loss * world.size)  # a mean over ranks
        metrics.add("loss", float(loss.detach()), 0)
    metrics.add("loss", 0.0, float(world.first))
    return shift


def _counts(batch: Sequence[Example]) -> dict[str, int]:
    """What losses are divided by: the whole optimizer batch's counts, so that cutting it changes nothing."""
    return {"prompt": len(batch), "token": sum(len(e.completions[0]) for e in batch)}


def _explained(error: RuntimeError, step: int, micro_tokens: int) -> Exception:
    """Running out of memory as an error that says what to change; anything else as it is."""
    if not isinstance(error, torch.OutOfMemoryError) and not any(m in str(error) for m in OUT_OF_MEMORY):
        return error
    return EngineError(
        f"out of memory with forwards of {micro_tokens} tokens",
        f"step {step}",
        "lower micro_tokens, or set checkpoint_activations: true; the last checkpoint is kept",
    )


@torch.no_grad()
def evaluate(
    model: Any,
    step_of: Step,
    held: Sequence[Example],
    shift: float,
    world: World = SINGLE,
) -> dict[str, Any]:
    """The loss, and accuracy and margin where the metrics have them, on held-out rows, eval_<name>. Their draws belong to
    the set: runs of other seeds are evaluated on the same."""
    metrics, counts, total = Metrics(), _counts(held), 0.0
    cut = list(step_of.micro_batches(world.share(held)))
    with forwards(model, step_of.settings), even(model, world, sum(step_of.slot(model, micro).calls for micro in cut)):
        for micro in cut:
            terms = step_of.values(model, micro, None, metrics, shift)
            total += sum(float(values.sum()) / counts[per] for per, values in terms.items())
    shown = merged(world.gathered(metrics)).shown()
    beside = {f"eval_{k}": shown[k] for k in ("accuracy", "margin", "chosen_logp") if k in shown}
    return {"eval_loss": sum(world.gathered(total)), **beside}


def make_optimizer(model: Any, settings: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW over what trains."""
    knobs = settings.optimizer
    return torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=knobs.learning_rate,
        betas=knobs.betas,
        weight_decay=knobs.weight_decay,
        fused=True,
    )


def _note(row: dict[str, Any], seconds: float) -> str:
    shown = [(name, row.get(name)) for name in ("loss", "margin", "accuracy", "ess", "eval_loss")]
    said = [f"{k} {v:.3f}" for k, v in shown if v is not None]
    return " ".join([*said, f"{row['tokens'] / max(seconds, 1e-9):,.0f} tokens/s", _memory()])


def _memory() -> str:
    """The most memory held so far: on the GPU, else by the process."""
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    import resource

    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"
