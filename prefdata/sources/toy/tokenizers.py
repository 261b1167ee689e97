"""Two small byte-level tokenizers with different vocabularies, special tokens and chat templates.

Byte-level, so that every text survives: `small` has one token a byte; `large` also merges pairs of digits and letters.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from prefdata.tables import atomic

SMALL_TEMPLATE = (
    "<bos>{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}<assistant>{{ m['content'] }}<eos>"
    "{% elif m['role'] == 'system' %}<system>{{ m['content'] }}"
    "{% else %}<user>{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
LARGE_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_DIGITS, _LETTERS = "0123456789", "abcdefghij"


def write(folder: Path) -> None:
    """Write `small` and `large` as transformers reads them."""
    small = ["<pad>", "<bos>", "<eos>", "<user>", "<assistant>", "<system>"]
    _save(folder / "small", [], small, SMALL_TEMPLATE, pad="<pad>", bos="<bos>", eos="<eos>")
    pairs = [(a, b) for a in _DIGITS for b in _DIGITS] + [(c, c) for c in _LETTERS]
    pairs += [(_LETTERS[i], _LETTERS[(i + 1) % 10]) for i in range(10)]
    large = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]
    _save(folder / "large", pairs, large, LARGE_TEMPLATE, pad="<|pad|>", bos=None, eos="<|end|>")


def _save(
    folder: Path, merges: list[tuple[str, str]], special: list[str], template: str, pad: str, bos: str | None, eos: str
) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*alphabet, *[a + b for a, b in merges]])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": pad,
        "eos_token": eos,
        "additional_special_tokens": [t for t in special if t not in (pad, bos, eos)],
        "model_max_length": 1024,
        "clean_up_tokenization_spaces": False,
        "chat_template": template,
    }
    if bos is not None:
        config["bos_token"] = bos
    atomic.atomic_text(folder / "tokenizer_config.json", json.dumps(config, indent=1, sort_keys=True))
    atomic.atomic_text(folder / "tokenizer.json", tokenizer.to_str(pretty=False))
