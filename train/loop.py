"""The training loop, read top to bottom."""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import torch

from prefdata import files, logprob
from prefdata.draws import hash64, hex_id
from prefdata.errors import ConfigError, DataError, EngineError
from prefdata.models import RECEIPT, content_revision, context, device, load_model
from prefdata.parts import Part
from prefdata.progress import Progress
from prefdata.run import Run
from prefdata.settings import Settings
from prefdata.tokens import Encoder, End, Template, load_encoder
from train import bpe, checkpoint, curves
from train.batches import Example, Order, examples, micro_batches
from train.batchwise import RunningMean
from train.losses import LOSSES
from train.metrics import Metrics
from train.negatives import NEGATIVES
from train.objectives import OBJECTIVES, Objective
from train.settings import InitSettings, RunSettings, resolve
from train.step import Step
from train.validation import alpha
from train.version import VERSION


def train(recipe: Settings, name: str) -> Path:
    """Train one run of a recipe; returns the folder of the model. Resumes by itself, exactly."""
    run, settings = Run(recipe), resolve(recipe, name)
    objective = OBJECTIVES[name.partition("/")[0]]
    torch.set_num_threads(recipe.threads)
    frame, data_hash = read_set(run, settings)
    settings = _with_alpha(run, settings, recipe)
    model, encoder, start = policy(run, settings, recipe.seed, frame)
    limit = context(model.config)
    data = _examples(frame, encoder, recipe, settings, objective, limit)
    order = Order(tuple(e.prompt_id for e in data), settings.batch_prompts, recipe.seed)
    steps = settings.steps or (settings.epochs or 1) * order.steps_per_epoch
    optimizer = _optimizer(model, settings)
    identity = hex_id("run", VERSION, name, json.dumps(resume_slice(settings)), data_hash, start, recipe.seed)
    scratch = run.root / "chunks" / "train" / name
    state = checkpoint.resume(scratch, identity, model, optimizer) or {"step": 0, "rows": []}
    check(model, data, settings.micro_tokens)
    step_of = Step(objective, settings, recipe.seed, _reference(run, settings, objective, order), limit)
    running = RunningMean(*state.get("running", ()))
    saved = time.monotonic()
    with Progress(f"train {name}", steps) as progress:
        progress.advance(state["step"])
        for step in range(state["step"], steps):
            row = one_step(model, optimizer, step_of, data, order, step, steps, running)
            state["rows"].append(row)
            progress.advance(1, _note(row))
            if time.monotonic() - saved >= settings.checkpoint_s and step + 1 < steps:
                kept = {"identity": identity, "rows": state["rows"], "running": [running.total, running.count]}
                checkpoint.save(scratch, step + 1, model, optimizer, kept)
                saved = time.monotonic()
    return save(run, name, model, encoder, state["rows"], {"settings": settings.model_dump(mode="json"), "start": start})


def one_step(
    model: Any,
    optimizer: torch.optim.Optimizer,
    step_of: Step,
    data: list[Example],
    order: Order,
    step: int,
    steps: int,
    running: RunningMean,
) -> dict[str, Any]:
    """One optimizer step over as many micro-batches as the batch needs; its row of metrics."""
    batch, metrics = [data[i] for i in order.members(step)], Metrics()
    # the whole optimizer batch's counts, so that cutting it into micro-batches changes nothing
    counts = {"prompt": len(batch), "token": sum(len(e.completions[0]) for e in batch)}
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, steps, step_of.settings)
    optimizer.zero_grad(set_to_none=True)
    shift = step_of.shift(model, batch, order.epoch(step), running)
    for micro in step_of.micro_batches(batch):
        terms = step_of.values(model, micro, order.epoch(step), metrics, shift or 0.0)
        loss = torch.stack([values.sum() / counts[per] for per, values in terms.items()]).sum()
        if not math.isfinite(float(loss.detach())):
            raise EngineError(f"the loss is {float(loss.detach())}", f"step {step}", f"rows {[e.prompt_id for e in micro]}")
        loss.backward()  # type: ignore[no-untyped-call]
        metrics.add("loss", float(loss.detach()), 0)
    metrics.add("loss", 0.0, 1)
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), step_of.settings.optimizer.clip_norm))
    if not math.isfinite(norm):
        raise EngineError(
            f"the gradient's norm is {norm}", f"step {step}", "the last checkpoint is kept; lower the learning rate"
        )
    optimizer.step()
    tokens = sum(e.tokens() for e in batch)
    return {
        "step": step + 1,
        "epoch": order.epoch(step),
        "lr": optimizer.param_groups[0]["lr"],
        "grad_norm": norm,
        "tokens": tokens,
        **({} if shift is None else {"shift": shift}),
    } | metrics.means()


def learning_rate(step: int, steps: int, settings: RunSettings) -> float:
    """The rate of a step (0-based): linear warm-up, then linear, cosine or constant to the end."""
    knobs = settings.optimizer
    if step < knobs.warmup_steps:
        return knobs.learning_rate * (step + 1) / knobs.warmup_steps
    done = (step - knobs.warmup_steps) / max(steps - knobs.warmup_steps, 1)
    share = {"linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done)), "constant": 1.0}[knobs.schedule]
    return knobs.learning_rate * share


def read_set(run: Run, settings: RunSettings) -> tuple[pl.DataFrame, str]:
    """The rows of the run's set and split, and the hash of their content."""
    frame = _whole_set(run, settings)
    if settings.split is not None:
        frame = frame.filter(pl.col("split") == settings.split)
    if frame.is_empty():
        raise DataError(f"no rows of split {settings.split}", f"sets/{settings.set}", "look at the report's drops")
    return frame, files.content_hash(frame)


def _whole_set(run: Run, settings: RunSettings) -> pl.DataFrame:
    paths = [run.table(Part("sets", "sets", settings.set), s) for s in run.shards]
    return pl.concat([files.read_table(p, "sets") for p in paths])


def _with_alpha(run: Run, settings: RunSettings, recipe: Settings) -> RunSettings:
    """The settings with the references' weights filled in where held-out pairs decide them."""
    asked = settings.references
    if asked.weights == "per_example":
        return settings
    names = [r.name for r in recipe.score.references]
    found = alpha(_whole_set(run, settings), names, settings.negatives.origins, recipe.seed, asked.weights)
    print(f"train: {asked.weights}: {', '.join(f'{n} {a:.3f}' for n, a in zip(names, found, strict=True))}", file=sys.stderr)
    return settings.model_copy(update={"references": asked.model_copy(update={"alpha": found})})


def policy(run: Run, settings: RunSettings, seed: int, frame: pl.DataFrame) -> tuple[Any, Encoder, str]:
    """The model to train, its encoder and what it started from."""
    template, end = settings.template or "chat", settings.end or "eos"
    if settings.init is not None:
        encoder, tokenizer = _fresh_encoder(run, settings.init, template, end, frame)
        return fresh(settings, encoder, seed), encoder, hex_id("init", settings.init.model_dump_json(), tokenizer)
    if settings.model is None:
        raise ConfigError("no model to start from", "train.runs", "give model, init, or score.references")
    path = run.model_path(settings.model)
    encoder = load_encoder(path, settings.revision, template, end)
    return load_model(path, settings.revision), encoder, run.revision(settings.model, settings.revision)


def _fresh_encoder(run: Run, init: InitSettings, template: Template, end: End, frame: pl.DataFrame) -> tuple[Encoder, str]:
    """The tokenizer of a fresh model and what identifies it; one trained here is a function of the run's set."""
    if init.tokenizer is None:
        made = bpe.train(bpe.texts(frame), init.vocab_size or 0, init.context)
        return Encoder(made, template, end, f"a BPE of {init.vocab_size}"), files.content_hash(frame)
    path = run.model_path(init.tokenizer)
    return load_encoder(path, init.revision, template, end), run.revision(init.tokenizer, init.revision)


def fresh(settings: RunSettings, encoder: Encoder, seed: int) -> Any:
    """A Llama with random weights, a function of the seed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    init, tokenizer = settings.init, encoder.tokenizer
    assert init is not None
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=init.hidden_size,
        num_hidden_layers=init.layers,
        num_attention_heads=init.heads,
        num_key_value_heads=init.heads,
        intermediate_size=init.mlp,
        max_position_embeddings=init.context,
        rope_theta=init.rope_theta,
        initializer_range=init.std,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(hash64(seed, "init") >> 1)
    return LlamaForCausalLM(config).to(device()).eval()


def _reference(run: Run, settings: RunSettings, objective: Objective, order: Order) -> Any:
    """The primary reference as a model, a second copy of the start, for losses that score what no table holds; else None."""
    if LOSSES[objective.loss].needs != "mismatched":
        return None
    if len(order.ids) % order.batch == 1:
        raise ConfigError(
            f"the last batch of an epoch has one prompt ({len(order.ids)} in batches of {order.batch})",
            "batch_prompts",
            "this objective compares with other prompts of the batch: choose another number",
        )
    assert settings.model is not None
    return load_model(run.model_path(settings.model), settings.revision)


def _examples(
    frame: pl.DataFrame, encoder: Encoder, recipe: Settings, settings: RunSettings, objective: Objective, limit: int
) -> list[Example]:
    negatives = objective.negatives
    references = [r.name for r in recipe.score.references] if settings.set == "preference" else []
    origins = NEGATIVES[negatives].origins or tuple(settings.negatives.origins)
    data = examples(frame, encoder, origins if negatives != "none" else (), references, LOSSES[objective.loss].needs)
    usable = data if negatives == "none" else [e for e in data if len(e.completions) > 1]
    if not usable:
        raise DataError(f"no row has a rejected candidate of origin {list(origins)}", f"sets/{settings.set}")
    too_long = [e.prompt_id for e in usable if len(e.prompt) + max(map(len, e.completions)) > limit]
    if too_long and negatives == "none":  # plain SFT leaves them out, and says so
        print(f"train: {len(too_long)} of {len(usable)} rows are longer than {limit} tokens and left out", file=sys.stderr)
        usable = [e for e in usable if e.prompt_id not in set(too_long)]
        if not usable:
            raise DataError(f"every row is longer than the model's {limit} tokens", f"sets/{settings.set}")
    elif too_long:
        raise ConfigError(
            f"{len(too_long)} rows are longer than {limit} tokens, {too_long[0]} first",
            "train",
            "name the policy in score.policy",
        )
    return usable


def _optimizer(model: Any, settings: RunSettings) -> torch.optim.Optimizer:
    knobs = settings.optimizer
    return torch.optim.AdamW(
        model.parameters(), lr=knobs.learning_rate, betas=knobs.betas, weight_decay=knobs.weight_decay, fused=True
    )


def resume_slice(settings: RunSettings) -> dict[str, Any]:
    """The settings that a checkpoint must agree with: all but how often one is written."""
    return settings.model_dump(mode="json", exclude={"checkpoint_s"})


def check(model: Any, data: list[Example], micro_tokens: int) -> None:
    """Compare one small batch's log-probs with plain rows; a mismatch stops the run."""
    batch = next(micro_batches(data[:4], micro_tokens))
    if not logprob.shares_prefix(model, max(len(e.prompt) + max(map(len, e.completions)) for e in batch)):
        print("train: this model's attention cannot share a prefix; plain rows are used", file=sys.stderr)
    logprob.require_equal_rows(model, [e.prompt for e in batch], [e.completions for e in batch])


def save(run: Run, name: str, model: Any, encoder: Encoder, rows: list[dict[str, Any]], facts: dict[str, Any]) -> Path:
    """Write the model as transformers loads it, the metrics and their curves; the receipt train.json last."""
    folder = Path(run.model_path(f"run:{name}"))
    (folder / RECEIPT).unlink(missing_ok=True)  # an old receipt vouches for no new weights
    files.atomic_folder(folder, lambda part: _save_model(part, model, encoder))
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    files.atomic_text(folder / "metrics.jsonl", lines)
    files.atomic_write(folder / "metrics.png", lambda path: curves.draw(rows, name, path))
    receipt = {"revision": content_revision(folder), "steps": len(rows), **facts}
    files.atomic_text(folder / RECEIPT, json.dumps(receipt, indent=1, sort_keys=True))
    return folder


def _save_model(folder: Path, model: Any, encoder: Encoder) -> None:
    model.save_pretrained(folder, max_shard_size="1TB")
    encoder.tokenizer.save_pretrained(folder)


def _note(row: dict[str, Any]) -> str:
    shown = [("loss", row.get("loss")), ("margin", row.get("margin")), ("ess", row.get("ess"))]
    return " ".join(f"{k} {v:.3f}" for k, v in shown if v is not None)
