"""ultrafeedback_binarized (HuggingFaceH4): a chosen and a rejected conversation, each with a score, in one row.

Both conversations share every message but the last; where they differ earlier the row is dropped, turns_differ. The
scores order the answers: of equal scores the data set's own choice is a coin's, so they tie; a rejected answer with
the higher score contradicts its label (contradictory).
"""

from dataclasses import replace

from prefdata.errors import DataError
from prefdata.kinds import Message
from prefdata.sources.pairs import scored_or_paired
from prefdata.sources.rows import Answer, Fields, Shape, Shaped


def prompt(row: Fields) -> Shaped:
    """A row's prompt: what both conversations share. Raises DataError (file:row:field) where its shape is wrong."""
    chosen, rejected = (conversation(row, name)[:-1] for name in ("chosen", "rejected"))
    return Shaped(chosen, problem=None if chosen == rejected else "turns_differ")


def read(row: Fields) -> Shaped:
    """One row. Raises DataError (file:row:field) where its shape is wrong."""
    shaped = prompt(row)
    last = [conversation(row, name)[-1] for name in ("chosen", "rejected")]
    scores = [row.number(f"score_{n}") for n in ("chosen", "rejected")]
    if scores[0] is None or scores[1] is None:
        return replace(shaped, answers=[Answer.of(m, rank=r) for m, r in zip(last, (1.0, 2.0), strict=True)])
    answers = [Answer.of(m, score=s) for m, s in zip(last, scores, strict=True)]
    contradictory = "contradictory" if scores[1] > scores[0] else None
    return replace(shaped, answers=answers, problem=shaped.problem or contradictory)


def conversation(row: Fields, name: str) -> list[Message]:
    """A conversation that ends with the answer. Raises DataError."""
    row.get(name, list)  # no text: a conversation has several messages
    messages = row.messages(name)
    if len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise DataError("not a conversation that ends with the assistant's answer", row.at(name), "correct the row")
    return messages


SHAPE = Shape(
    prompt,
    read,
    {n: n for n in ("chosen", "rejected", "score_chosen", "score_rejected")},
    extras=("prompt", "prompt_id", "messages"),
    join=scored_or_paired,
    needs_first=True,
)
"""`prompt` repeats the first message and `messages` the chosen conversation; neither is read."""
