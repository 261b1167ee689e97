"""Four small tokenizers, with three sets of special tokens and chat templates.

`letters` has one token for each character of the world, `pairs` also merges pairs of digits and letters; beside them they have
only the marks that every row holds. A model with tokens that its world never holds gives them some of its mass, and preference
training moves more of it there. `small` and `large` have all 256 bytes, for other texts.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from prefdata.sources.toy.tasks import ALPHABET, LETTERS
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
WORLD_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}<answer>{{ m['content'] }}<end>"
    "{% elif m['role'] == 'user' %}{{ m['content'] }}"
    "{% else %}{{ raise_exception('the world has user and assistant only') }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<answer>{% endif %}"
)
_DIGITS = "0123456789"


def write(folder: Path) -> None:
    """Write each as transformers reads it."""
    small = ["<pad>", "<bos>", "<eos>", "<user>", "<assistant>", "<system>"]
    pairs = [(a, b) for a in _DIGITS for b in _DIGITS] + [(c, c) for c in LETTERS]
    pairs += [(LETTERS[i], LETTERS[(i + 1) % 10]) for i in range(10)]
    large = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]
    _save(folder / "small", _bytes([]), small, SMALL_TEMPLATE, pad="<pad>", bos="<bos>", eos="<eos>")
    _save(folder / "large", _bytes(pairs), large, LARGE_TEMPLATE, pad="<|pad|>", bos=None, eos="<|end|>")
    for name, merges in (("letters", []), ("pairs", pairs)):
        _save(folder / name, _characters(merges), ["<answer>", "<end>"], WORLD_TEMPLATE, pad="<end>", bos=None, eos="<end>")


def _bytes(merges: list[tuple[str, str]]) -> Tokenizer:
    """One token a byte: every text survives."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab=_vocabulary(alphabet, merges), merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _characters(merges: list[tuple[str, str]]) -> Tokenizer:
    """One token a character of the world; any other is left out, so that the text does not come back as it was."""
    tokenizer = Tokenizer(models.BPE(vocab=_vocabulary([*ALPHABET], merges), merges=merges))
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def _vocabulary(alphabet: list[str], merges: list[tuple[str, str]]) -> dict[str, int]:
    return {token: i for i, token in enumerate([*alphabet, *[a + b for a, b in merges]])}


def _save(folder: Path, tokenizer: Tokenizer, special: list[str], template: str, pad: str, bos: str | None, eos: str) -> None:
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
