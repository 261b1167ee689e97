"""A byte-level BPE of a run's own texts, for a policy that starts from nothing: every text survives it unchanged."""

from collections.abc import Iterator
from typing import Any

import polars as pl

from prefdata.errors import DataError

CONTROL = ("<pad>", "<bos>", "<eos>", "<system>", "<user>", "<assistant>", "<tool>")
TEMPLATE = (
    "<bos>{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}<eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def texts(frame: pl.DataFrame) -> Iterator[str]:
    """The prompts and chosen answers of a set, in its order."""
    for prompt, candidates in frame.select("prompt", "candidates").iter_rows():
        yield from (m["content"] for m in prompt)
        yield candidates[0]["response"]


def train(listed: Iterator[str], vocab_size: int, context: int) -> Any:
    """A fast tokenizer of at most `vocab_size` tokens, control tokens and all bytes included.

    Raises DataError where the texts have too few pairs to merge.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in CONTROL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(listed, trainer)
    if tokenizer.get_vocab_size() < vocab_size:
        raise DataError(
            f"the texts give {tokenizer.get_vocab_size()} tokens, fewer than {vocab_size}", "init.vocab_size", "ask for fewer"
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=CONTROL[0],
        bos_token=CONTROL[1],
        eos_token=CONTROL[2],
        additional_special_tokens=list(CONTROL[3:]),
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        chat_template=TEMPLATE,
    )
