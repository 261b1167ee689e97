"""Evaluation sets that `decontaminate` knows by name: where they lie on the Hub."""

from dataclasses import dataclass


@dataclass(frozen=True)
class KnownSet:
    """An evaluation set on the Hub: the file that holds it and the field of its text."""

    dataset: str
    file: str
    field: str


KNOWN = {
    "gsm8k": KnownSet("openai/gsm8k", "main/test-00000-of-00001.parquet", "question"),
    "truthful_qa": KnownSet("truthfulqa/truthful_qa", "generation/validation-00000-of-00001.parquet", "question"),
    "alpaca_eval": KnownSet("tatsu-lab/alpaca_eval", "alpaca_eval.json", "instruction"),
    "arena_hard": KnownSet("lmarena-ai/arena-hard-auto", "data/arena-hard-v2.0/question.jsonl", "prompt"),
}
