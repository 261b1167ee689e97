"""The model to train: loaded, made afresh, or with low-rank adapters; and the reference that some losses need as a model."""

from collections.abc import Sequence
from typing import Any

import polars as pl
import torch

from prefdata.draws import hash64, hex_id
from prefdata.errors import ConfigError
from prefdata.kinds import End, Template
from prefdata.models.loading import device, load_model
from prefdata.models.tokens import Encoder, load_encoder, require_rows
from prefdata.recipe.results import Results
from prefdata.tables import content
from train import bpe
from train.examples import Example, Order
from train.objectives.losses import LOSSES
from train.objectives.registry import Objective
from train.processes import SINGLE, World
from train.resolve import of_set
from train.settings import InitSettings, LoraSettings, TrainingSettings


def policy(
    run: Results, settings: TrainingSettings, seed: int, frame: pl.DataFrame, world: World = SINGLE
) -> tuple[Any, Encoder, str]:
    """The model to train, its encoder and what it started from. Every rank calls it; each reads its part of the weights, or all
    of them where only adapters train or the model is made afresh."""
    template, end = settings.template or "chat", settings.end or "eos"
    if settings.init is not None:
        with world.first_then_all():  # the first one hashes a local tokenizer and keeps the hash
            encoder, tokenizer = _fresh_encoder(run, settings.init, template, end, frame)
        return fresh(settings.init, encoder, seed), encoder, hex_id("init", settings.init.model_dump_json(), tokenizer)
    if settings.model is None:
        raise ConfigError("no model to start from", "train.runs", "give model, init, or score.references")
    path = run.model_path(settings.model)
    encoder = load_encoder(path, settings.revision, template, end)
    with world.first_then_all():  # the first one hashes a local model and keeps the hash
        identity = run.revision(settings.model, settings.revision)
    model = load_model(path, settings.revision, shard=None if settings.lora else world.shard(settings.precision))
    require_rows(encoder, model)
    return (adapted(model, settings.lora, seed) if settings.lora else model), encoder, identity


def _fresh_encoder(run: Results, init: InitSettings, template: Template, end: End, frame: pl.DataFrame) -> tuple[Encoder, str]:
    """The tokenizer of a fresh model and what identifies it; one trained here is a function of the run's set."""
    if init.tokenizer is None:
        made = bpe.train(bpe.texts(frame), init.vocab_size or 0, init.context)
        return Encoder(made, template, end, f"a BPE of {init.vocab_size}"), content.content_hash(frame)
    path = run.model_path(init.tokenizer)
    return load_encoder(path, init.revision, template, end), run.revision(init.tokenizer, init.revision)


def fresh(init: InitSettings, encoder: Encoder, seed: int) -> Any:
    """A Llama with random weights, a function of the seed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = encoder.tokenizer
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


def adapted(model: Any, lora: LoraSettings, seed: int) -> Any:
    """The model with low-rank adapters in its linear layers (LoRA, arXiv 2106.09685), the only weights that train.

    The second factor starts at zero, so the start is the model itself: its log-probs are those of the adapter off.
    """
    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            "lora needs peft, which is not installed", "train.runs: lora", 'pip install "prefdata[lora]"'
        ) from error
    _require_untied(model, lora.modules or [])
    torch.manual_seed(hash64(seed, "lora") >> 1)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,  # both forwards of a step must see the same model
        target_modules=lora.modules or "all-linear",
    )
    try:
        wrapped = peft.get_peft_model(model, config)
    except ValueError as error:
        raise ConfigError(str(error).splitlines()[0], "train.runs: lora.modules", "name linear layers of the model") from error
    return wrapped.get_base_model().eval()


def _require_untied(model: Any, modules: Sequence[str]) -> None:
    """An adapter of a head that shares its weights with the embeddings could not be merged into the head alone."""
    shared = model.get_input_embeddings().weight
    tied = [name for name, m in model.named_modules() if getattr(m, "weight", None) is shared]
    if len(tied) > 1 and (named := [n for n in tied if n.rpartition(".")[2] in modules]):
        raise ConfigError(f"{named[0]} shares its weights with the embeddings", "train.runs: lora.modules", "leave it out")


def merged(model: Any) -> Any:
    """A copy of an adapted model with its adapters added into the weights: a plain model of transformers."""
    import copy

    from peft.tuners.lora import LoraLayer

    plain = copy.deepcopy(model)
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge()
            parent, _, own = name.rpartition(".")
            setattr(plain.get_submodule(parent), own, layer.get_base_layer())
    if hasattr(plain, "peft_config"):
        del plain.peft_config
    plain._hf_peft_config_loaded = False
    return plain


def reference(run: Results, settings: TrainingSettings, objective: Objective, world: World = SINGLE) -> Any:
    """The primary reference as a model, a copy of what the run started from, for losses that score what no table holds; else
    None. In shards where there are ranks."""
    if LOSSES[objective.loss].needs != "mismatched":
        return None
    primary = of_set(run.settings, settings.set).score.references[0]
    return load_model(run.model_path(primary.model), primary.revision, shard=world.shard(settings.precision))


def order_of(data: Sequence[Example], settings: TrainingSettings, objective: Objective, seed: int) -> Order:
    """The order of a run's rows. Raises ConfigError where a loss compares with other prompts' answers and all rows have one."""
    compares = LOSSES[objective.loss].needs == "mismatched"
    if compares and len({e.prompt_id for e in data}) == 1:
        raise ConfigError(
            "one row to train on" if len(data) == 1 else "rows of one prompt to train on",
            "the run's set",
            "this objective compares with answers of other prompts: give more",
        )
    return Order(tuple(e.id for e in data), settings.batch_prompts, seed, 2 if compares else 1)
