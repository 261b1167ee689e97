"""Loading of models: safetensors only, never remote code; the revision of a model made here is its content hash."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefdata.errors import ConfigError
from prefdata.models.identity import RECEIPT


def load_config(path: str, revision: str | None = None) -> Any:
    """The model's config."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no model ({str(error).splitlines()[0]})", path, "correct the model's path or id") from error


Shard = Callable[[Any], Any]
"""Puts a model's weights, which have no memory yet, in shards over all processes, in place."""


def load_model(path: str, revision: str | None = None, dtype: str = "float32", shard: Shard | None = None) -> Any:
    """A causal LM in evaluation mode, on the GPU if there is one; with `shard`, which every process then gives, only this one's
    part of each weight is read. Raises ConfigError where it cannot be loaded."""
    from transformers import AutoModelForCausalLM

    return _loaded(AutoModelForCausalLM, path, revision, dtype, shard)


def load_classifier(path: str, revision: str | None = None, dtype: str = "float32") -> Any:
    """A sequence classifier, such as a reward model, likewise."""
    from transformers import AutoModelForSequenceClassification

    return _loaded(AutoModelForSequenceClassification, path, revision, dtype)


def _loaded(kind: Any, path: str, revision: str | None, dtype: str, shard: Shard | None = None) -> Any:
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()  # a bar for a second of work, in every job's log
    capped = getattr(load_config(path, revision).get_text_config(), "attn_logit_softcapping", None)
    try:
        with _in_shards(shard) as options:
            model, found = kind.from_pretrained(
                path,
                revision=revision,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                trust_remote_code=False,
                # fused attention drops Gemma 2's soft cap without a word; transformers' own eager one applies it
                attn_implementation="eager" if capped else None,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                **options,
            )
    except (OSError, ValueError) as error:
        made_here = (Path(path) / RECEIPT).exists()
        remedy = "remove the folder, and train it again" if made_here else "correct the model's path or id"
        raise ConfigError(f"no model ({str(error).splitlines()[0]})", path, remedy) from error
    _require_weights(found, path)
    if shard is not None:
        del model.config.distributed_config  # of how it was loaded, not of what it is
    return (model.to(device()) if shard is None else model).eval()


@contextmanager
def _in_shards(shard: Shard | None) -> Iterator[dict[str, Any]]:
    """Within: transformers reads of each weight what a rank has of it, where `shard` put it in shards; gives what to ask for
    that by. Its own rule needs a plan that not every model has, and gathers the head by itself."""
    if shard is None:
        yield {}
        return
    import torch.distributed as dist
    from transformers.distributed import DistributedConfig, mixin

    theirs = mixin.apply_fully_sharded_data_parallelism
    mixin.apply_fully_sharded_data_parallelism = lambda model, mesh: shard(model)
    try:
        yield {"distributed_config": DistributedConfig(fsdp_size=dist.get_world_size())}
    finally:
        mixin.apply_fully_sharded_data_parallelism = theirs


def _require_weights(found: dict[str, Any], path: str) -> None:
    """Every weight is the file's own: transformers gives random ones to those that lack. Raises ConfigError."""
    missing = sorted(found["missing_keys"])
    other = sorted(key if isinstance(key, str) else key[0] for key in found["mismatched_keys"])
    if missing or other:
        names, what = (missing, "lacks") if missing else (other, "has in another shape")
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise ConfigError(
            f"its config does not fit its weights: the file {what} {names[0]}{more}",
            path,
            "give the config and the weights of one model; of a model made here, train it again",
        )


def device() -> str:
    """One GPU if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def release() -> None:
    """Give back a device's memory of models that nothing refers to any more."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def context_of(path: str, revision: str | None = None) -> int:
    """How many tokens a row may have under this model."""
    return context(load_config(path, revision))


def context(config: Any) -> int:
    """How many tokens a row may have by the model's config; 2^20 where it does not say."""
    text = config.get_text_config()
    return int(getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None) or 2**20)
