"""Stage `toy`: writes the world's source in Nectar's shape and its tokenizers."""

import json
import random
from collections.abc import Iterator
from typing import Any

from prefdata.errors import ConfigError
from prefdata.judging import rubric
from prefdata.recipe import places
from prefdata.recipe.job import Job
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Stage, without
from prefdata.sources.settings import ToySettings
from prefdata.sources.toy import tasks, writers
from prefdata.tables import atomic


def run(job: Job) -> None:
    """Write toy/source.jsonl and the folders toy/tokenizers/<name>."""
    from prefdata.sources.toy import tokenizers

    if job.settings.toy is None:
        raise ConfigError("there is no toy section", do="add `toy: {}` to the settings, or skip this stage")
    lines = [json.dumps(row, ensure_ascii=True) for row in rows(job.settings.toy, job.settings.seed)]
    atomic.atomic_text(job.output(places.TOY_SOURCE), "\n".join(lines) + "\n")
    tokenizers.write(job.own_folder("toy/tokenizers"))


def rows(settings: ToySettings, seed: int) -> Iterator[dict[str, Any]]:
    """Nectar rows with a split: demonstrations (one answer by one of the four worst writers) and ranked pools."""
    rng, seen, names = random.Random(seed), set[str](), list(writers.WRITERS)
    parts = (("sft", settings.demonstrations), ("train", settings.train), ("test", settings.test))
    for split, count in parts:
        for number in range(count):
            prompt = _fresh(tasks.KINDS[number % len(tasks.KINDS)], rng, seen)
            authors = [rng.choice(names[3:])] if split == "sft" else names
            yield _row(prompt, authors, split, settings.judge_sd, rng)
    yield from _judgements(settings.judgements, rng, seen)
    for number in range(settings.validation):  # last, so that the others stay what they are
        prompt = _fresh(tasks.KINDS[number % len(tasks.KINDS)], rng, seen)
        yield _row(prompt, names, "validation", settings.judge_sd, rng)


def _judgements(count: int, rng: random.Random, seen: set[str]) -> Iterator[dict[str, Any]]:
    """Comparisons as the rubric `toy` asks them, on tasks of their own, answered by the label of the better answer."""
    asks, names, made = rubric.load("toy"), list(writers.WRITERS), 0
    while made < count:
        task = tasks.make(tasks.KINDS[made % len(tasks.KINDS)], rng)
        first, second = (writers.answer(a, task, rng) for a in rng.sample(names, 2))
        ahead = (tasks.score(task, first) or 0.0) - (tasks.score(task, second) or 0.0)
        content = asks.messages({"messages": [{"role": "user", "content": task}], "answer": None}, first, second, "labels")
        shown = content[-1]["content"]
        if ahead == 0 or task in seen or shown in seen:
            continue
        seen.add(shown)
        made += 1
        label = asks.labels["first" if ahead > 0 else "second"]
        yield {**_nectar(shown, [("judge", label)], [1.0]), "split": "validation"}


def _fresh(kind: str, rng: random.Random, seen: set[str]) -> str:
    for _ in range(1000):
        prompt = tasks.make(kind, rng)
        if prompt not in seen:
            seen.add(prompt)
            return prompt
    raise ConfigError(f"the world has no more prompts of kind {kind}", do="ask for fewer in the toy section")


def _row(prompt: str, authors: list[str], split: str, judge_sd: float, rng: random.Random) -> dict[str, Any]:
    answers = [(a, writers.answer(a, prompt, rng)) for a in authors]
    quality = [(tasks.score(prompt, text) or 0.0) + rng.gauss(0, judge_sd) for _, text in answers]
    order = sorted(range(len(answers)), key=lambda i: -quality[i])
    ranks = {i: float(position) for position, i in enumerate(order, 1)}
    return {**_nectar(prompt, answers, [ranks[i] for i in range(len(answers))]), "split": split}


def _nectar(prompt: str, answers: list[tuple[str, str]], ranks: list[float]) -> dict[str, Any]:
    return {
        "prompt": f"\n\nHuman: {prompt}\n\nAssistant: ",
        "answers": [{"answer": t, "model": a, "rank": r} for (a, t), r in zip(answers, ranks, strict=True)],
        "turns": 1,
        "num_responses": len(answers),
        "source": ["toy"],
        "good_natured": True,
    }


def _files(settings: Settings, unit: str) -> list[str]:
    files = [f"{places.toy_tokenizer(name)}/{file}" for name in places.TOY_TOKENIZERS for file in places.TOKENIZER_FILES]
    return [places.TOY_SOURCE, *files]


STAGE = Stage(
    name="toy",
    help="Make the embedded world: tasks, simulated answers, tokenizers.",
    version=2,
    run=run,
    per="run",
    units=lambda s: ["all"] if s.toy else [],
    writes_files=_files,
    folders=lambda s: ["toy/tokenizers"],
    slice=lambda s, u: {**without(s.toy), "seed": s.seed} if s.toy else {},
)
