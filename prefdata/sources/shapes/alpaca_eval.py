"""AlpacaEval's output files: one model's answers a file, a JSON array of {instruction, output, generator}.

Several models' files together (a list of paths) are one source: their rows are grouped by instruction. There is no order among
the answers; a judge makes one. An `input`, as older files have, follows its instruction after an empty line.
"""

from dataclasses import replace

from prefdata.sources.conversations import messages_of
from prefdata.sources.pairs import together
from prefdata.sources.rows import Answer, Fields, Shape, Shaped


def instruction(row: Fields) -> str:
    """A row's instruction with its input. Raises DataError (file:row:field) where its shape is wrong."""
    text: str = row.get("prompt", str)
    return f"{text}\n\n{row.get('input', str)}" if row.has("input") and row.get("input", str) else text


def prompt(row: Fields) -> Shaped:
    """A row's prompt. Raises DataError (file:row:field) where its shape is wrong."""
    subset = row.row.get("dataset")
    return Shaped(messages_of(instruction(row), row.at("prompt")), subsets=(subset,) if isinstance(subset, str) else ())


def read(row: Fields) -> Shaped:
    """One answer. Raises DataError (file:row:field) where its shape is wrong."""
    return replace(prompt(row), answers=[Answer(row.text("answer"), row.get("model", str))])


SHAPE = Shape(
    prompt,
    read,
    {"prompt": "instruction", "input": "input", "answer": "output", "model": "generator"},
    extras=("dataset", "datasplit"),
    join=together,
    arrays=True,
)
