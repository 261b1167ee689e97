"""THE tokenisation, for scoring, training and engines alike.

Prompt ids = the template rendered with add_generation_prompt and encoded once, without adding BOS again (plain: BOS
if the tokenizer has one + the text as it is). Completion ids = the response encoded without specials, control-token
text as plain text, never stripped, + the end id. What a template writes after the end id is not scored.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, cast

from prefdata.draws import hex_id
from prefdata.errors import ConfigError, DataError
from prefdata.kinds import End, Message, Template

PromptColumns = tuple[Sequence[Message], str | None, str | None]
"""A prompt: messages, and its JSON columns tools and template_kwargs."""
TEMPLATE_DATE = datetime(2026, 1, 1)


@dataclass(frozen=True)
class Encoder:
    """A tokenizer with how prompts are rendered and how completions end."""

    tokenizer: Any
    template: Template = "chat"
    end: End = "eos"
    where: str = "tokenizer"

    @cached_property
    def control_ids(self) -> frozenset[int]:
        """Ids of special tokens, named or only added, which never stand inside a content span."""
        added = {int(i) for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return frozenset(added | {int(i) for i in self.tokenizer.all_special_ids})

    @cached_property
    def _controls(self) -> re.Pattern[str]:
        """The texts of special and added tokens; without any, a pattern that nothing matches."""
        added = self.tokenizer.added_tokens_decoder.values()
        texts = {str(t) for t in self.tokenizer.all_special_tokens} | {str(t.content) for t in added}
        return re.compile("|".join(sorted(map(re.escape, texts))) or r"(?!)")

    @cached_property
    def _special(self) -> Any:
        """The backend that reads control-token text as control tokens; a copy, so that no other user's padding, length
        limit or treatment of specials reaches ours."""
        return self._copy(encode_special_tokens=False)

    @cached_property
    def _plain(self) -> Any:
        """The backend to which every text is plain."""
        return self._copy(encode_special_tokens=True)

    def _copy(self, encode_special_tokens: bool) -> Any:
        from tokenizers import Tokenizer

        backend = Tokenizer.from_str(self.tokenizer.backend_tokenizer.to_str())
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = encode_special_tokens
        return backend

    @cached_property
    def end_id(self) -> int | None:
        """The id that ends a completion: what the template writes first after an answer; plain: eos; none: None.

        Raises ConfigError where end = eos and there is none.
        """
        if self.end == "none":
            return None
        if self.template == "plain":
            if self.tokenizer.eos_token_id is None:
                raise ConfigError("the tokenizer has no eos token", self.where, "set end: none")
            return int(self.tokenizer.eos_token_id)
        mark = _sentinels(1, [self._chat_template])[0]
        turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": mark}]
        tail = self._render(turns, generation=False).rpartition(mark)[2]
        for token in self._with_specials(tail):
            if token in self.control_ids:
                return token
        raise ConfigError("the chat template writes no special token after an answer", self.where, "set end: none")

    def require_sound(self) -> None:
        """Raise ConfigError, naming the tokenizer, where no prompt could be rendered as models expect it."""
        _ = self.end_id
        if self.template == "plain":
            return
        user, mark = _sentinels(2, [self._chat_template])
        asked = [{"role": "user", "content": user}]
        prompt = self._with_specials(self._render(asked, generation=True))
        bos = self.tokenizer.bos_token_id
        if bos is not None and prompt.count(int(bos)) > 1 and prompt[:2] == [bos, bos]:
            raise ConfigError("the chat template writes the bos token twice", self.where, "correct its chat_template")
        generated, bare = (self._render(asked, generation=g) for g in (True, False))
        header = generated.removeprefix(bare) if generated.startswith(bare) else ""
        if self.end_id in self._with_specials(header):
            raise ConfigError(
                "the chat template's generation prompt contains the end token", self.where, "correct its chat_template"
            )
        whole = self._render([*asked, {"role": "assistant", "content": mark}], generation=False)
        inside = whole.removeprefix(self._render(asked, generation=True)).partition(mark)[0]
        if inside != whole.partition(mark)[0] and self.end_id in self._with_specials(inside):
            raise ConfigError(
                "the chat template writes the end token before an answer", self.where, "correct its chat_template"
            )

    @property
    def _chat_template(self) -> str:
        if not isinstance(self.tokenizer.chat_template, str):
            raise ConfigError("the tokenizer has no chat template", self.where, "set template: plain")
        return self.tokenizer.chat_template

    def prompt(self, messages: Sequence[Message], tools: str | None = None, kwargs: str | None = None) -> list[int]:
        """Ids of a prompt, ready for an answer. `tools` and `kwargs` are the prompt's JSON columns."""
        return self.prompts([(messages, tools, kwargs)])[0]

    def prompts(self, prompts: Sequence[PromptColumns]) -> list[list[int]]:
        """`prompt` of each (messages, tools, kwargs), encoded together."""
        if self.template == "plain":
            bos = [] if self.tokenizer.bos_token_id is None else [int(self.tokenizer.bos_token_id)]
            return [bos + ids for ids in self.contents(["".join(m["content"] for m in messages) for messages, _, _ in prompts])]
        extras = [
            {"tools": json.loads(tools) if tools else None, **(json.loads(kwargs) if kwargs else {})}
            for _, tools, kwargs in prompts
        ]
        fenced = {
            i: self._fenced(messages, extra)
            for i, ((messages, _, _), extra) in enumerate(zip(prompts, extras, strict=True))
            if any(self._controls.search(m["content"]) for m in messages)
        }
        open_ = [i for i in range(len(prompts)) if i not in fenced]
        texts = [self._render(prompts[i][0], generation=True, **extras[i]) for i in open_]
        encoded = dict(zip(open_, _encode(self._special, texts), strict=True))
        return [fenced[i] if i in fenced else encoded[i] for i in range(len(prompts))]

    def _fenced(self, messages: Sequence[Message], extra: dict[str, Any]) -> list[int]:
        """Template pieces encoded with specials, contents without: control-token text in a content stays text."""
        contents = [m["content"] for m in messages]
        marks = _sentinels(len(messages), [self._chat_template, *contents])
        cores = [c.strip() for c in contents]  # a template that trims its contents then trims these too
        fenced = [
            {**m, "content": m["content"].replace(core, mark, 1) if core else m["content"]}
            for m, core, mark in zip(messages, cores, marks, strict=True)
        ]
        texts, ids = dict(zip(marks, cores, strict=True)), list[int]()
        # wherever and however often the template puts a content, each sentinel becomes that content's plain ids
        for piece in re.split(f"({'|'.join(marks)})", self._render(fenced, generation=True, **extra)):
            ids += self._content(texts[piece]) if piece in texts else self._with_specials(piece)
        return ids

    def _render(self, messages: Sequence[Message], generation: bool, **extra: Any) -> str:
        _ = self._chat_template
        try:
            text = self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=generation, **{"strftime_now": _fixed_date, **extra}
            )
        except Exception as error:  # a template is a program of the model's author: whatever it raises is its word
            roles = [m["role"] for m in messages]
            raise DataError(
                f"the chat template refuses a prompt with the roles {roles}: {error}",
                self.where,
                "set template: plain, or drop it",
            ) from error
        return cast(str, text)

    def _with_specials(self, text: str) -> list[int]:
        return _encode(self._special, [text])[0]

    def _content(self, text: str) -> list[int]:
        return self.contents([text])[0]

    def contents(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of plain texts: no special token, whatever the texts say. Batched."""
        return _encode(self._plain, texts)

    def completions(self, responses: Sequence[str], finishes: Sequence[str]) -> list[list[int]]:
        """Ids of answers; an answer cut by the length limit (finish = length) gets no end id."""
        return self.ended(self.contents(responses), finishes)

    def ended(self, contents: Sequence[list[int]], finishes: Sequence[str]) -> list[list[int]]:
        """The ids of answers with the end id, where they ended by themselves."""
        if self.end_id is None:
            return list(contents)
        return [i if f == "length" else [*i, self.end_id] for i, f in zip(contents, finishes, strict=True)]

    def unfaithful(self, contents: Sequence[list[int]], responses: Sequence[str]) -> dict[int, str]:
        """Places of the answers that their own ids do not give back, with what they give instead."""
        texts = self._plain.decode_batch(list(contents), skip_special_tokens=False)
        return {k: text for k, (text, given) in enumerate(zip(texts, responses, strict=True)) if text != given}

    def decode(self, ids: Sequence[int]) -> str:
        """The text of completion ids without their end id."""
        return cast(str, self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _encode(backend: Any, texts: Sequence[str]) -> list[list[int]]:
    """Ids of texts as they are: no token added, nothing padded or cut."""
    return [e.ids for e in backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def _fixed_date(pattern: str) -> str:
    """The date that templates which print today's date get: results must not depend on the day they are made.

    A prompt's own template_kwargs (often `date_string`) go before it.
    """
    return TEMPLATE_DATE.strftime(pattern)


def _sentinels(count: int, texts: Sequence[str]) -> list[str]:
    """Words that occur in none of the texts and that no template changes."""
    salt = 0
    while True:
        marks = [f"x{hex_id('sentinel', salt, i)}x" for i in range(count)]
        if not any(mark in text for mark in marks for text in texts):
            return marks
        salt += 1


def load_encoder(path: str, revision: str | None = None, template: Template = "chat", end: End = "eos") -> Encoder:
    """The encoder of a model folder or Hub id. Raises ConfigError where it cannot serve, before any work is done."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no tokenizer ({str(error).splitlines()[0]})", path, "correct the model's path or id") from error
    if not tokenizer.is_fast:
        raise ConfigError("only fast tokenizers (tokenizer.json) are supported", path, "convert the tokenizer")
    encoder = Encoder(tokenizer, template, end, path)
    encoder.require_sound()
    return encoder
