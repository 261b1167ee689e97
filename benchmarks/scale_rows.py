"""Rows of Nectar's shape in any number, from real answers where they are at hand, else from the words of toy answers.

A prompt is a run of words out of the texts, at a place of its own: prompts repeat one another as seldom as real ones do. Seven
answers stay together with their models and ranks.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefdata.sources.toy import tasks, writers

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "nectar_like" / "nectar7.jsonl"
ANSWERS, MOST_BYTES = 7, 10_000
"""Longer lists of seven answers are left out: a row then has 5.9 KB, as Nectar's have."""
WORDS = (8, 60)
"""Of a prompt."""


def write(path: Path, prompts: int) -> str:
    """Write so many rows; what they are made of, in words."""
    listed, what = _real() if REAL.exists() else _toy()
    with path.open("w", encoding="utf-8") as file:
        for row in rows(listed, prompts):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return what


def rows(listed: list[list[dict[str, Any]]], prompts: int) -> Iterator[dict[str, Any]]:
    """Rows of these lists of answers."""
    draw = random.Random(1)
    words = [word for answers in listed for answer in answers for word in answer["answer"].split()]
    for _ in range(prompts):
        length = draw.randint(*WORDS)
        start = draw.randrange(len(words) - length)
        asked = " ".join(words[start : start + length])
        yield {"prompt": f"\n\nHuman: {asked}\n\nAssistant: ", "answers": draw.choice(listed)}


def _real() -> tuple[list[list[dict[str, Any]]], str]:
    lines = REAL.read_text(encoding="utf-8").splitlines()
    listed = [row["answers"] for row in map(json.loads, lines) if len(row["answers"]) == ANSWERS]
    plain = [[{k: a[k] for k in ("answer", "model", "rank")} for a in answers] for answers in listed]
    return [a for a in plain if len(json.dumps(a, ensure_ascii=False).encode()) <= MOST_BYTES], "real answers"


def _toy() -> tuple[list[list[dict[str, Any]]], str]:
    """As long as real ones: a hundred answers of the embedded world in one text."""
    draw, made = random.Random(2), []
    for _ in range(400):
        asked = [tasks.make(draw.choice(tasks.KINDS), draw) for _ in range(100)]
        texts = [" ".join(writers.answer(writer, p, draw) for p in asked) for writer in writers.WRITERS]
        made.append(
            [{"answer": t, "model": w, "rank": r} for r, (w, t) in enumerate(zip(writers.WRITERS, texts, strict=True), 1)]
        )
    return made, "toy answers"
