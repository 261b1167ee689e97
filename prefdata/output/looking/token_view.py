"""The tokens that a prompt's candidates are trained on: prompt, answer and end as THE tokenisation makes them."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from prefdata.errors import printable, snippet
from prefdata.models.chat import Refused
from prefdata.models.tokens import Encoder, columns_of
from prefdata.output.looking import pages
from prefdata.output.looking.opened import Row

Facts = dict[str, Any]
SPACES = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥"})
BROKEN = "\ufffd"


def facts(row: Row, candidates: Sequence[Row], encoder: Encoder) -> Facts:
    """The tokens of the row's prompt and of these candidates of it, in order; of what cannot be trained on, why."""
    prompt = encoder.prompts_or_refusals([columns_of(row)])[0]
    answers, lossy = encoder.answers(
        [columns_of(row)] * len(candidates),
        [c["response"] for c in candidates],
        [c["finish"] for c in candidates],
        [c["extras"] for c in candidates],
    )
    view = _View(encoder)
    made: list[Facts] = []
    for place, (candidate, ids) in enumerate(zip(candidates, answers, strict=True)):
        own: Facts = {"candidate_id": candidate["candidate_id"], "role": candidate["role"]}
        if isinstance(ids, Refused):
            made.append({**own, "refused": str(ids.what), "tokens": []})
            continue
        trained = candidate["role"] != "other" and not isinstance(prompt, Refused)
        ended = bool(ids) and ids[-1] == encoder.end_id and candidate["finish"] != "length"
        parts = ["answer"] * (len(ids) - ended) + ["end"] * ended
        if place in lossy:
            own["gives_back"] = lossy[place]
        made.append({**own, "tokens": view.tokens(ids, parts, trained)})
    if isinstance(prompt, Refused):
        return {"tokenizer": encoder.where, "refused": str(prompt.what), "prompt": [], "candidates": made}
    return {"tokenizer": encoder.where, "prompt": view.tokens(prompt, ["prompt"] * len(prompt), False), "candidates": made}


class _View:
    """How the tokens of one tokenizer look."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self._text = lru_cache(2**16)(self._of)

    def tokens(self, ids: Sequence[int], parts: Sequence[str], loss: bool) -> list[Facts]:
        before = [None, *ids]
        return [
            {"id": own, "text": self._text(before[k], own), "part": part, "loss": loss}
            for k, (own, part) in enumerate(zip(ids, parts, strict=True))
        ]

    def _of(self, before: int | None, own: int) -> str:
        """What a token adds to the text of the one before it: alone, many tokenizers do not show its leading space. A part of a
        character is the vocabulary's own text."""
        head = self.encoder.decode([before]) if before is not None else ""
        both = self.encoder.decode([before, own]) if before is not None else self.encoder.decode([own])
        text = both.removeprefix(head) if both.startswith(head) else ""
        return text if text and BROKEN not in text else str(self.encoder.tokenizer.convert_ids_to_tokens(own))


def shown(text: str) -> str:
    """A token's text with its white space visible."""
    return printable(text.translate(SPACES))


def render(found: Facts) -> list[Any]:
    """The page: a list of tokens, each with its id, for the prompt, each answer and its end."""
    page: list[Any] = ["", pages.line(f"tokens by {found['tokenizer']}: ‹text›id, ␣ space, ↵ newline, ⇥ tab", "bold")]
    if "refused" in found:
        page.append(pages.line(f"not trained on: {found['refused']}"))
    page += _part("prompt", found["prompt"])
    for number, candidate in enumerate(found["candidates"], 1):
        page.append(pages.line(f"{number}. {candidate['role']} {candidate['candidate_id']}", "bold"))
        if "refused" in candidate:
            page.append(pages.line(f"not trained on: {candidate['refused']}"))
        if "gives_back" in candidate:
            page.append(pages.line(f"these tokens do not give the answer back but {snippet(candidate['gives_back'], 200)}"))
        for part in ("answer", "end"):
            page += _part(part, [t for t in candidate["tokens"] if t["part"] == part])
    return page


def _part(name: str, tokens: Sequence[Facts]) -> list[Any]:
    from rich.text import Text

    if not tokens:
        return [pages.block(f"{name}: none")]
    loss = tokens[0]["loss"]
    said = "carry the loss" if loss else "no loss"
    listed = Text(" ").join(Text(f"‹{shown(t['text'])}›{t['id']}", style="green" if loss else "") for t in tokens)
    return [pages.block(f"{name}: {len(tokens)} tokens, {said}"), pages.Block(listed, 4)]
