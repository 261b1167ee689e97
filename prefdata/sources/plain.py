"""Rows of which nothing is dropped and nothing is said beside texts, models and ranks: nearly all, and told at once.

What is decided here is what `rows.parsed` and `rows.finish` decide; whatever is in doubt is left to them.
"""

from collections.abc import Callable, Collection, Sequence

from prefdata.sources.rows import CONTROLS, Answer, Limits, Shaped, ranks_of
from prefdata.tables.ids import source_ids

Candidate = tuple[str, str, str, int, float | None, float | None]
"""A candidate of a plain row, the columns in which one differs from others: candidate_id, response, producer, sample,
source_rank, source_score."""


def is_plain(shaped: Shaped, limits: Limits, exclude: Collection[str]) -> bool:
    """Whether a row is kept whole: a prompt of roles and texts, answers of texts, and no reason to drop any of them, but that
    an answer may go on to play another turn: that is looked for in many rows at once."""
    messages, answers = shaped.messages, shaped.answers
    if shaped.problem or shaped.final is not None or shaped.tools or shaped.template_kwargs or not messages or not answers:
        return False
    if any(len(m) != 2 for m in messages) or any(a.doubt or a.extras or a.label is not None for a in answers):
        return False
    if shaped.subsets and not set(shaped.subsets).isdisjoint(exclude):
        return False
    asked, said = [m["content"] for m in messages], [a.text for a in answers]
    if None in asked or not asked[-1].strip() or not all(map(str.strip, said)):
        return False
    if max(map(len, said)) > limits.max_chars or sum(map(len, asked)) > limits.max_chars:
        return False
    return _can_be_kept("\n".join([*asked, *said, *[a.producer for a in answers]]), limits)


def _can_be_kept(texts: str, limits: Limits) -> bool:
    """Whether no text has a lone surrogate or a control."""
    try:
        data = texts.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return limits.controls or len(data.translate(None, CONTROLS)) == len(data)


def named(prompt_id: str, answers: Sequence[Answer], quoted: Callable[[str], str]) -> list[Candidate]:
    """A plain row's candidates: numbered, named and ranked, in the order of their ids. `quoted`: a text as JSON in ASCII."""
    ranks = ranks_of([a.rank for a in answers], [a.score for a in answers])
    seen: dict[tuple[str, str], int] = {}
    numbered = []
    for answer in answers:
        key = (answer.text, answer.producer)
        sample = seen[key] = seen.get(key, -1) + 1
        numbered.append((*key, sample))
    ids = source_ids(prompt_id, numbered, quoted)
    scores = [a.score for a in answers]
    return sorted([(own, *one, rank, score) for own, one, rank, score in zip(ids, numbered, ranks, scores, strict=True)])
