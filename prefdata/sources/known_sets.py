"""Evaluation sets that `decontaminate` knows by name: where they lie on the Hub, at which commit."""

from dataclasses import dataclass


@dataclass(frozen=True)
class KnownSet:
    """The file that holds an evaluation set, the field of its text, and the commit that was current when it was listed."""

    dataset: str
    file: str
    field: str
    revision: str


KNOWN = {
    "gsm8k": KnownSet(
        "openai/gsm8k", "main/test-00000-of-00001.parquet", "question", "740312add88f781978c0658806c59bc2815b9866"
    ),
    "truthful_qa": KnownSet(
        "truthfulqa/truthful_qa",
        "generation/validation-00000-of-00001.parquet",
        "question",
        "741b8276f2d1982aa3d5b832d3ee81ed3b896490",
    ),
    "alpaca_eval": KnownSet(
        "tatsu-lab/alpaca_eval", "alpaca_eval.json", "instruction", "2edc6fad8be6b14ea7230aabfd08188da6b8b814"
    ),
    "arena_hard": KnownSet(
        "lmarena-ai/arena-hard-auto",
        "data/arena-hard-v2.0/question.jsonl",
        "prompt",
        "15f3746e21432264ce9b453999bde4f3c946d2e6",
    ),
}
