"""Rubrics: how a language model is asked to compare two answers. Files with named slots and no logic (rubrics/*.yaml).

Slots are filled in one pass, so no text of a prompt or an answer is ever read as a template, and each stands between fence
lines with a number that the text cannot hold: it is a hash of that very text.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from prefdata.draws import hex_id
from prefdata.errors import ConfigError
from prefdata.kinds import Message
from prefdata.recipe.read import explain, read_yaml
from prefdata.shipped import shipped
from prefdata.tables.messages import as_text, prompt_of

SLOT = re.compile(r"\{(prompt|first|second|answer|ask|nonce)\}")
Place = Literal["first", "second", "tie"]
Mode = Literal["labels", "text"]


class Fence(BaseModel, frozen=True, extra="forbid"):
    """The lines around a text; {name} is what it is, {nonce} the number."""

    open: str
    close: str

    @model_validator(mode="after")
    def _numbered(self) -> "Fence":
        if "{nonce}" not in self.open or "{nonce}" not in self.close:
            raise ValueError(
                "fence.open and fence.close must both contain {nonce}: without it an answer could forge the closing line"
            )
        return self


class Rubric(BaseModel, frozen=True, extra="forbid"):
    """One file. `labels` are what the judge says for each place; without tie, a tie is equal log-probs."""

    system: str = ""
    user: str
    ask: dict[Mode, str]
    labels: dict[Place, str]
    verdict: str = Field(pattern=r"\{label\}")
    fence: Fence | None = None

    @model_validator(mode="after")
    def _whole(self) -> "Rubric":
        if not {"first", "second"} <= self.labels.keys() or len(set(self.labels.values())) < len(self.labels):
            raise ValueError("labels: first and second (and tie, if there is one) must differ")
        if lacking := [s for s in ("{prompt}", "{first}", "{second}") if s not in self.user]:
            raise ValueError(f"user: the slot {lacking[0]} is missing")
        return self

    @property
    def hash(self) -> str:
        """Of its content: another wording is another judge."""
        return hex_id("rubric", self.model_dump_json())

    def messages(self, prompt: Mapping[str, Any], first: str, second: str, mode: Mode) -> tuple[Message, ...]:
        """One comparison, as chat messages."""
        texts = {
            "prompt": conversation(prompt_of(prompt), prompt.get("tools")),
            "first": first,
            "second": second,
            "answer": prompt["answer"] or "",
        }
        nonce = hex_id("fence", *texts.values())
        filled = {k: self._fenced(k, v, nonce) for k, v in texts.items()} | {"ask": self.ask.get(mode, ""), "nonce": nonce}
        made = [("system", self.system), ("user", self.user)]
        return tuple({"role": r, "content": SLOT.sub(lambda slot: filled[slot[1]], text)} for r, text in made if text)

    def _fenced(self, name: str, text: str, nonce: str) -> str:
        if self.fence is None:
            return text
        lines = [line.replace("{name}", name).replace("{nonce}", nonce) for line in (self.fence.open, self.fence.close)]
        return f"{lines[0]}\n{text}\n{lines[1]}"

    def place(self, text: str) -> Place | None:
        """The verdict of a reply: its last line, less Markdown's marks and a full stop. It must be a verdict and nothing else,
        and the only one of its kind that has a line of its own; or a sentence that ends in one, where the reply holds no other.
        Anything else is None."""
        verdicts = {self.verdict.replace("{label}", label): place for place, label in self.labels.items()}
        lines = [line.strip() for line in text.rstrip().splitlines()]
        lines = [line if line in verdicts else _bare(line) for line in lines]
        last = lines[-1] if lines else ""
        if last in verdicts:
            return verdicts[last] if len({line for line in lines if line in verdicts}) == 1 else None
        inside = [v for v in verdicts if v in text and not v.isalnum()]  # a bare A would be found in every word
        return verdicts[inside[0]] if len(inside) == 1 and last.endswith(inside[0]) else None


def _bare(line: str) -> str:
    """A line without Markdown's marks around it and the full stop at its end."""
    return line.strip().strip("*_`#> ").removesuffix(".").strip("*_`#> ")


def conversation(messages: Sequence[Message], tools: str | None = None) -> str:
    """A prompt as text: a lone user message as it is, several with their roles; tool calls and tools as JSON."""
    texts = [as_text(m) for m in messages]
    if len(messages) == 1 and not tools:
        return texts[0]
    turns = [f"{m['role']}: {text}" for m, text in zip(messages, texts, strict=True)]
    return "\n\n".join([*([f"tools: {tools}"] if tools else []), *turns])


@lru_cache
def load(name: str) -> Rubric:
    """A rubric of ours by name, or of a file. Raises ConfigError."""
    ours = {p.stem: p for p in shipped("rubrics").glob("*.yaml")}
    path = ours.get(name, Path(name).expanduser())
    if not path.is_file():
        raise ConfigError(
            f"no rubric {name!r}", "judge.rubric", f"give the path of a file, or one of {', '.join(sorted(ours))}"
        )
    try:
        return Rubric.model_validate(read_yaml(path))
    except ValidationError as error:
        raise ConfigError(explain(error, Rubric, str(path))) from error
