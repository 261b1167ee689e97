"""Rows given in memory (prompt, chosen, rejected, or prompt, completion, label) as the table `sets` has them, with log-probs
under the references."""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import torch

from prefdata.errors import DataError, snippet
from prefdata.kinds import Message
from prefdata.models.chat import Refused
from prefdata.models.forward import logprob
from prefdata.models.tokens import Encoder, columns_of
from prefdata.sources.conversations import messages_of, text_of
from prefdata.sources.rows import UNKNOWN
from prefdata.tables.ids import candidate_id, prompt_id
from prefdata.tables.messages import as_json, split, split_answer
from train.left_out import LeftOut

Row = Mapping[str, Any]
SCORED_TOKENS = 4096


def set_row(row: Row, where: str) -> dict[str, Any]:
    """A row as the table `sets` has it: the chosen candidate first. Raises DataError."""
    if missing := [k for k in ("prompt", "chosen", "rejected") if row.get(k) is None]:
        raise DataError(f"missing {', '.join(missing)}", where, "give prompt, chosen and rejected")
    messages = _messages(row["prompt"], f"{where}.prompt")
    rejected = row["rejected"]
    several = isinstance(rejected, list) and rejected and not isinstance(rejected[0], Mapping)
    answers = [_answer(row["chosen"], messages, f"{where}.chosen")]
    answers += [_answer(r, messages, f"{where}.rejected") for r in (rejected if several else [rejected])]
    scores = row.get("score") or [None] * len(answers)
    if len(scores) != len(answers):
        raise DataError(
            f"{len(scores)} scores of {len(answers)} answers", f"{where}.score", "give one an answer, the chosen first"
        )
    columns = _prompt_columns(row, messages)
    candidates = []
    for number, ((text, more), score) in enumerate(zip(answers, scores, strict=True)):
        own = candidate_id(columns["prompt_id"], text, "source", "given", None, number, more)
        candidates.append(_candidate(own, text, more, "rejected" if number else "chosen") | {"score": score})
    return {**columns, "candidates": candidates}


def labelled_row(row: Row, where: str) -> dict[str, Any]:
    """A row of one labelled answer as the set `unpaired` has it, but for other answers of its prompt. Raises DataError."""
    if missing := [k for k in ("prompt", "completion", "label") if row.get(k) is None]:
        raise DataError(f"missing {', '.join(missing)}", where, "give prompt, completion and label in every row")
    if not isinstance(row["label"], bool):
        raise DataError(f"true or false expected, not {snippet(row['label'])}", f"{where}.label", "correct the row")
    messages = _messages(row["prompt"], f"{where}.prompt")
    text, more = _answer(row["completion"], messages, f"{where}.completion")
    columns = _prompt_columns(row, messages)
    own = candidate_id(columns["prompt_id"], text, "source", UNKNOWN, None, 0, more)  # as a file of the same rows has it
    return {**columns, "candidates": [_candidate(own, text, more, "chosen" if row["label"] else "rejected")]}


def agreeing(rows: Sequence[dict[str, Any]], left: LeftOut) -> list[dict[str, Any]]:
    """Labelled rows, equal ones once; those of one answer with both labels are left out and counted in `left`."""
    labels: dict[str, set[str]] = {}
    for candidate in (row["candidates"][0] for row in rows):
        labels.setdefault(candidate["candidate_id"], set()).add(candidate["role"])
    kept = [row for row in rows if len(labels[row["candidates"][0]["candidate_id"]]) == 1]
    left.reasons += Counter(contradictory=len(rows) - len(kept))  # which leaves out zeros
    return list({row["candidates"][0]["candidate_id"]: row for row in kept}.values())


def _prompt_columns(row: Row, messages: list[Message]) -> dict[str, Any]:
    """What the table `sets` says of a row's prompt."""
    tools, kwargs = (_as_json(row.get(k)) for k in ("tools", "template_kwargs"))
    plain, extras = split(messages)
    id = prompt_id(plain, tools, kwargs, extras)
    return {"prompt_id": id, "prompt": plain, "prompt_extras": extras, "tools": tools, "template_kwargs": kwargs}


def _candidate(own: str, text: str, extras: str | None, role: str) -> dict[str, Any]:
    return {
        "candidate_id": own,
        "role": role,
        "response": text,
        "extras": extras,
        "origin": "source",
        "finish": "stop",
        "score": None,
        "win_prob": None,
        "logps": [],
    }


def _messages(prompt: Any, where: str) -> list[Message]:
    if not isinstance(prompt, str | list | Mapping) or not prompt:
        raise DataError("a text, or a list of {role, content} expected", where, "correct the row")
    return messages_of(prompt, where)


def _as_json(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else as_json(value)


def _answer(value: Any, prompt: Sequence[Message], where: str) -> tuple[str, str | None]:
    """An answer's text and extras; of messages those of the last one, whose others must be the prompt's."""
    if isinstance(value, str):
        return text_of(value, where), None
    messages = _messages(value, where)
    if messages[-1]["role"] != "assistant" or (len(messages) > 1 and messages[:-1] != list(prompt)):
        raise DataError(
            "messages must be the prompt's followed by one of the assistant, or only that one", where, "correct the row"
        )
    return split_answer(messages[-1])


@torch.no_grad()
def scored(
    rows: Sequence[dict[str, Any]], encoder: Encoder, references: Mapping[str, Any], limit: int, left: LeftOut
) -> list[dict[str, Any]]:
    """The rows with every candidate's log-prob under every reference. Candidates that are longer than the shortest context,
    that the tokenizer cannot give back or its template cannot render are left out, and rows then without a pair, counted in
    `left`.

    Raises DataError where no row is left. A labelled row is its one answer, and needs no pair.
    """
    prompts = encoder.prompts_or_refusals([columns_of(r) for r in rows])
    kept: list[tuple[list[int], dict[str, Any], list[list[int]]]] = []
    for row, prompt in zip(rows, prompts, strict=True):
        if isinstance(prompt, Refused):
            left.reasons["refused_by_template"] += 1
            continue
        ids, against = _encoded(row, prompt, encoder, limit)
        places = [k for k in range(len(ids)) if k not in against]
        if places[:1] == [0] and (len(places) > 1 or len(ids) == 1):
            kept.append((prompt, {**row, "candidates": [row["candidates"][k] for k in places]}, [ids[k] for k in places]))
        else:
            left.reasons[against[min(against)] if against else "need_2"] += 1
    left.require_some("fit: rows")
    for name, model in references.items():
        was = model.training
        model.eval()
        for batch in logprob.batches([len(prompt) for prompt, _, _ in kept], SCORED_TOKENS):
            sums = logprob.grouped_logps(model, [kept[i][0] for i in batch], [kept[i][2] for i in batch], SCORED_TOKENS)
            for i, of_row in zip(batch, sums, strict=True):
                for candidate, tokens, total in zip(kept[i][1]["candidates"], kept[i][2], of_row.tolist(), strict=True):
                    candidate["logps"].append({"reference": name, "logp": total, "num_tokens": len(tokens)})
        model.train(was)
    finite = [row for _, row, _ in kept if all(isfinite(x["logp"]) for c in row["candidates"] for x in c["logps"])]
    if len(finite) < len(kept):
        left.reasons["not_finite"] += len(kept) - len(finite)
        left.require_some("fit: rows")
    return finite


def _encoded(row: Row, prompt: list[int], encoder: Encoder, limit: int) -> tuple[list[list[int]], dict[int, str]]:
    """(ids of each answer, by place the reason against those that cannot be used)."""
    answers, lossy = encoder.answers(
        [columns_of(row)] * len(row["candidates"]),
        [c["response"] for c in row["candidates"]],
        [c["finish"] for c in row["candidates"]],
        [c["extras"] for c in row["candidates"]],
    )
    against = dict.fromkeys(lossy, "lossy_tokenizer")
    ids: list[list[int]] = []
    for place, answer in enumerate(answers):
        ids.append([] if isinstance(answer, Refused) else answer)
        if isinstance(answer, Refused):
            against[place] = "refused_by_template"
        elif len(prompt) + len(answer) > limit:
            against.setdefault(place, "too_long")
    return ids, against
