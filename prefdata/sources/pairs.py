"""Several pairs of one prompt as one candidate set, by the order that the pairs state and no other.

Pairs make a directed graph over the answers. Answers that are each better than the other, directly or in a circle, contradict
themselves: pairs inside such a circle say nothing. The best answer is one that nothing is better than and that is better than
the most others; what it is not better than is left out (`incomparable`), since no pair says that it is worse.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from prefdata.tables.drops import drop

Record = dict[str, Any]
Better = dict[int, set[int]]
"""For each answer those it is better than."""


def together(rows: Sequence[Sequence[Record]]) -> tuple[list[Record], list[str]]:
    """The answers of all rows as they are: every row has one answer, or its scores compare with the other rows'."""
    return [c for row in rows for c in row], []


def scored_or_paired(rows: Sequence[Sequence[Record]]) -> tuple[list[Record], list[str]]:
    """Answers ordered by their scores where each has one and the same in all rows, by the pairs where not."""
    scores: dict[tuple[Any, ...], set[float | None]] = {}
    for candidate in (c for row in rows for c in row):
        scores.setdefault(_key(candidate), set()).add(candidate["source_score"])
    if all(len(own) == 1 and None not in own for own in scores.values()):
        return list(_distinct(rows).values()), []
    return by_pairs([_as_pair(row) for row in rows])


def _as_pair(row: Sequence[Record]) -> list[Record]:
    """A row's answers ranked by their scores, where they have them; equal scores say nothing."""
    scores = [c["source_score"] for c in row]
    if any(s is None for s in scores):
        return list(row)
    return [{**c, "source_rank": 1.0 + (s < max(scores)), "source_score": None} for c, s in zip(row, scores, strict=True)]


def by_pairs(rows: Sequence[Sequence[Record]]) -> tuple[list[Record], list[str]]:
    """(candidates with ranks, one text a contradiction). Each row holds its chosen (rank 1) and its rejected answer (rank
    2)."""
    nodes = _distinct([[c for c in row if "dropped" not in c] for row in rows])
    dropped = [{**c, "source_rank": None} for c in _distinct(rows).values() if _key(c) not in nodes]
    number = {key: i for i, key in enumerate(nodes)}
    better: Better = {i: set() for i in range(len(nodes))}
    for row in rows:
        ends = [[number[_key(c)] for c in row if c["source_rank"] == rank and _key(c) in number] for rank in (1.0, 2.0)]
        for one in ends[0]:
            better[one] |= {other for other in ends[1] if other != one}
    circles = _circles(better)
    of = {i: n for n, circle in enumerate(circles) for i in circle}
    kept = {i: {j for j in worse if of[j] != of[i]} for i, worse in better.items()}
    contradictions = [f"{len(c)} answers that are each better than the other" for c in circles if len(c) > 1]
    return [*(_ranked(list(nodes.values()), kept) if nodes else []), *dropped], contradictions


def _key(candidate: Mapping[str, Any]) -> tuple[Any, ...]:
    return candidate["producer"], candidate["response"], candidate["extras"]


def _distinct(rows: Sequence[Sequence[Record]]) -> dict[tuple[Any, ...], Record]:
    nodes: dict[tuple[Any, ...], Record] = {}
    for candidate in sorted((c for row in rows for c in row), key=lambda c: tuple(map(str, _key(c)))):
        nodes.setdefault(_key(candidate), candidate)
    return nodes


def _reached(better: Better, start: int) -> set[int]:
    """What is worse than an answer, directly or through others."""
    found, ahead = set[int](), list(better[start])
    while ahead:
        if (one := ahead.pop()) not in found:
            found.add(one)
            ahead += better[one]
    return found


def _circles(better: Better) -> list[list[int]]:
    """The strongly connected components; one answer alone is a component too."""
    reached = {i: _reached(better, i) for i in better}
    made: dict[frozenset[int], list[int]] = {}
    for i in better:
        made.setdefault(frozenset({i, *(j for j in reached[i] if i in reached[j])}), []).append(i)
    return list(made.values())


def _ranked(candidates: list[Record], better: Better) -> list[Record]:
    """Ranks by the longest way down from the best; without any pair left all are equal."""
    reached = {i: _reached(better, i) for i in better}
    top = [i for i in better if not any(i in worse for worse in better.values())]
    most = max(top, key=lambda i: (len(reached[i]), -i))
    if not reached[most]:
        return [{**c, "source_rank": 1.0} for c in candidates]
    rank = {i: 1.0 for i in top if reached[i] == reached[most]}
    ahead = list(rank)
    while ahead:  # without circles every answer is visited at most once for each way that leads to it
        one = ahead.pop()
        for worse in better[one]:
            if rank.get(worse, 0.0) < rank[one] + 1:
                rank[worse] = rank[one] + 1
                ahead.append(worse)
    return [_placed(c, rank.get(i)) for i, c in enumerate(candidates)]


def _placed(candidate: Record, rank: float | None) -> Record:
    placed = {**candidate, "source_rank": rank}
    if rank is None and "dropped" not in placed:
        placed["dropped"] = drop("candidate", "sources", "incomparable", placed)
    return placed
