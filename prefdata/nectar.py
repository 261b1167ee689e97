"""Rows in Nectar's shape (berkeley-nest/Nectar) as prompts and candidates; pure functions, one row at a time.

A row: prompt ("\\n\\nHuman: ... \\n\\nAssistant: ", several turns in one string, or a list of messages) and answers,
list of {answer, model, rank}. Ranks are finite and >= 1; ties, averages and gaps are legal.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from prefdata.draws import hex_id
from prefdata.errors import DataError, snippet
from prefdata.settings import SourceSettings
from prefdata.tables import ROLES, SPLITS

Record = dict[str, Any]
MAX_RANK = 1e9
_MARK = re.compile(r"\n\n(Human|Assistant):")
_EXTRAS = {"turns", "num_responses", "num_response", "source", "good_natured"}


@dataclass
class Parsed:
    """What one row became. `prompt` is None where the row is dropped (the drops then say why)."""

    prompt: Record | None = None
    candidates: list[Record] = field(default_factory=list)
    drops: list[Record] = field(default_factory=list)


def prompt_id(messages: list[dict[str, str]], tools: str | None = None, template_kwargs: str | None = None) -> str:
    """16 hex of blake2b over the canonical messages, and tools and template_kwargs (JSON) where there are any."""
    canonical = json.dumps([[m["role"], m["content"]] for m in messages], separators=(",", ":"))
    return hex_id(canonical, *([tools or "", template_kwargs or ""] if tools or template_kwargs else []))


def candidate_id(prompt: str, response: str, origin: str, producer: str, temperature: float | None, sample: int) -> str:
    """16 hex over prompt_id, response, origin, producer, temperature, sample."""
    return hex_id(prompt, response, origin, producer, -1.0 if temperature is None else float(temperature), sample)


def parse(row: Record, source: SourceSettings, where: str, max_chars: int, unknown_fields: str) -> Parsed:
    """One row of the source. Raises DataError (file:row:field) where the row's shape is wrong."""
    name = f"{source.name}@{source.revision or 'local'}"
    names = {k: source.fields.get(k, k) for k in ("prompt", "answers", "answer", "model", "rank", "ranks", "split", "id")}
    if unknown_fields == "error" and (unknown := sorted(set(row) - set(names.values()) - _EXTRAS)):
        raise DataError("unknown field", f"{where}:{unknown[0]}", "map it in fields or set unknown_fields: ignore")
    row_id = _row_id(row, source, names["id"], where)
    drop = {"scope": "row", "source": name, "source_row": row_id, "stage": "sources"}
    messages, problem = _messages(_get(row, names["prompt"], (str, list), where), names["prompt"], where, max_chars)
    if problem:
        return Parsed(drops=[{**drop, "reason": problem, "detail": snippet(row[names["prompt"]])}])
    split = _split(row, source, names["split"], where)
    prompt: Record = {
        "prompt_id": prompt_id(messages),
        "messages": messages,
        "source": name,
        "source_row": row_id,
        "source_split": split,
        "license": source.license,
    }
    parsed = Parsed(prompt)
    answers = _get(row, names["answers"], (list,), where)
    _require_count(row, answers, where)
    _answers(parsed, answers, row.get(names["ranks"]), names, where, max_chars, drop)
    if not parsed.candidates:
        ids = {"prompt_id": prompt["prompt_id"]}
        parsed.prompt = None
        parsed.drops.append({**drop, **ids, "reason": "no_candidate", "detail": f"{len(answers)} answers, none usable"})
    return parsed


def _row_id(row: Record, source: SourceSettings, name: str, where: str) -> str:
    if "id" not in source.fields:
        return hex_id(json.dumps(row, sort_keys=True, separators=(",", ":"), default=str))
    value = str(_get(row, name, (str, int), where))
    if not is_text(value):
        raise DataError(f"an id that cannot be stored: {snippet(value)}", f"{where}:{name}")
    return value


def _get(row: Record, name: str, kinds: tuple[type, ...], where: str) -> Any:
    if name not in row:
        raise DataError(
            f"missing (the row has {sorted(row)})",
            f"{where}:{name}",
            "map the field's name under fields: of the source",
        )
    value = row[name]
    if not isinstance(value, kinds) or isinstance(value, bool):
        expected = " or ".join(k.__name__ for k in kinds)
        raise DataError(f"{expected} expected, not {type(value).__name__}: {snippet(value)}", f"{where}:{name}")
    return value


def _split(row: Record, source: SourceSettings, name: str, where: str) -> str | None:
    if source.split is not None or ("split" not in source.fields and name not in row):
        return source.split
    value = _get(row, name, (str,), where)
    if value not in SPLITS:
        raise DataError(f"{snippet(value)} is none of {list(SPLITS)}", f"{where}:{name}")
    return str(value)


def _require_count(row: Record, answers: list[Any], where: str) -> None:
    for name in ("num_responses", "num_response"):
        if isinstance(row.get(name), int) and row[name] != len(answers):
            raise DataError(f"says {row[name]}, but there are {len(answers)} answers", f"{where}:{name}")


def _messages(value: Any, name: str, where: str, max_chars: int) -> tuple[list[dict[str, str]], str | None]:
    """(messages, None) or ([], reason of the drop)."""
    messages = _turns(value) if isinstance(value, str) else _listed(value, f"{where}:{name}")
    if messages is None:
        return [], "bad_dialogue"
    texts = [m["content"] for m in messages]
    if any(not is_text(t) for t in texts):
        return [], "bad_text"
    if sum(map(len, texts)) > max_chars:
        return [], "too_many_chars"
    if not texts or not texts[-1].strip():
        return [], "empty_prompt"
    return messages, None


def _listed(value: list[Any], where: str) -> list[dict[str, str]]:
    for i, m in enumerate(value):
        good = isinstance(m, dict) and m.get("role") in ROLES and isinstance(m.get("content"), str)
        if not good:
            raise DataError(f"message {i} is no {{role, content}} with a role of {ROLES}: {snippet(m)}", where)
    if value and value[-1]["role"] == "assistant":
        raise DataError("the last message is the assistant's", where, "end the prompt before the answer")
    return [{"role": m["role"], "content": m["content"]} for m in value]


def _turns(text: str) -> list[dict[str, str]] | None:
    """Messages of a Nectar prompt string; a text without markers is one user message; None where turns are broken."""
    if _MARK.search("\n\n" + text.lstrip("\n")) is None:
        return [{"role": "user", "content": text}]
    head, *pieces = _MARK.split("\n\n" + text.lstrip("\n"))
    roles = ["user" if r == "Human" else "assistant" for r in pieces[::2]]
    contents = [c.strip() for c in pieces[1::2]]
    alternating = roles == (["user", "assistant"] * len(roles))[: len(roles)]
    if head.strip() or not alternating or roles[-1] != "assistant" or contents[-1] or not all(contents[:-2]):
        return None
    return [{"role": r, "content": c} for r, c in zip(roles[:-1], contents[:-1], strict=True)]


def is_text(text: str) -> bool:
    """Whether the string can be stored: no lone surrogate."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _answers(
    parsed: Parsed,
    answers: list[Any],
    row_ranks: Any,
    names: dict[str, str],
    where: str,
    max_chars: int,
    drop: Record,
) -> None:
    assert parsed.prompt is not None
    seen: dict[tuple[str, str], int] = {}
    ranks: list[float | None] = []
    for number, answer in enumerate(answers):
        at = f"{where}:{names['answers']}[{number}]"
        if not isinstance(answer, dict):
            raise DataError(f"object expected, not {type(answer).__name__}: {snippet(answer)}", at)
        text, model = _get(answer, names["answer"], (str,), at), _get(answer, names["model"], (str,), at)
        rank = _rank(answer, model, row_ranks, names, at, where)
        ranks.append(rank)
        if not is_text(text) or not is_text(model) or len(text) > max_chars:
            reason = "bad_text" if not (is_text(text) and is_text(model)) else "too_many_chars"
            detail = f"answer {number}: {snippet(text)}"
            parsed.drops.append({**drop, "prompt_id": parsed.prompt["prompt_id"], "reason": reason, "detail": detail})
            continue
        sample = seen[model, text] = seen.get((model, text), -1) + 1
        _candidate(parsed, text, model, rank, sample, drop)
    if ranks == [None] and parsed.candidates:
        parsed.candidates[0]["source_rank"] = 1.0  # a lone demonstration is its source's first
    elif any(r is None for r in ranks) and not all(r is None for r in ranks):
        raise DataError("some answers have a rank and some have none", f"{where}:{names['answers']}")


def _candidate(parsed: Parsed, text: str, model: str, rank: float | None, sample: int, drop: Record) -> None:
    assert parsed.prompt is not None
    prompt = parsed.prompt["prompt_id"]
    ids = {"prompt_id": prompt, "candidate_id": candidate_id(prompt, text, "source", model, None, sample)}
    parsed.candidates.append(
        {
            **ids,
            "response": text,
            "origin": "source",
            "producer": model,
            "sample": sample,
            "finish": "stop",
            "source_rank": rank,
        }
    )
    reason = "empty_answer" if not text.strip() else "role_leakage" if _leaks(text) else None
    if reason:
        parsed.drops.append({**drop, **ids, "scope": "candidate", "reason": reason, "detail": snippet(text)})


def _leaks(text: str) -> bool:
    """Whether an answer goes on to play the human's next turn."""
    return "\n\nHuman:" in text


def _rank(answer: Record, model: str, row_ranks: Any, names: dict[str, str], at: str, where: str) -> float | None:
    if row_ranks is not None:
        if not isinstance(row_ranks, dict) or row_ranks.get(model) is None:
            raise DataError(f"no rank of {snippet(model)}: {snippet(row_ranks)}", f"{where}:{names['ranks']}")
        value, at = row_ranks[model], f"{where}:{names['ranks']}"
    elif names["rank"] not in answer:
        return None
    else:
        value, at = answer[names["rank"]], f"{at}.{names['rank']}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"a number expected, not {type(value).__name__}: {snippet(value)}", at)
    if not 1 <= value <= MAX_RANK:  # NaN too, and integers no float holds
        raise DataError(f"ranks are finite and >= 1, not {snippet(value)}", at, "correct the row; 1 is the best rank")
    return float(value)
