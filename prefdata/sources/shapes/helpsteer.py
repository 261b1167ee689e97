"""HelpSteer and HelpSteer2 (nvidia): one answer a row, with five ratings from 0 to 4; rows are grouped by prompt.

Their helpfulness orders a prompt's answers (`fields: {score: correctness}` takes another). Turns of HelpSteer2's
prompts are separated by lines such as "<extra_id_1>Assistant". Who wrote an answer is not told.
"""

import re
from dataclasses import replace

from prefdata.errors import DataError, snippet
from prefdata.kinds import Message
from prefdata.sources.conversations import messages_of
from prefdata.sources.pairs import together
from prefdata.sources.rows import Answer, Fields, Shape, Shaped, finite

RATINGS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
_TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")


def prompt(row: Fields) -> Shaped:
    """A row's prompt. Raises DataError (file:row:field) where its shape is wrong."""
    text = row.text("prompt")
    messages = turns(text)
    return Shaped(messages or messages_of(text, row.at("prompt")), problem=None if messages else "bad_dialogue")


def read(row: Fields) -> Shaped:
    """One row. Raises DataError (file:row:field) where its shape is wrong."""
    score = finite(row.get("score", int, float), row.at("score"))
    if not 0 <= score <= 4:
        raise DataError(f"ratings go from 0 to 4, not {snippet(score)}", row.at("score"), "correct the row")
    return replace(prompt(row), answers=[Answer(row.text("answer"), score=score)])


def turns(text: str) -> list[Message] | None:
    """The messages of a prompt; None where roles do not alternate or the user is not the last to speak."""
    first, *pieces = _TURN.split(text)
    roles = ["user", *("user" if r == "User" else "assistant" for r in pieces[::2])]
    alternating = roles == (["user", "assistant"] * len(roles))[: len(roles)]
    if not alternating or roles[-1] != "user":
        return None
    return [{"role": r, "content": c} for r, c in zip(roles, [first, *pieces[1::2]], strict=True)]


SHAPE = Shape(prompt, read, {"prompt": "prompt", "answer": "response", "score": "helpfulness"}, extras=RATINGS, join=together)
