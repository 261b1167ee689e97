"""Weights in shards over several processes (FSDP2, arXiv 2304.11277): a decoder layer's are gathered for its forward and again
for its backward, those outside of layers (embeddings, last norm, head) from a call of the model to the end of its backward.
Gradients are reduced to shards after each backward of a layer.
"""

from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from prefdata.models.forward.read_positions import decoder_layers


def shard(model: Any, precision: str = "float32") -> Any:
    """The model, its weights sharded in place over all processes. Layers compute with bf16 weights where `precision` is
    bfloat16, and their gradients are summed in fp32; what lies outside of layers stays as it is held, as in one process: a
    gradient of embeddings in bf16 would lose what rare tokens add."""
    narrow = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for layer in decoder_layers(model):
        fully_shard(layer, reshard_after_forward=True, mp_policy=narrow if precision == "bfloat16" else MixedPrecisionPolicy())
    fully_shard(model, reshard_after_forward=False)
    # an expert that one rank's tokens choose and another's do not
    model.set_reduce_scatter_unused_params(True)
    return model


def in_shards(model: Any) -> bool:
    return isinstance(model, FSDPModule)


def settled(model: Any) -> Any:
    """The model with all of its weights in shards again: a forward without backward leaves some whole."""
    if in_shards(model):
        model.reshard()
    return model
