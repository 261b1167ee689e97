"""The ids of answers: a text, or what the template makes of an answer that says more than one (tool calls, reasoning)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prefdata.models import chat
from prefdata.models.chat import Refused
from prefdata.tables.messages import answer

if TYPE_CHECKING:
    from prefdata.models.tokens import Encoder, PromptColumns


def answer_ids(
    encoder: "Encoder",
    prompts: Sequence["PromptColumns"],
    responses: Sequence[str],
    finishes: Sequence[str],
    extras: Sequence[str | None],
) -> tuple[list[list[int] | Refused], dict[int, str]]:
    """(ids of each answer or why it cannot be rendered; by place the answers that their ids do not give back, and what they
    give). `prompts` has the prompt of each answer, `extras` what an answer says beside its text, as JSON."""
    texts = [_without_end(encoder, r) for r in responses] if encoder.template == "rendered" else list(responses)
    contents = encoder.contents(texts)
    lossy = encoder.unfaithful(contents, texts)
    ids: list[list[int] | Refused] = []
    for place, more in enumerate(extras):
        try:
            if more is None:
                ids.append(_ended(encoder, prompts[place], contents[place], finishes[place]))
                continue
            lossy.pop(place, None)
            made, wrong = _structured(encoder, prompts[place], responses[place], finishes[place], more)
            ids.append(made)
            lossy |= {place: wrong} if wrong is not None else {}
        except Refused as refused:
            ids.append(refused)
    return ids, lossy


def _ended(encoder: "Encoder", prompt: "PromptColumns", content: list[int], finish: str) -> list[int]:
    """An answer's ids with what the template writes around it, and the end id where it ended by itself."""
    (made,) = encoder.ended([content], [finish])
    if encoder.template != "chat":
        return made
    around = encoder.around(prompt[0], prompt[2])
    before = [] if around.ignored or not around.before else encoder.with_specials(around.before)
    if around.after and len(made) > len(content):
        made = [*content, *encoder.with_specials(around.after), made[-1]]
    return [*before, *made]


def _without_end(encoder: "Encoder", text: str) -> str:
    """A rendered answer without the end token's own text, whose id is added."""
    return text if encoder.end_id is None else text.removesuffix(str(encoder.tokenizer.convert_ids_to_tokens(encoder.end_id)))


def _structured(
    encoder: "Encoder", prompt: "PromptColumns", response: str, finish: str, extras: str
) -> tuple[list[int], str | None]:
    """(ids, what they give back where it is not what was rendered): the conversation's rendering minus the prompt's."""
    said = answer(response, extras)
    keys = sorted(k for k in said if k not in ("role", "content"))
    if encoder.template != "chat":
        raise Refused(f"template: {encoder.template} has no place for {', '.join(keys)} of an answer", encoder.where)
    chat.require_shown(encoder.render, [*prompt[0], said], chat.arguments(*prompt[1:]), encoder.where)
    fenced = encoder.fence([*prompt[0], said], *prompt[1:])
    before = encoder.prompt_text(fenced, len(prompt[0]), prompt[2], generation=False)
    whole = encoder.render(fenced.messages, False, fenced.extra)
    if not whole.startswith(before):
        raise Refused(
            f"the chat template's rendering with {', '.join(keys)} of the answer does not begin with its prompt", encoder.where
        )
    pieces = fenced.pieces(whole[len(before) :])
    ids = [i for _, encoded in encoder.encoded([(0, text, plain) for text, plain in pieces]) for i in encoded]
    text, given = "".join(text for text, _ in pieces), encoder.decode(ids)
    return _cut(encoder, ids, response, finish), None if given == text else given


def _cut(encoder: "Encoder", ids: list[int], response: str, finish: str) -> list[int]:
    """Ids up to the first end that the whole response stands before; the end stays where the answer ended by itself."""
    controls = [k for k, i in enumerate(ids) if i in encoder.control_ids]
    ends = [k for k in controls if ids[k] == encoder.template_end] or controls[-1:]
    if not ends:
        raise Refused("the chat template does not end such an answer", encoder.where, "correct its chat_template")
    place = next((k for k in ends if response.strip() in encoder.decode(ids[:k])), ends[0])
    return ids[: place + 1] if encoder.end_id is not None and finish != "length" else ids[:place]
