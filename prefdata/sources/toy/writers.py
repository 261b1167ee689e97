"""Seven simulated models of different skill."""

import random

from prefdata.sources.toy import tasks

WRITERS: dict[str, tuple[float, float]] = {
    "writer-1": (0.02, 0.15),
    "writer-2": (0.05, 0.4),
    "writer-3": (0.1, 0.7),
    "writer-4": (0.2, 1.0),
    "writer-5": (0.35, 1.3),
    "writer-6": (0.5, 1.8),
    "writer-7": (0.6, 2.6),
}
"""Name: (chance of the kind's systematic mistake, mean number of random edits)."""


def answer(writer: str, prompt: str, rng: random.Random) -> str:
    """One answer; never empty."""
    chance, edits = WRITERS[writer]
    text = tasks.lazy(prompt) if rng.random() < chance else str(tasks.solve(prompt))
    for _ in range(_poisson(edits, rng)):
        text = _edit(text, rng)
    return text


def _poisson(mean: float, rng: random.Random) -> int:
    count, wait = 0, rng.expovariate(1.0)
    while wait < mean:
        count, wait = count + 1, wait + rng.expovariate(1.0)
    return count


def _edit(text: str, rng: random.Random) -> str:
    kind, place = rng.randrange(6), rng.randrange(len(text))
    letter = rng.choice("0123456789," if any(c.isdigit() for c in text) else tasks.LETTERS)
    if kind == 0 and place + 1 < len(text):
        return text[:place] + text[place + 1] + text[place] + text[place + 2 :]
    if kind == 1:
        return text[:place] + letter + text[place + 1 :]
    if kind == 2 and len(text) > 1:
        return text[:place] + text[place + 1 :]
    if kind == 3 and len(text) > 2:
        return text[: max(1, len(text) - rng.randint(1, 2))]
    if kind == 4 and len(text) < 14:
        return text + text[-1]
    return text[:place] + letter + text[place:] if len(text) < 14 else text
