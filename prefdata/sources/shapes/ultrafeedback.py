"""UltraFeedback (openbmb/UltraFeedback): an instruction and four completions, each with ratings, in one row.

`score` names the rating that orders the answers: `overall_score` (default), `fine-grained_score`, or a path such as
`annotations.helpfulness.Rating` (texts, "N/A" occurs: such an answer is dropped, no_score). The custom system prompts
under which completions were made are not part of the prompt.

2,628 completions of early revisions have an overall_score of 10 that should be 1 (the judge's "1" was read as "10");
the authors re-judged those whose fine-grained ratings average 4 or less. Such an answer is dropped, doubtful_score.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from prefdata.errors import DataError, snippet
from prefdata.sources.rows import Answer, Fields, Shape, Shaped, finite

DEFAULT_SCORE = "overall_score"


def prompt(row: Fields) -> Shaped:
    """A row's prompt. Raises DataError (file:row:field) where its shape is wrong."""
    subset = row.row.get("source")
    return Shaped([{"role": "user", "content": row.text("prompt")}], subsets=(subset,) if isinstance(subset, str) else ())


def read(row: Fields) -> Shaped:
    """One row. Raises DataError (file:row:field) where its shape is wrong."""
    return replace(prompt(row), answers=[_answer(c) for c in row.objects("answers")])


def _answer(completion: Fields) -> Answer:
    name = completion.theirs("score")
    score = _number(_follow(completion.row, name), f"{completion.where}.{name}")
    text, model = completion.text("answer"), completion.get("model", str)
    doubt = "no_score" if score is None else "doubtful_score" if _doubtful(completion, name, score) else None
    return Answer(text, model, score=score, doubt=doubt)


def _follow(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _number(value: Any, at: str) -> float | None:
    """A rating, which may be a number or its text; None for "N/A" and for what is not there."""
    if value is None or value == "N/A":
        return None
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError as error:
            raise DataError(f"no rating: {snippet(value)}", at, "name another rating under fields.score") from error
    return finite(value, at)


def _doubtful(completion: Fields, name: str, score: float) -> bool:
    average = _average(completion.row)
    return name == DEFAULT_SCORE and score == 10 and average is not None and average <= 4


def _average(completion: Mapping[str, Any]) -> float | None:
    """The mean of the fine-grained ratings that are numbers."""
    annotations = completion.get("annotations")
    ratings = [_follow(a, "Rating") for a in annotations.values()] if isinstance(annotations, dict) else []
    known = [float(r) for r in ratings if isinstance(r, str) and r.isdecimal()]
    if known:
        return sum(known) / len(known)
    fine = completion.get("fine-grained_score")
    return float(fine) if isinstance(fine, int | float) and not isinstance(fine, bool) else None


SHAPE = Shape(
    prompt,
    read,
    {
        "prompt": "instruction",
        "answers": "completions",
        "answer": "response",
        "model": "model",
        "score": DEFAULT_SCORE,
    },
    extras=("source", "models", "correct_answers", "incorrect_answers"),
)
