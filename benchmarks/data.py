"""The data side: memory of every stage at two sizes, tokenising against the bare tokenizer. Time: benchmarks/scale.py.

Rows are synthetic, in Nectar's shape: a prompt of about 100 words, six answers of 400 to 1200 characters, ranks 1 to 6.

python benchmarks/data.py >> benchmarks/results/data.jsonl && python benchmarks/render.py
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import yaml
from figures import ROUNDS, interleaved, line
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from prefdata.models.tokens import load_encoder
from prefdata.recipe.job import Job
from prefdata.recipe.read import read_recipe
from prefdata.recipe.results import Results
from prefdata.stages.registry import STAGES

SMALL, LARGE = 10_000, 100_000
"""Candidates."""
SHARDS = 8
ANSWERS = 6
THREADS = 2
WITH_MODELS = {"toy", "generate", "judge", "judge_report", "score", "evaluate", "win_rate", "summary"}
"""Stages that start a model or read what one made; without references `noise` only writes its empty tables."""
PEAK = (
    "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:], stdout=2).returncode; "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
)
"""A process so small that a fork of it hides nobody's peak: Linux counts what a child had before its exec."""
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
Row = dict[str, Any]


# ---- rows ----


def write_rows(path: Path, candidates: int) -> None:
    """A source of about so many candidates."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows(-(-candidates // ANSWERS)):
            file.write(json.dumps(row) + "\n")


def rows(prompts: int) -> Iterator[Row]:
    """Random words by Zipf's law; no two prompts are alike."""
    draw = random.Random(1)
    letters = [c + v for c in "bcdfghklmnprstvwz" for v in ("a", "e", "i", "o", "u", "ai", "ou", "er", "an")]
    words = ["".join(draw.choices(letters, k=draw.randint(1, 4))) for _ in range(20_000)]
    weights = list(accumulate(1 / (n + 10) for n in range(len(words))))

    def text(characters: int) -> str:
        return " ".join(draw.choices(words, cum_weights=weights, k=characters // 5))[:characters].strip().capitalize() + "."

    for _ in range(prompts):
        asked = " ".join(draw.choices(words, k=draw.randint(80, 120)))
        ranks = draw.sample(range(1, ANSWERS + 1), ANSWERS)
        answers = [{"answer": text(draw.randint(400, 1200)), "model": f"model-{r}", "rank": r} for r in ranks]
        yield {"prompt": f"\n\nHuman: {asked}\n\nAssistant: ", "answers": answers}


def write_recipe(folder: Path, name: str, rows_file: Path) -> Path:
    """A recipe without references; decontaminated against a small file where the recipe knows how."""
    known = folder / "evaluation.jsonl"
    known.write_text(
        "".join(json.dumps({"prompt": f"evaluation question {n} " + "of no prompt " * 8}) + "\n" for n in range(100))
    )
    settings = {
        "name": name,
        "num_shards": SHARDS,
        "sources": {"sources": [{"name": "synthetic", "path": str(rows_file), "license": "apache-2.0"}]},
        "split": {"train": 0.9, "validation": 0.05, "test": 0.05},
        "decontaminate": {"against": [{"name": "mine", "path": str(known)}]},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


# ---- memory ----


def peaks(folder: Path, name: str, candidates: int) -> dict[str, float]:
    """Peak resident MiB of every data stage, each a process of the real command line."""
    source = folder / f"{name}.jsonl"
    write_rows(source, candidates)
    path = write_recipe(folder, name, source)
    settings = read_recipe(path)
    return {
        stage.name: peak(folder, [sys.executable, "-m", "prefdata", stage.name, "--settings", str(path)])
        for stage in STAGES.values()
        if stage.name not in WITH_MODELS and stage.units(settings)
    }


def peak(folder: Path, command: Sequence[str]) -> float:
    """Peak resident MiB of one process."""
    wrapped = subprocess.run([sys.executable, "-c", PEAK, *command], check=True, capture_output=True, text=True, cwd=folder)
    return int(wrapped.stdout) / 1024


def memory(folder: Path) -> None:
    """The largest peak over the stages, less what the same stage needs for two prompts: its imports."""
    imports = peaks(folder, "imports", 12)
    small, large = (peaks(folder, name, n) for name, n in (("small", SMALL), ("large", LARGE)))
    for stage, base in imports.items():
        print(f"{stage}: imports {base:.0f} MiB, 10k {small[stage]:.0f} MiB, 100k {large[stage]:.0f} MiB", file=sys.stderr)
    most = {name: max(found[s] - imports[s] for s in imports) for name, found in (("10k", small), ("100k", large))}
    for name, value in most.items():
        line(f"rss_over_imports_{name}", value, "MiB, largest of the stages", "")
    line("rss_ratio_100k_10k", most["100k"] / most["10k"], "largest peak less imports", "<= 1.3")


# ---- time ----


def tokenising(folder: Path) -> None:
    """One shard's prompts and answers through the Encoder, against its tokenizer's own encode_batch of the same strings."""
    run = Results(read_recipe, STAGES(folder / "large.yaml"), folder / "results")
    frames = next(Job(run, "prune").parts([0], prompts=10**9))
    prompts = list(frames["prompts"].select("messages", "tools", "template_kwargs").iter_rows())
    responses, finishes = frames["candidates"]["response"].to_list(), frames["candidates"]["finish"].to_list()
    encoder = load_encoder(str(byte_level(folder / "tokenizer", responses[:2000])))
    tokenizer = encoder.tokenizer
    strings = [tokenizer.apply_chat_template(m, tokenize=False, add_generation_prompt=True) for m, _, _ in prompts]
    strings += responses
    backend = tokenizer.backend_tokenizer

    def ours() -> list[list[int]]:
        return encoder.prompts(prompts) + encoder.completions(responses, finishes)

    def peer() -> list[Any]:
        backend.encode_special_tokens = False  # the template's are control tokens; no answer here holds any
        return backend.encode_batch(strings, add_special_tokens=False)

    end = [[]] * len(prompts) + [[encoder.end_id]] * len(responses)
    if ours() != [encoding.ids + e for encoding, e in zip(peer(), end, strict=True)]:
        raise SystemExit("other ids than the bare tokenizer's")
    seconds = interleaved({"ours": ours, "peer": peer})
    size = sum(len(s.encode()) for s in strings) / 1e6
    for name, taken in seconds.items():
        line(f"tokenise_mb_per_s_{name}", size / median(taken), f"MB/s, {THREADS} threads", "")
    line("tokenise_ratio", median(seconds["ours"]) / median(seconds["peer"]), "time over the bare tokenizer's", "<= 1.15")


def byte_level(folder: Path, texts: Sequence[str]) -> Path:
    """A byte-level BPE of 4,000 entries trained on the texts, with ChatML's template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=4000, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = CHATML
    fast.save_pretrained(folder)
    return folder


def main() -> None:
    for name in ("RAYON_NUM_THREADS", "POLARS_MAX_THREADS"):
        if os.environ.get(name) != str(THREADS):  # read once, when polars and tokenizers are loaded
            os.environ.update(RAYON_NUM_THREADS=str(THREADS), POLARS_MAX_THREADS=str(THREADS))
            os.execv(sys.executable, [sys.executable, *sys.argv])
    print(f"{THREADS} threads, {ROUNDS} rounds", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        memory(Path(folder))
        tokenising(Path(folder))


if __name__ == "__main__":
    main()
