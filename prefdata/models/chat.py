"""Conversations as text: what a tokenizer's chat template makes of them, and texts without a template.

A template is a program of the model's author. It is asked for the prompt (with its generation prompt) and for the whole
conversation, and both must agree: a prompt followed by an answer has to be a rendering of the conversation.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prefdata.draws import hex_id
from prefdata.errors import ConfigError, DataError, snippet
from prefdata.kinds import Message
from prefdata.tables.messages import as_json, texts_in

TEMPLATE_DATE = datetime(2026, 1, 1)
SPEAKERS = {"system": "System", "user": "Human", "assistant": "Assistant"}
"""Who speaks, where several messages are rendered without a template: the format of hh-rlhf and Nectar."""
SHOWN = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")
"""What an answer says beside its content: a template that leaves it out would have the model learn another answer."""

Extra = dict[str, Any]
"""What a template is given beside the messages: tools, and the prompt's own arguments."""
Render = Callable[[Sequence[Message], bool, Extra], str]
"""(messages, whether a generation prompt follows, arguments) -> text. Raises Refused."""


class Refused(DataError):
    """A conversation that a tokenizer cannot render; its row is left out and counted."""


def arguments(tools: str | None, kwargs: str | None) -> Extra:
    """What the template is given beside the messages."""
    return {"tools": json.loads(tools) if tools else None, **(json.loads(kwargs) if kwargs else {})}


def plain_text(messages: Sequence[Message], where: str) -> str:
    """One user message as it is; several as "Human: ...", "Assistant: ..." with empty lines between, ready for the answer.

    Raises Refused for what has no place in a text: tool results, tool calls.
    """
    for message in messages:
        if message["role"] not in SPEAKERS or any(message.get(key) for key in SHOWN):
            keys = [k for k in SHOWN if message.get(k)]
            what = f"template: plain has no place for a message of role {' with '.join([message['role'], *keys])}"
            raise Refused(what, where, "use a model with a chat template")
    if len(messages) == 1:
        return messages[0]["content"] or ""
    turns = [f"{SPEAKERS[m['role']]}: {m['content'] or ''}" for m in messages]
    return "\n\n".join([*turns, f"{SPEAKERS['assistant']}: "])


def renderer(tokenizer: Any, where: str) -> Render:
    """The tokenizer's chat template as a function. Templates that print the date get a fixed one."""

    def render(messages: Sequence[Message], generation: bool, extra: Extra) -> str:
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
class Around:
    """What a template writes around an answer in a whole conversation: after its prompt, and before the end token.

    Both are empty for most. `ignored`: the template has no generation prompt, so that `before` belongs to the prompt; else the
    model is to write it (an empty reasoning block, say), and it belongs to the answer.
    """

    before: str
    after: str
    ignored: bool


Kind = tuple[bool, bool]
"""Whether a conversation has a system text, and whether it has several turns."""


def kind_of(messages: Sequence[Message]) -> Kind:
    roles = [m["role"] for m in messages]
    return "system" in roles, roles.count("user") > 1 or "assistant" in roles


def around(render: Render, template: str, controls: re.Pattern[str], kind: Kind, extra: Extra, where: str) -> Around:
    """What stands around an answer in a whole conversation of that kind.

    Raises Refused where the conversation does not begin with its prompt.
    """
    system, first, second, mark = sentinels(4, [template])
    asked = [{"role": "system", "content": system}] if kind[0] else []
    asked += [{"role": "user", "content": first}]
    asked += [{"role": "assistant", "content": second}, {"role": "user", "content": second}] if kind[1] else []
    prompt, bare = (render(asked, g, extra) for g in (True, False))
    before, shown, after = render([*asked, {"role": "assistant", "content": mark}], False, extra).partition(mark)
    if not shown:
        raise Refused("the chat template does not show an answer as it is", where, "correct its chat_template")
    if not before.startswith(prompt):
        raise Refused(
            f"prompt and answer would be no rendering of the conversation: the chat template's prompt ends in "
            f"{snippet(prompt[-30:])}, the conversation has {snippet(before[-30:])} before the answer",
            where,
            "correct its chat_template, or leave such rows out",
        )
    end = controls.search(after)
    return Around(before[len(prompt) :], after[: end.start()] if end else "", prompt == bare)


def require_shown(render: Render, messages: Sequence[Message], extra: Extra, where: str) -> None:
    """Raise Refused where the template leaves out tools, a tool call, or the last answer's reasoning.

    Other names and texts in their place must change the rendering; templates that refuse those show what they look at.
    """
    if not any(m.get(key) for m in messages for key in SHOWN) and not extra.get("tools"):
        return
    text = render(messages, False, extra)

    def shown(others: Sequence[Message], changed: Extra) -> bool:
        if (others, changed) == (messages, extra):  # there is no name in it
            return True
        try:
            return text != render(others, False, changed)
        except Refused:
            return True

    if extra.get("tools") and not shown(messages, {**extra, "tools": _renamed(extra["tools"])}):
        raise Refused("the chat template does not show tools", where, "use a model that was made for tools")
    for place, message in enumerate(messages):
        last = place == len(messages) - 1  # templates leave out the reasoning of earlier answers on purpose
        for key in [k for k in (SHOWN if last else SHOWN[:2]) if message.get(k)]:
            other = {**message, key: _renamed(message[key])}
            if not shown([*messages[:place], other, *messages[place + 1 :]], extra):
                raise Refused(
                    f"the chat template does not show {key} of an answer", where, "correct the template, or leave the key out"
                )


def _renamed(value: Any) -> Any:
    """Names, or a text, as another one."""
    if isinstance(value, str):
        return f"x{hex_id('renamed', value)}x"
    if isinstance(value, Mapping):
        return {k: _renamed(v) if k == "name" or not isinstance(v, str) else v for k, v in value.items()}
    return [_renamed(v) for v in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Fenced:
    """Messages and template arguments in which text that looks like a control token stands as a mark for `texts`."""

    messages: list[Message]
    extra: Extra
    texts: dict[str, str]

    def pieces(self, rendered: str) -> list[tuple[str, bool]]:
        """(text, whether it is plain content) of a rendering, in order."""
        if not self.texts:
            return [(rendered, False)]
        parts = re.split(f"({'|'.join(self.texts)})", rendered)
        return [(self.texts.get(p, p), p in self.texts) for p in parts if p]

    def filled(self, rendered: str) -> str:
        """A rendering with the texts in place of their marks."""
        return "".join(text for text, _ in self.pieces(rendered))


def fence(render: Render, messages: Sequence[Message], extra: Extra, template: str, controls: re.Pattern[str]) -> Fenced:
    """Contents whole, and control texts in whatever else messages and arguments say, as marks; nothing where there are none.

    Where a template changes contents (as JSON, say), only the control texts in them are marked, and it changes the rest.
    """
    leaves = list(texts_in([list(messages), extra]))
    if not any(controls.search(leaf) for leaf in leaves):
        return Fenced(list(messages), extra, {})
    found = sorted({text for leaf in leaves for text in controls.findall(leaf)})
    marks = dict(zip(found, sentinels(len(found), [template, *leaves]), strict=True))

    def marked(value: Any) -> Any:
        if isinstance(value, str):
            return controls.sub(lambda hit: marks[hit[0]], value)
        if isinstance(value, Mapping):
            return {marked(k): marked(v) for k, v in value.items()}
        return [marked(v) for v in value] if isinstance(value, list) else value

    texts = {mark: text for text, mark in marks.items()}
    changed = Fenced(marked(list(messages)), marked(extra), texts)
    # a template that trims its contents then trims these too
    cores = [m["content"].strip() if isinstance(m["content"], str) else "" for m in messages]
    own = sentinels(len(messages), [template, *leaves, *texts])
    whole = [
        {**other, "content": m["content"].replace(core, mark, 1) if core else m["content"]}
        for m, other, core, mark in zip(messages, changed.messages, cores, own, strict=True)
    ]
    fenced = Fenced(whole, changed.extra, {**texts, **dict(zip(own, cores, strict=True))})
    escaped = Fenced(changed.messages, changed.extra, {mark: as_json(text)[1:-1] for mark, text in texts.items()})
    rendering = render(messages, False, extra)
    same = (f for f in (fenced, changed, escaped) if f.filled(render(f.messages, False, f.extra)) == rendering)
    return next(same, changed)


def sentinels(count: int, texts: Sequence[str]) -> list[str]:
    """Words that occur in none of the texts and that no template changes."""
    salt = 0
    while True:
        marks = [f"x{hex_id('sentinel', salt, i)}x" for i in range(count)]
        if not any(mark in text for mark in marks for text in texts):
            return marks
        salt += 1
