"""What people write without prefdata: load Nectar's rows, drop rank 2, make pairs by datasets.map, write Parquet.

python benchmarks/map_peer.py ROWS.jsonl FOLDER PROCESSES
"""

import random
import sys
from typing import Any

import datasets


def pairs(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Rank 1 chosen, one of the others rejected."""
    made: dict[str, list[Any]] = {"prompt": [], "chosen": [], "rejected": []}
    draw = random.Random(0)
    for prompt, answers in zip(batch["prompt"], batch["answers"], strict=True):
        kept = sorted((a for a in answers if a["rank"] != 2), key=lambda a: a["rank"])
        question = prompt.removeprefix("\n\nHuman: ").removesuffix("\n\nAssistant: ")
        made["prompt"].append([{"role": "user", "content": question}])
        made["chosen"].append([{"role": "assistant", "content": kept[0]["answer"]}])
        made["rejected"].append([{"role": "assistant", "content": draw.choice(kept[1:])["answer"]}])
    return made


def main(rows: str, folder: str, processes: str) -> None:
    datasets.disable_progress_bars()
    data = datasets.load_dataset("json", data_files=rows, split="train", cache_dir=f"{folder}/cache")
    mapped = data.map(pairs, batched=True, remove_columns=data.column_names, num_proc=int(processes))
    mapped.to_parquet(f"{folder}/train.parquet")


if __name__ == "__main__":
    main(*sys.argv[1:])
