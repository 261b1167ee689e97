"""Questions with a final answer that can be checked (GSM8K: "... #### 42"), for verifiable prompts.

The worked answer is the source's one candidate, kept as it is; the final answer goes to `prompts.answer`, which the verifier
reads (prefdata/judging/verify.py). A row that has the final answer only (`fields: {final: ...}`) is a prompt without answers.
"""

from dataclasses import replace

from prefdata.sources.rows import Answer, Fields, Shape, Shaped

MARK = "####"


def prompt(row: Fields) -> Shaped:
    """A question with its final answer. Raises DataError (file:row:field) where its shape is wrong."""
    final = _final(row, _worked(row))
    return Shaped([{"role": "user", "content": row.text("prompt")}], final=final, problem=None if final else "no_final_answer")


def read(row: Fields) -> Shaped:
    """One question with its worked answer. Raises DataError (file:row:field) where its shape is wrong."""
    worked = _worked(row)
    answers = [] if worked is None else [Answer(worked, rank=1.0)]
    return replace(prompt(row), answers=answers, bare=worked is None)


def _worked(row: Fields) -> str | None:
    return row.get("answer", str) if row.has("answer") or not row.has("final") else None


def _final(row: Fields, worked: str | None) -> str:
    if row.has("final"):
        return str(row.get("final", str, int, float)).strip()
    return (worked or "").rpartition(MARK)[2].strip() if MARK in (worked or "") else ""


SHAPE = Shape(prompt, read, {"prompt": "question", "answer": "answer", "final": "final"})
