"""Tiny models with tokenizers of every kind that the corpus needs, saved as transformers saves them."""

import functools
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from models import model
from tokenizers import AddedToken, Tokenizer, normalizers

from prefdata.sources.toy import tokenizers as toy

CONTROL = ("<|eot_id|>", "</s>", "[INST]", "<|im_start|>")
"""Control tokens of known models; beside <eos> and the rest of the toy tokenizer's."""
LOSSY = "½"
"""What the tokenizer writes as 1/2: it cannot be decoded back."""


def save(folder: Path, kind: str = "small", template: str | None = None, drop: tuple[str, ...] = (), **keys: Any) -> Path:
    """A model folder. `template` replaces the chat template; `drop` takes keys out of the tokenizer's config."""
    toys = folder.with_name(f"{folder.name}.toys")
    toy.write(toys)
    config = json.loads((toys / kind / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(toys / kind / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in CONTROL])
    if kind == "small":
        tokenizer.normalizer = normalizers.Replace(LOSSY, "1/2")
    config |= {} if template is None else {"chat_template": template}
    _weights(tokenizer.get_vocab_size(), **keys).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    kept = {k: v for k, v in config.items() if k not in drop}
    (folder / "tokenizer_config.json").write_text(json.dumps(kept), encoding="utf-8")
    return folder


@functools.cache
def _weights(vocabulary: int, **keys: Any) -> Any:
    return model(dtype=torch.float32, vocab_size=vocabulary, **keys)


def oracle(folder: Path, prompt: list[int], completion: list[int], dtype: torch.dtype = torch.float64) -> float:
    """The log-prob of one row alone: no cache, no padding, plain log_softmax."""
    lm = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    with torch.no_grad():
        logits = lm(torch.tensor([prompt + completion]), use_cache=False).logits[0].double()
    table = torch.log_softmax(logits, -1)
    return sum(float(table[len(prompt) - 1 + i, token]) for i, token in enumerate(completion))
