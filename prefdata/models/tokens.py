"""THE tokenisation, for scoring, training and engines alike.

Prompt ids = the template rendered with add_generation_prompt and encoded once, without adding BOS again; plain: BOS if the
tokenizer has one + the text as it is (several messages: with who speaks, prefdata/models/chat.py); rendered: the text as it is,
control tokens read as such. Completion ids = the response encoded without specials, control-token text as plain text, never
stripped, + the end id; of an answer that says more than a text (tool calls, reasoning) the template's rendering with it minus
the rendering without it. What a template writes after the end id is not scored.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from prefdata.draws import hex_id
from prefdata.errors import ConfigError
from prefdata.kinds import End, Message, Template
from prefdata.models import chat
from prefdata.models.answers import answer_ids
from prefdata.models.chat import Refused
from prefdata.tables.messages import prompt_of

PromptColumns = tuple[Sequence[Message], str | None, str | None]
"""A prompt: messages with all they say, and its JSON columns tools and template_kwargs."""


def columns_of(row: Mapping[str, Any]) -> PromptColumns:
    """The prompt of a row of `prompts` or `sets`."""
    return prompt_of(row), row["tools"], row["template_kwargs"]


@dataclass(frozen=True)
class Encoder:
    """A tokenizer with how prompts are rendered and how completions end."""

    tokenizer: Any
    template: Template = "chat"
    end: End = "eos"
    where: str = "tokenizer"

    @cached_property
    def identity(self) -> str:
        """What identifies the tokenizer: how it reads text, and its chat template."""
        reading = json.dumps(json.loads(self._plain.to_str()), sort_keys=True)
        return hex_id("tokenizer", reading, str(getattr(self.tokenizer, "chat_template", None)))

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
        if self.template != "chat":
            if self.tokenizer.eos_token_id is None:
                raise ConfigError("the tokenizer has no eos token", self.where, "set end: none")
            return int(self.tokenizer.eos_token_id)
        if (found := self.template_end) is not None:
            return found
        raise ConfigError("the chat template writes no special token after an answer", self.where, "set end: none")

    @cached_property
    def template_end(self) -> int | None:
        """The first control id that the chat template writes after an answer."""
        mark = chat.sentinels(1, [str(self.tokenizer.chat_template)])[0]
        turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": mark}]
        tail = self.render(turns, False, {}).rpartition(mark)[2]
        return next((i for i in self.with_specials(tail) if i in self.control_ids), None)

    @cached_property
    def render(self) -> chat.Render:
        return chat.renderer(self.tokenizer, self.where)

    @cached_property
    def _known(self) -> dict[tuple[chat.Kind, str | None], chat.Around | Refused]:
        return {}

    def around(self, messages: Sequence[Message], kwargs: str | None) -> chat.Around:
        """What stands around an answer, found once a kind of conversation and template arguments. Raises Refused."""
        key = (chat.kind_of(messages), kwargs)
        if key not in self._known:
            try:
                made = chat.around(
                    self.render,
                    str(self.tokenizer.chat_template),
                    self._controls,
                    key[0],
                    chat.arguments(None, kwargs),
                    self.where,
                )
                self._known[key] = made
            except Refused as refused:
                self._known[key] = refused
        found = self._known[key]
        if isinstance(found, Refused):
            raise found
        return found

    def require_sound(self) -> None:
        """Raise ConfigError or Refused, naming the tokenizer, where no prompt could be rendered as models expect it."""
        _ = self.end_id
        if self.template != "chat":
            return
        user, mark = chat.sentinels(2, [str(self.tokenizer.chat_template)])
        asked = [{"role": "user", "content": user}]
        prompt = self.with_specials(self.render(asked, True, {}))
        bos = self.tokenizer.bos_token_id
        if bos is not None and prompt.count(int(bos)) > 1 and prompt[:2] == [bos, bos]:
            raise ConfigError("the chat template writes the bos token twice", self.where, "correct its chat_template")
        generated, bare = (self.render(asked, g, {}) for g in (True, False))
        header = generated.removeprefix(bare) if generated.startswith(bare) else ""
        if self.end_id in self.with_specials(header):
            raise ConfigError(
                "the chat template's generation prompt contains the end token", self.where, "correct its chat_template"
            )
        whole = self.render([*asked, {"role": "assistant", "content": mark}], False, {})
        inside = whole.removeprefix(generated).partition(mark)[0]
        if inside != whole.partition(mark)[0] and self.end_id in self.with_specials(inside):
            raise ConfigError(
                "the chat template writes the end token before an answer", self.where, "correct its chat_template"
            )
        self.around(asked, None)

    def prompt(self, messages: Sequence[Message], tools: str | None = None, kwargs: str | None = None) -> list[int]:
        """Ids of a prompt, ready for an answer. `tools` and `kwargs` are the prompt's JSON columns. Raises Refused."""
        return self.prompts([(messages, tools, kwargs)])[0]

    def prompts(self, prompts: Sequence[PromptColumns]) -> list[list[int]]:
        """`prompt` of each (messages, tools, kwargs), encoded together. Raises Refused."""
        made = []
        for ids in self.prompts_or_refusals(prompts):
            if isinstance(ids, Refused):
                raise ids
            made.append(ids)
        return made

    def prompts_or_refusals(self, prompts: Sequence[PromptColumns], generation: bool = False) -> list[list[int] | Refused]:
        """The ids of each prompt, or why the template cannot render it.

        `generation`: a model is to answer it, and gets what its template gives; else an answer will follow, and a prompt that
        no conversation begins with is refused.
        """
        made: list[list[int] | Refused | None] = [None] * len(prompts)
        pieces: list[tuple[int, str, bool]] = []
        for place, prompt in enumerate(prompts):
            try:
                pieces += [(place, text, plain) for text, plain in self._prompt_pieces(prompt, generation)]
            except Refused as refused:
                made[place] = refused
        ids: dict[int, list[int]] = {i: self._bos() for i, m in enumerate(made) if m is None}
        for place, encoded in self.encoded(pieces):
            ids[place] += encoded
        return [ids[i] if m is None else m for i, m in enumerate(made)]

    def _bos(self) -> list[int]:
        bos = self.tokenizer.bos_token_id
        return [int(bos)] if self.template == "plain" and bos is not None else []

    def encoded(self, pieces: Sequence[tuple[int, str, bool]]) -> list[tuple[int, list[int]]]:
        """(place, ids) of (place, text, whether it is plain content), in order; two batches."""
        made: dict[int, list[int]] = {}
        for plain, backend in ((True, self._plain), (False, self._special)):
            own = [i for i, piece in enumerate(pieces) if piece[2] is plain]
            made |= dict(zip(own, _encode(backend, [pieces[i][1] for i in own]), strict=True))
        return [(pieces[i][0], made[i]) for i in range(len(pieces))]

    def _prompt_pieces(self, prompt: PromptColumns, generation: bool) -> list[tuple[str, bool]]:
        messages, tools, kwargs = prompt
        if self.template == "plain":
            if tools:
                raise Refused("template: plain has no place for tools", self.where, "use a model with a chat template")
            return [(chat.plain_text(messages, self.where), True)]
        if self.template == "rendered":
            if len(messages) != 1:
                what = f"template: rendered needs one text, not {len(messages)} messages"
                raise Refused(what, self.where, "set template: chat")
            return [(messages[0]["content"] or "", False)]
        fenced = self.fence(messages, tools, kwargs)
        chat.require_shown(self.render, messages, chat.arguments(tools, kwargs), self.where)
        return fenced.pieces(self.prompt_text(fenced, len(messages), kwargs, generation))

    def fence(self, messages: Sequence[Message], tools: str | None, kwargs: str | None) -> chat.Fenced:
        """Control-token text in a content or an argument stays text."""
        extra, template = chat.arguments(tools, kwargs), str(self.tokenizer.chat_template)
        return chat.fence(self.render, messages, extra, template, self._controls)

    def prompt_text(self, fenced: chat.Fenced, messages: int, kwargs: str | None, generation: bool) -> str:
        """The first `messages` messages, before an answer."""
        asked = fenced.messages[:messages]
        text = self.render(asked, True, fenced.extra)
        try:
            around = self.around(asked, kwargs)
        except Refused:
            if generation:
                return text
            raise
        return text + around.before if around.ignored else text

    def answers(
        self,
        prompts: Sequence[PromptColumns],
        responses: Sequence[str],
        finishes: Sequence[str],
        extras: Sequence[str | None],
    ) -> tuple[list[list[int] | Refused], dict[int, str]]:
        """(ids of each answer or why it cannot be rendered; by place the answers that their ids do not give back, and what they
        give). `prompts` has the prompt of each answer, `extras` what an answer says beside its text, as JSON."""
        return answer_ids(self, prompts, responses, finishes, extras)

    def with_specials(self, text: str) -> list[int]:
        return _encode(self._special, [text])[0]

    def contents(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of plain texts: no special token, whatever the texts say. Batched."""
        return _encode(self._plain, texts)

    def completions(self, responses: Sequence[str], finishes: Sequence[str]) -> list[list[int]]:
        """Ids of texts as answers, without what a chat template writes around one (`answers` has it); an answer cut by the
        length limit (finish = length) gets no end id."""
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


def require_rows(encoder: Encoder, model: Any) -> None:
    """Raise ConfigError where the tokenizer has ids that the model's embedding has no row for."""
    largest = max(encoder.tokenizer.get_vocab().values(), default=-1)
    rows = int(model.get_input_embeddings().weight.shape[0])
    if largest >= rows:
        raise ConfigError(
            f"the tokenizer's largest id is {largest}, the model's embedding has {rows} rows",
            encoder.where,
            "use the model's own tokenizer, or model.resize_token_embeddings(len(tokenizer)) and save it",
        )


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
