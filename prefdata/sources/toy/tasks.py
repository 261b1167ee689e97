"""Five verifiable string tasks with graded quality.

S sorts letters, R reverses them, D doubles each, C shifts each by one (a-j, cyclic), A adds two numbers digit by
digit: `A47+85` is answered `12,13,132` (units, tens with carry, sum).
"""

import random
import re
from functools import lru_cache

LETTERS = "abcdefghij"
KINDS = "SRDCA"
ALPHABET = LETTERS + "0123456789" + KINDS + "+,"
"""Every character of a task or an answer."""
_TASK = re.compile(r"(?:([SRDC])([a-j]{1,12})|A(\d{2})\+(\d{2}))", re.ASCII)


def make(kind: str, rng: random.Random) -> str:
    """A random prompt of one kind."""
    if kind == "A":
        return f"A{rng.randint(10, 99)}+{rng.randint(10, 99)}"
    count = rng.randint(3, 5) if kind == "D" else rng.randint(4, 7)
    return kind + "".join(rng.choice(LETTERS) for _ in range(count))


def solve(prompt: str) -> str | None:
    """The exact answer; None where the text is no task of this world."""
    match = _TASK.fullmatch(prompt.strip())
    if match is None:
        return None
    kind, letters, first, second = match.groups()
    if kind is None:
        return _add(first, second, carry=True)
    if kind == "S":
        return "".join(sorted(letters))
    if kind == "R":
        return letters[::-1]
    if kind == "D":
        return "".join(c + c for c in letters)
    return _shift(letters, 1)


def _shift(letters: str, by: int) -> str:
    return "".join(LETTERS[(LETTERS.index(c) + by) % len(LETTERS)] for c in letters)


def _add(first: str, second: str, carry: bool) -> str:
    units = int(first[1]) + int(second[1])
    tens = int(first[0]) + int(second[0]) + (units // 10 if carry else 0)
    return f"{units},{tens},{tens * 10 + units % 10}"


def lazy(prompt: str) -> str:
    """The systematic mistake of each kind: sort descending, copy, forget the last letter, shift wrongly, drop the carry."""
    kind, body = prompt[0], prompt[1:]
    if kind == "S":
        return "".join(sorted(body, reverse=True))
    if kind == "R":
        return body
    if kind == "D":
        return "".join(c + c for c in body[:-1]) + body[-1]
    if kind == "C":
        return _shift(body, 2)
    first, _, second = body.partition("+")
    return _add(first, second, carry=False)


@lru_cache(maxsize=65_536)
def score(prompt: str, response: str) -> float | None:
    """1 - edit distance / length of the longer, in [0, 1]; 1 is exact. None where the prompt is no task."""
    exact = solve(prompt)
    if exact is None:
        return None
    response = response[:512]  # an answer this long is wrong in any case; bounds the quadratic distance
    return 1 - edit_distance(exact, response) / max(len(exact), len(response), 1)


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]
