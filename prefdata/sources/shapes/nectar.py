"""Nectar (berkeley-nest/Nectar): a prompt and a ranked list of answers in one row.

prompt ("\\n\\nHuman: ... \\n\\nAssistant: ", several turns in one string, or a list of messages) and answers, list of
{answer, model, rank}. `ranks`, where mapped, is an object model -> rank beside the answers (average ranks of ties).
An answer may have a `score` (higher is better) instead of a rank.
"""

from dataclasses import replace
from typing import Any

from prefdata.errors import DataError, snippet
from prefdata.sources import transcripts
from prefdata.sources.rows import MAX_RANK, Answer, Fields, Shape, Shaped, as_rank, finite


def prompt(row: Fields) -> Shaped:
    """A row's prompt. Raises DataError (file:row:field) where its shape is wrong."""
    return _shaped(row, [])


def read(row: Fields) -> Shaped:
    """One row. Raises DataError (file:row:field) where its shape is wrong."""
    shaped = _shaped(row, _plain_answers(row) or [])
    if shaped.answers:
        return shaped
    answers = row.objects("answers")
    _require_count(row, len(answers))
    made = [Answer(a.text("answer"), a.get("model", str), _rank(row, a), a.number("score")) for a in answers]
    ranked = [a.rank is not None for a in made]
    if any(ranked) and not all(ranked):
        raise DataError("some answers have a rank and some have none", row.at("answers"), "rank all of them or none")
    return replace(shaped, answers=made)


def _shaped(row: Fields, answers: list[Answer]) -> Shaped:
    value = row.get("prompt", str, list)
    messages = transcripts.prompt(row.text("prompt")) if isinstance(value, str) else row.prompt("prompt")
    if messages is None:
        return Shaped([{"role": "user", "content": value}], answers, problem="bad_dialogue")
    return Shaped(messages, answers, subsets=_subsets(row.row.get("source")))


def _plain_answers(row: Fields) -> list[Answer] | None:
    """The answers where each has a text, a model and a rank of its own and nothing else is to be said of them, as in nearly
    all rows; None where they must be looked at one by one."""
    listed, counts = row.row.get(row.theirs("answers")), ("num_responses", "num_response")
    if type(listed) is not list or row.has("ranks") or any(row.row.get(name) is not None for name in counts):
        return None
    text, model, rank, score = map(row.theirs, ("answer", "model", "rank", "score"))
    made = []
    for each in listed:
        if type(each) is not dict or each.get(score) is not None:
            return None
        said, who, place = each.get(text), each.get(model), each.get(rank)
        if not isinstance(said, str) or not isinstance(who, str) or not isinstance(place, int | float):
            return None
        if isinstance(place, bool) or not 1 <= place <= MAX_RANK:
            return None
        if said.lstrip()[:1] == "[":  # may be a list of messages, which is an error
            return None
        made.append(Answer(said, who, float(place)))
    return made


def _require_count(row: Fields, count: int) -> None:
    for name in ("num_responses", "num_response"):
        if row.row.get(name) is not None and finite(row.row[name], f"{row.where}:{name}") != count:
            what = f"says {row.row[name]}, but there are {count} answers"
            raise DataError(what, f"{row.where}:{name}", "correct the row")


def _rank(row: Fields, answer: Fields) -> float | None:
    if row.has("ranks"):
        ranks, model = row.get("ranks", dict), answer.get("model", str)
        if ranks.get(model) is None:
            raise DataError(f"no rank of {snippet(model)}: {snippet(ranks)}", row.at("ranks"), "rank every model of the row")
        return as_rank(ranks[model], row.at("ranks"))
    if answer.theirs("rank") not in answer.row:
        return None
    return as_rank(answer.row[answer.theirs("rank")], f"{answer.where}.{answer.theirs('rank')}")


def _subsets(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    listed = value if isinstance(value, list) else [value]
    return tuple(v for v in listed if isinstance(v, str))


SHAPE = Shape(
    prompt,
    read,
    {n: n for n in ("prompt", "answers", "answer", "model", "rank", "ranks", "score")},
    extras=("turns", "num_responses", "num_response", "source", "good_natured"),
)
