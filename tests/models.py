"""Tiny random models of five families for tests."""

from typing import Any

import torch
import transformers

VOCABULARY = 60
_SHARED = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 1024,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}


def config(family: str, **keys: Any) -> Any:
    shared = {**_SHARED, **keys}
    if family == "gpt2":
        names = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 1024, "vocab_size": VOCABULARY}
        off = dict.fromkeys(("attn_pdrop", "resid_pdrop", "embd_pdrop"), 0.0)
        return transformers.GPT2Config(**names, **off, bos_token_id=1, eos_token_id=2, initializer_range=0.3)
    if family == "gemma2":
        return transformers.Gemma2Config(**{"head_dim": 16, "sliding_window": 4096, **shared})
    kind = {"llama": transformers.LlamaConfig, "qwen2": transformers.Qwen2Config, "mistral": transformers.MistralConfig}
    return kind[family](**({"sliding_window": None, **shared} if family == "mistral" else shared))


def model(family: str = "llama", dtype: torch.dtype = torch.float64, **keys: Any) -> Any:
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config(family, **keys)).to(dtype).eval()


FAMILIES = ("llama", "qwen2", "mistral", "gemma2", "gpt2")
