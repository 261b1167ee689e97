"""The models that benchmarks run: random Llamas, and a tokenizer with one token a word, so that texts have any length."""

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 4096


def small() -> LlamaForCausalLM:
    """9 million parameters, fp32; the same weights at every call."""
    return llama(
        vocab_size=VOCABULARY,
        hidden_size=320,
        intermediate_size=864,
        num_hidden_layers=6,
        num_attention_heads=5,
        num_key_value_heads=5,
        head_dim=64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )


def llama(**shape: Any) -> LlamaForCausalLM:
    """Of any shape."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**shape))


def write(model: LlamaForCausalLM, folder: str) -> None:
    """The model and a tokenizer: w<i> is token i; w1 ends a text, w2 pads."""
    model.save_pretrained(folder)
    words = {f"w{i}": i for i in range(model.config.vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0", eos_token="w1", pad_token="w2").save_pretrained(folder)
