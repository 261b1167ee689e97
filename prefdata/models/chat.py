"""Conversations as text: what a tokenizer's chat template makes of them, and texts without a template.

A template is a program of the model's author. It is asked for the prompt (with its generation prompt) and for the whole
conversation, and both must agree: a prompt followed by an answer has to be a rendering of the conversation.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prefdata.draws import hex_id
from prefdata.errors import ConfigError, DataError, snippet
from prefdata.kinds import Message

TEMPLATE_DATE = datetime(2026, 1, 1)
SPEAKERS = {"system": "System", "user": "Human", "assistant": "Assistant"}
"""Who speaks, where several messages are rendered without a template: the format of hh-rlhf and Nectar."""
SHOWN = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")
"""What an answer says beside its content: a template that leaves it out would have the model learn another answer."""

Render = Callable[..., str]
"""(messages, generation, **template arguments) -> text. Raises Refused."""


class Refused(DataError):
    """A conversation that a tokenizer cannot render; its row is left out and counted."""


def plain_text(messages: Sequence[Message], where: str) -> str:
    """One message as it is; several as "Human: ...", "Assistant: ..." with empty lines between, ready for the answer.

    Raises Refused for what has no place in a text: tools, tool calls.
    """
    if len(messages) == 1 and not _more(messages[0]):
        return str(messages[0]["content"])
    for message in messages:
        if message["role"] not in SPEAKERS or any(message.get(key) for key in SHOWN):
            what = (
                f"template: plain has no place for a message of role {message['role']} with {_more(message) or 'its content'}"
            )
            raise Refused(what, where, "use a model with a chat template")
    turns = [f"{SPEAKERS[m['role']]}: {m['content']}" for m in messages]
    return "\n\n".join([*turns, f"{SPEAKERS['assistant']}: "])


def _more(message: Message) -> list[str]:
    return [k for k in message if k not in ("role", "content")]


def renderer(tokenizer: Any, where: str) -> Render:
    """The tokenizer's chat template as a function. Templates that print the date get a fixed one."""

    def render(messages: Sequence[Message], generation: bool, **extra: Any) -> str:
        if not isinstance(tokenizer.chat_template, str):
            raise ConfigError(
                "the tokenizer has no chat template",
                where,
                "set template: plain, under which several messages read Human: ... Assistant: ..., or give it a template",
            )
        try:
            text = tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=generation, **{"strftime_now": _fixed_date, **extra}
            )
        except Exception as error:  # whatever the template raises is its word
            roles = [m["role"] for m in messages]
            what = f"the chat template refuses a prompt with the roles {roles}: {error}"
            raise Refused(what, where, "correct the template, or leave such rows out") from error
        return str(text)

    return render


def _fixed_date(pattern: str) -> str:
    """The date that templates which print today's date get: results must not depend on the day they are made.

    A prompt's own template_kwargs (often `date_string`) go before it.
    """
    return TEMPLATE_DATE.strftime(pattern)


@dataclass(frozen=True)
class Header:
    """What a template writes before an answer and not at the end of its prompt. `ignored`: it has no generation prompt at
    all."""

    text: str
    ignored: bool


Kind = tuple[bool, bool]
"""Whether a conversation has a system text, and whether it has several turns."""


def kind_of(messages: Sequence[Message]) -> Kind:
    roles = [m["role"] for m in messages]
    return "system" in roles, roles.count("user") > 1 or "assistant" in roles


def header(render: Render, template: str, kind: Kind, where: str) -> Header:
    """The text between a prompt and its answer in a whole conversation of that kind; empty for most templates.

    Raises Refused where the conversation does not begin with its prompt.
    """
    system, first, second, mark = sentinels(4, [template])
    asked = [{"role": "system", "content": system}] if kind[0] else []
    asked += [{"role": "user", "content": first}]
    asked += [{"role": "assistant", "content": second}, {"role": "user", "content": second}] if kind[1] else []
    prompt, bare = (render(asked, generation=g) for g in (True, False))
    whole = render([*asked, {"role": "assistant", "content": mark}], generation=False)
    before = whole.partition(mark)[0]
    if mark not in whole or not before.startswith(prompt):
        raise Refused(
            f"prompt and answer would be no rendering of the conversation: the chat template's prompt ends in "
            f"{snippet(prompt[-30:])}, the conversation has {snippet(before[-30:])} before the answer",
            where,
            "correct its chat_template, or leave such rows out",
        )
    return Header(before[len(prompt) :], prompt == bare)


def require_shown(render: Render, messages: Sequence[Message], extra: Mapping[str, Any], where: str) -> None:
    """Raise Refused where the template leaves out tools, a tool call, or the last answer's reasoning."""
    if not any(key in m for m in messages for key in SHOWN) and not extra.get("tools"):
        return
    text = render(messages, generation=False, **extra)
    if extra.get("tools") and text == render(messages, generation=False, **{**extra, "tools": None}):
        raise Refused("the chat template does not show tools", where, "use a model that was made for tools")
    for place, message in enumerate(messages):
        last = place == len(messages) - 1  # templates leave out the reasoning of earlier answers on purpose
        for key in [k for k in (SHOWN if last else SHOWN[:2]) if message.get(k)]:
            without = {k: v for k, v in message.items() if k != key}
            if text == render([*messages[:place], without, *messages[place + 1 :]], generation=False, **extra):
                raise Refused(
                    f"the chat template does not show {key} of an answer", where, "correct the template, or leave the key out"
                )


@dataclass(frozen=True)
class Fenced:
    """Messages and template arguments in which text that looks like a control token stands as a mark for `texts`."""

    messages: list[Message]
    extra: dict[str, Any]
    texts: dict[str, str]

    def pieces(self, rendered: str) -> list[tuple[str, bool]]:
        """(text, whether it is plain content) of a rendering, in order."""
        if not self.texts:
            return [(rendered, False)]
        parts = re.split(f"({'|'.join(self.texts)})", rendered)
        return [(self.texts.get(p, p), p in self.texts) for p in parts if p]


def fence(messages: Sequence[Message], extra: dict[str, Any], template: str, controls: re.Pattern[str]) -> Fenced:
    """Contents whole, and control texts in whatever else messages and arguments say, as marks; nothing where there are none."""
    leaves = list(_leaves([list(messages), extra]))
    if not any(controls.search(leaf) for leaf in leaves):
        return Fenced(list(messages), extra, {})
    # a template that trims its contents then trims these too
    cores = [m["content"].strip() if isinstance(m["content"], str) else "" for m in messages]
    marks = sentinels(len(messages), [template, *leaves])
    texts = dict(zip(marks, cores, strict=True))
    found = sorted({text for leaf in leaves for text in controls.findall(leaf)})
    own = dict(zip(found, sentinels(len(found), [template, *leaves, *marks]), strict=True))

    def marked(value: Any) -> Any:
        if isinstance(value, str):
            return controls.sub(lambda hit: own[hit[0]], value)
        if isinstance(value, Mapping):
            return {k: marked(v) for k, v in value.items()}
        return [marked(v) for v in value] if isinstance(value, list) else value

    fenced = [
        {**marked({k: v for k, v in m.items() if k != "content"})} | {"content": _with_mark(m["content"], core, mark)}
        for m, core, mark in zip(messages, cores, marks, strict=True)
    ]
    return Fenced(fenced, marked(extra), {**texts, **{mark: text for text, mark in own.items()}})


def _with_mark(content: Any, core: str, mark: str) -> Any:
    return content.replace(core, mark, 1) if core else content


def _leaves(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _leaves(one)
    elif isinstance(value, list):
        for one in value:
            yield from _leaves(one)


def sentinels(count: int, texts: Sequence[str]) -> list[str]:
    """Words that occur in none of the texts and that no template changes."""
    salt = 0
    while True:
        marks = [f"x{hex_id('sentinel', salt, i)}x" for i in range(count)]
        if not any(mark in text for mark in marks for text in texts):
            return marks
        salt += 1
