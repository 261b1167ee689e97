"""hh-rlhf (Anthropic) and sets like it: chosen and rejected are whole transcripts, "\\n\\nHuman: ... \\n\\nAssistant: ...".

Both share every turn but the last; where they differ earlier the row is dropped, turns_differ, and where one is no transcript
that ends with the assistant, bad_dialogue. Several pairs of one prompt make one candidate set (prefdata/sources/pairs.py).
"""

from dataclasses import replace

from prefdata.kinds import Message
from prefdata.sources import transcripts
from prefdata.sources.pairs import by_pairs
from prefdata.sources.rows import Answer, Fields, Shape, Shaped


def prompt(row: Fields) -> Shaped:
    """What both transcripts share. Raises DataError (file:row:field) where the row's shape is wrong."""
    return _read(row)[0]


def read(row: Fields) -> Shaped:
    """One pair. Raises DataError (file:row:field) where the row's shape is wrong."""
    shaped, last = _read(row)
    return replace(shaped, answers=[Answer.of(m, rank=rank) for m, rank in zip(last, (1.0, 2.0), strict=False)])


def _read(row: Fields) -> tuple[Shaped, list[Message]]:
    """(the shared turns, the last message of each)."""
    texts = [row.text(name) for name in ("chosen", "rejected")]
    talks = [transcripts.talk(t) if transcripts.is_transcript(t) else None for t in texts]
    chosen, rejected = ([] if not t or t[-1]["role"] != "assistant" else t for t in talks)
    if not chosen or not rejected:
        return Shaped([{"role": "user", "content": texts[0]}], problem="bad_dialogue"), []
    problem = None if chosen[:-1] == rejected[:-1] else "turns_differ"
    return Shaped(chosen[:-1], problem=problem), [chosen[-1], rejected[-1]]


SHAPE = Shape(prompt, read, {"chosen": "chosen", "rejected": "rejected"}, join=by_pairs, needs_first=True)
