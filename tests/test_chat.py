"""Conversations as token ids: what a template shows, what it cannot serve, and texts without a template.

The oracle is the tokenizer itself: its own apply_chat_template, encode and decode.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers, processors

from prefdata.errors import DataError
from prefdata.models.chat import Refused
from prefdata.models.tokens import Encoder, load_encoder
from prefdata.tables.messages import answer, joined, split, split_answer

Messages = list[dict[str, Any]]

TURNS = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% if m['role'] == 'assistant' %}<eos>\n{% endif %}{% endfor %}"
)
HEADER = "{% if add_generation_prompt %}<assistant>{% endif %}"
BASE = "<bos>" + TURNS + HEADER
TOOLS = "{% if tools %}<tools>{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}"
CALLS = "{% for c in m['tool_calls'] or [] %}<call>{{ c['function'] | tojson }}{% endfor %}"
WHOLE_TURNS = (
    "{% for m in messages %}<{{ m['role'] }}>{% if m['name'] %}{{ m['name'] }}: {% endif %}"
    "{% if m['reasoning_content'] %}({{ m['reasoning_content'] }}){% endif %}"
    "{{ m['content'] or '' }}" + CALLS + "{% if m['role'] == 'assistant' %}<eos>\n{% endif %}{% endfor %}"
)
SHOWING = "<bos>" + TOOLS + "{{ mood }}" + WHOLE_TURNS + HEADER
"""Shows tools, names, reasoning, calls and the argument `mood`."""
THINKING = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<assistant>"
    "{% if loop.last %}<think>\n{{ m['reasoning_content'] or '' }}\n</think>\n\n{% endif %}{{ m['content'] or '' }}"
    + CALLS
    + "<eos>\n{% else %}<{{ m['role'] }}>{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""Like Qwen3's: an empty think block before an answer without reasoning, and in the prompt where thinking is turned off."""
EMPTY_THINK = "<think>\n\n</think>\n\n"

CONTROLS = ["<bos>", "<eos>", "<user>", "<assistant>", "<system>", "<tool>", "<tools>", "<call>", '<|"|>']
USER: Messages = [{"role": "user", "content": "Sba"}]
LONGER: Messages = [*USER, {"role": "assistant", "content": "ab"}, {"role": "user", "content": " \né 12 "}]
CONVERSATIONS = [USER, LONGER, [{"role": "system", "content": "S"}, *USER], [{"role": "system", "content": "S"}, *LONGER]]
CALL: dict[str, Any] = {"type": "function", "function": {"name": "f", "arguments": {"z": 1, "a": ["x", None]}}}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f", "description": "D", "parameters": {"type": "object"}}}
CALLED: Messages = [*USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "7"}]


def _encoder(folder: Path, chat_template: str | None = None, name: str = "small", **keys: Any) -> Encoder:
    """A toy tokenizer with more special tokens and another template, if one is given."""
    tokenizer = load_encoder(str(folder / name)).tokenizer
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in CONTROLS if name == "small"])
    tokenizer.chat_template = chat_template or tokenizer.chat_template
    return Encoder(tokenizer, **keys)


@pytest.fixture(scope="module")
def showing(toy_tokenizers: Path) -> Encoder:
    return _encoder(toy_tokenizers, SHOWING)


def _text(encoder: Encoder, messages: Messages, generation: bool = False, **given: Any) -> str:
    """The template's own rendering."""
    made = encoder.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation, **given)
    return str(made)


def _ids(encoder: Encoder, messages: Messages, **given: Any) -> list[int]:
    """The template's own prompt ids."""
    return list(encoder.tokenizer.apply_chat_template(messages, add_generation_prompt=True, **given)["input_ids"])


def _ended(text: str, end: str = "<eos>") -> str:
    """A rendering up to its last end token."""
    return text[: text.rindex(end) + len(end)]


def _said(
    encoder: Encoder,
    asked: Messages,
    response: str,
    extras: str | None = None,
    finish: str = "stop",
    tools: str | None = None,
    kwargs: str | None = None,
) -> list[int] | Refused:
    """The ids of one answer, which its ids give back."""
    (ids,), lossy = encoder.answers([(asked, tools, kwargs)], [response], [finish], [extras])
    assert lossy == {}
    return ids


def _spoken(encoder: Encoder, asked: Messages, response: str, extras: str | None = None, **given: Any) -> str:
    """Prompt and answer, decoded together."""
    said = _said(encoder, asked, response, extras, **given)
    assert not isinstance(said, Refused), said
    return str(encoder.tokenizer.decode(encoder.prompts([(asked, given.get("tools"), given.get("kwargs"))])[0] + said))


def _controls(encoder: Encoder, ids: list[int]) -> list[str]:
    """The control tokens among ids, sorted."""
    return sorted(t for t in encoder.tokenizer.convert_ids_to_tokens(ids) if t in CONTROLS)


# 1. prompts and ordinary answers


@pytest.mark.parametrize("name", ["small", "large"])
@pytest.mark.parametrize("asked", CONVERSATIONS)
@pytest.mark.parametrize("response", ["ba", "é\n 12  ", ""])
def test_prompt_and_answer_give_the_rendering_of_the_conversation(
    toy_tokenizers: Path, name: str, asked: Messages, response: str
) -> None:
    encoder = _encoder(toy_tokenizers, name=name)
    assert encoder.prompts([(asked, None, None)]) == [_ids(encoder, asked)]
    whole = _text(encoder, [*asked, {"role": "assistant", "content": response}])
    assert _spoken(encoder, asked, response) == _ended(whole, encoder.tokenizer.eos_token)
    assert _said(encoder, asked, response, finish="length") == encoder.tokenizer.encode(response, add_special_tokens=False)


@pytest.mark.parametrize("mode", ["chat", "plain", "rendered"])
def test_what_the_tokenizer_adds_by_itself_is_not_added(toy_tokenizers: Path, mode: str) -> None:
    """No second BOS by the post-processor, no padding, nothing cut, and the tokenizer stays as it was."""
    plain = _encoder(toy_tokenizers, BASE, template=mode)
    expected = plain.prompts([(USER, None, None), ([{"role": "user", "content": "longer"}], None, None)])
    tokenizer = _encoder(toy_tokenizers, BASE).tokenizer
    backend = tokenizer.backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[(t, tokenizer.convert_tokens_to_ids(t)) for t in ("<bos>", "<eos>")]
    )
    backend.enable_padding(length=20)
    backend.enable_truncation(3)
    adding = Encoder(tokenizer, template=mode)  # type: ignore[arg-type]
    assert adding.prompts([(USER, None, None), ([{"role": "user", "content": "longer"}], None, None)]) == expected
    assert adding.completions(["longer"], ["stop"]) == plain.completions(["longer"], ["stop"])
    bos = [i.count(tokenizer.bos_token_id) for i in expected]
    assert bos == ([0, 0] if mode == "rendered" else [1, 1])


def test_what_the_template_writes_between_answer_and_end_is_kept(toy_tokenizers: Path) -> None:
    encoder = _encoder(toy_tokenizers, BASE.replace("<eos>", " <eos>"))
    assert _spoken(encoder, USER, "ab") == "<bos><user>Sba<assistant>ab <eos>"


# 2. whatever else a message says


NAMED: Messages = [{"role": "user", "content": "Sba", "name": "bob"}]
REASONED: Messages = [*USER, {"role": "assistant", "content": "ab", "reasoning_content": "R"}, *USER]


@pytest.mark.parametrize("asked", [NAMED, REASONED, CALLED, [*CALLED, {"role": "assistant", "content": "7"}, *NAMED]])
@pytest.mark.parametrize("tools", [None, [TOOL], [TOOL, {**TOOL, "function": {"name": "g"}}]])
@pytest.mark.parametrize("kwargs", [{}, {"mood": "é"}])
def test_prompts_show_all_that_the_template_shows(
    showing: Encoder, asked: Messages, tools: list[Any] | None, kwargs: dict[str, Any]
) -> None:
    given = (json.dumps(tools) if tools else None, json.dumps(kwargs) if kwargs else None)
    assert showing.prompts([(asked, *given)]) == [_ids(showing, asked, tools=tools, **kwargs)]
    assert showing.prompt(asked, *given) == showing.prompts([(asked, *given)])[0]


@pytest.mark.parametrize("asked", [USER, LONGER, CALLED])
@pytest.mark.parametrize("tools", [None, [TOOL]])
@pytest.mark.parametrize(
    ("content", "more"),
    [
        ("", {"tool_calls": [CALL]}),
        (None, {"tool_calls": [CALL, CALL]}),
        ("é ", {"tool_calls": [CALL]}),
        (" ab\n", {"reasoning_content": " R\n12"}),
        (None, {"reasoning_content": "R", "tool_calls": [CALL]}),
        ("ab", {"name": "bob"}),
    ],
)
def test_an_answers_ids_are_the_conversation_minus_the_prompt(
    showing: Encoder, asked: Messages, tools: list[Any] | None, content: str | None, more: dict[str, Any]
) -> None:
    said = {"role": "assistant", "content": content, **more}
    whole, before = _text(showing, [*asked, said], tools=tools), _text(showing, asked, generation=True, tools=tools)
    assert whole.startswith(before)
    expected = showing.tokenizer.encode(_ended(whole)[len(before) :], add_special_tokens=False)
    response, extras = split_answer(said)
    given = json.dumps(tools) if tools else None
    assert _said(showing, asked, response, extras, "stop", given) == expected
    assert _said(showing, asked, response, extras, "length", given) == expected[:-1]
    assert _spoken(showing, asked, response, extras, tools=given) == _ended(whole)
    assert _said(Encoder(showing.tokenizer, end="none"), asked, response, extras, "stop", given) == expected[:-1]


def test_answers_stay_in_their_places(toy_tokenizers: Path) -> None:
    encoder = _encoder(toy_tokenizers, BASE.replace("{{ m['content'] }}", "{{ m['content'] }}{{ m['reasoning_content'] }}"))
    prompts: list[Any] = [(USER, None, None), (LONGER, None, None), (USER, None, None), (USER, None, None)]
    extras = ['{"reasoning_content":"R"}', None, json.dumps({"tool_calls": [CALL]}), None]
    made, lossy = encoder.answers(prompts, ["ab", "b", "c", "d"], ["stop", "stop", "stop", "length"], extras)
    assert [isinstance(m, Refused) or encoder.tokenizer.decode(m) for m in made] == ["abR<eos>", "b<eos>", True, "d"]
    assert lossy == {}


def test_answers_that_their_ids_do_not_give_back_are_named(toy_tokenizers: Path) -> None:
    tokenizer = _encoder(toy_tokenizers, SHOWING).tokenizer
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    extras = [None, None, '{"reasoning_content":"r"}', '{"reasoning_content":"R"}']
    _, lossy = Encoder(tokenizer).answers([(USER, None, None)] * 4, ["AB", "ab", "ab", "aB"], ["stop"] * 4, extras)
    assert set(lossy) == {0, 3}
    assert lossy[0] == "ab"
    assert "(r)ab" in lossy[3]
    tokenizer.chat_template = SHOWING.replace("m['content'] or ''", "m['content'] | lower")
    made, lossy = Encoder(tokenizer).answers([(USER, None, None)], ["AB"], ["stop"], extras[2:3])
    assert ([tokenizer.decode(m) for m in made], lossy) == (["(r)ab<eos>"], {}), "they give back what the template made"


@pytest.mark.parametrize("more", [{"tool_calls": [CALL]}, {"reasoning_content": "R"}])
def test_answers_that_the_template_does_not_show_are_refused(toy_tokenizers: Path, more: dict[str, Any]) -> None:
    refused = _said(_encoder(toy_tokenizers, BASE), USER, "ab", json.dumps(more))
    assert isinstance(refused, Refused)
    assert isinstance(refused, DataError)
    assert next(iter(more)) in str(refused)


def test_prompts_that_the_template_does_not_show_are_refused(toy_tokenizers: Path, showing: Encoder) -> None:
    encoder = _encoder(toy_tokenizers, BASE)
    tools = json.dumps([TOOL])
    prompts: list[Any] = [(CALLED, None, None), (USER, tools, None), (USER, None, None), (USER, "[]", None)]
    for generation in (False, True):
        made = encoder.prompts_or_refusals(prompts, generation)
        assert [isinstance(m, Refused) for m in made] == [True, True, False, False]
        assert [isinstance(m, Refused) for m in showing.prompts_or_refusals(prompts, generation)] == [False] * 4
    with pytest.raises(Refused, match="tool_calls"):
        encoder.prompts(prompts[:1])
    with pytest.raises(Refused, match="tools"):
        encoder.prompts(prompts[1:2])
    assert isinstance(_said(encoder, USER, "ab", '{"name":"bob"}', tools=tools), Refused)


def test_reasoning_of_earlier_answers_may_be_left_out(toy_tokenizers: Path) -> None:
    """Templates drop it on purpose; that of the answer itself must be shown."""
    encoder = _encoder(toy_tokenizers, THINKING)
    assert "R" not in encoder.tokenizer.decode(encoder.prompt(REASONED))
    gone = THINKING.replace("{{ m['reasoning_content'] or '' }}", "")
    assert isinstance(_said(_encoder(toy_tokenizers, gone), USER, "ab", '{"reasoning_content":"R"}'), Refused)


def test_an_answer_that_changes_its_prompt_is_refused(toy_tokenizers: Path) -> None:
    marked = "<bos>{% if messages | selectattr('tool_calls') | list %}calls {% endif %}" + WHOLE_TURNS + HEADER
    encoder = _encoder(toy_tokenizers, marked)
    assert isinstance(_said(encoder, USER, "", json.dumps({"tool_calls": [CALL]})), Refused)
    assert _spoken(encoder, USER, "ab", '{"reasoning_content":"R"}') == "<bos><user>Sba<assistant>(R)ab<eos>"
    assert _spoken(encoder, CALLED, "", json.dumps({"tool_calls": [CALL]})).startswith("<bos>calls <user>"), "it has one before"


_RAISES, _ADDS = "{{ raise_exception('content or tool_calls') }}", "{{ m['content'] + '' }}"


@pytest.mark.parametrize(
    ("without", "content"),
    [
        (_RAISES, ""),
        (_RAISES, None),
        (_ADDS, ""),
        (_ADDS, None),
    ],
)
def test_an_answer_of_calls_alone_has_ids_where_one_of_nothing_is_an_error(
    toy_tokenizers: Path, without: str, content: str | None
) -> None:
    """Mistral's template raises for an answer without text and calls, Qwen2.5's adds null to a text."""
    said_by_calls = "{% if m['tool_calls'] %}" + CALLS + "{% elif not m['content'] %}" + without + "{% else %}"
    template = TURNS.replace("{{ m['content'] }}", said_by_calls + "{{ m['content'] }}{% endif %}") + HEADER
    encoder = _encoder(toy_tokenizers, template)
    said = {"role": "assistant", "content": content, "tool_calls": [CALL]}
    assert _spoken(encoder, USER, *split_answer(said)) == _ended(_text(encoder, [*USER, said]))


def test_calls_in_a_prompt_may_be_needed_for_its_roles_to_alternate(toy_tokenizers: Path) -> None:
    """Mistral's template counts only answers without calls, and wants them to alternate with users."""
    alternate = (
        "{% set seen = namespace(user=false) %}{% for m in messages if m['role'] != 'tool' and not m['tool_calls'] %}"
        "{% if (m['role'] == 'user') == seen.user %}{{ raise_exception('roles must alternate') }}{% endif %}"
        "{% set seen.user = not seen.user %}{% endfor %}"
    )
    encoder = _encoder(toy_tokenizers, alternate + WHOLE_TURNS + HEADER)
    asked = [*CALLED, {"role": "assistant", "content": "7"}, *USER]
    assert encoder.prompts([(asked, None, None)]) == [_ids(encoder, asked)]


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda some: st.lists(some, max_size=2) | st.dictionaries(st.text(max_size=3), some, max_size=2),
    max_leaves=4,
)
_MORE = st.dictionaries(st.sampled_from(["name", "tool_calls", "reasoning_content", "id"]), _VALUES, max_size=3)
_CONTENT = st.none() | st.text(max_size=5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["user", "assistant", "tool"]), _CONTENT, _MORE), max_size=4))
def test_messages_come_back_from_their_columns(turns: list[tuple[str, str | None, dict[str, Any]]]) -> None:
    messages = [{"role": role, "content": content, **more} for role, content, more in turns]
    plain, extras = split(messages)
    assert [(set(m), m["role"], m["content"]) for m in plain] == [({"role", "content"}, r, c or "") for r, c, _ in turns]
    back = joined(plain, extras)
    assert back == messages
    assert [list(m) for m in back] == [list(m) for m in messages], "in their own order"
    for message in messages:
        said = {**message, "role": "assistant"}
        response, more = split_answer(said)
        assert (response, answer(response, more)) == (message["content"] or "", said)


def test_ordinary_messages_have_no_extras() -> None:
    assert split(LONGER) == (LONGER, None)
    assert joined(LONGER, None) == LONGER
    assert split_answer({"role": "assistant", "content": " ab "}) == (" ab ", None)
    assert split([*USER, {"role": "user", "content": None}])[1] is not None, "null is not the empty text"
    assert split_answer({"role": "assistant", "content": None})[1] is not None
    assert answer("ab", None) == {"role": "assistant", "content": "ab"}


# 3. the order of keys


@pytest.mark.parametrize("tool", ['{"z":1,"a":{"y":2,"b":3},"m":4}', '{"m":4,"a":{"b":3,"y":2},"z":1}'])
@pytest.mark.parametrize("content", ["Sba", "<eos>"])
def test_keys_stay_in_their_own_order(showing: Encoder, tool: str, content: str) -> None:
    spaced = json.dumps(json.loads(tool))
    asked = [{"role": "user", "content": content}]
    assert f"<tools>{spaced}<user>" in showing.tokenizer.decode(showing.prompts([(asked, f"[{tool}]", None)])[0])
    calls = f'{{"tool_calls":[{{"function":{tool}}}]}}'
    assert f"<call>{spaced}<eos>" in _spoken(showing, asked, "", calls)
    message = {"role": "assistant", "content": None, **json.loads(calls)}
    assert f"<call>{spaced}<eos>" in showing.tokenizer.decode(showing.prompt(joined(*split([*asked, message, *USER]))))


# 4. templates that end a prompt in their own way


@pytest.mark.parametrize("asked", [*CONVERSATIONS, [*USER, {"role": "tool", "content": "7"}]])
@pytest.mark.parametrize("template", ["<bos>" + TURNS, "<bos>" + TURNS.replace("}}>", "}}>: \n")])
def test_a_template_without_generation_prompt_gets_its_header(toy_tokenizers: Path, template: str, asked: Messages) -> None:
    encoder = _encoder(toy_tokenizers, template)
    assert _text(encoder, asked) == _text(encoder, asked, generation=True)
    encoder.require_sound()
    whole = _text(encoder, [*asked, {"role": "assistant", "content": "ab"}])
    assert _spoken(encoder, asked, "ab") == _ended(whole)
    for generation in (False, True):
        (ids,) = encoder.prompts_or_refusals([(asked, None, None)], generation)
        assert not isinstance(ids, Refused)
        assert encoder.tokenizer.decode(ids) == whole[: whole.rindex("ab")]


@pytest.mark.parametrize("asked", [USER, LONGER, CALLED, [{"role": "user", "content": "<assistant> a<eos>"}]])
@pytest.mark.parametrize("more", [{"tool_calls": [CALL]}, {"reasoning_content": "R"}])
def test_such_a_template_gets_its_header_before_calls_too(toy_tokenizers: Path, asked: Messages, more: dict[str, Any]) -> None:
    encoder = _encoder(toy_tokenizers, "<bos>" + WHOLE_TURNS)
    said = {"role": "assistant", "content": "ab", **more}
    assert _spoken(encoder, asked, *split_answer(said)) == _ended(_text(encoder, [*asked, said]))


@pytest.mark.parametrize("asked", CONVERSATIONS)
def test_an_empty_think_block_belongs_to_the_answer(toy_tokenizers: Path, asked: Messages) -> None:
    encoder = _encoder(toy_tokenizers, THINKING)
    encoder.require_sound()
    whole = _text(encoder, [*asked, {"role": "assistant", "content": "ab"}])
    assert f"<assistant>{EMPTY_THINK}ab<eos>" in whole
    (ids,) = encoder.prompts([(asked, None, None)])
    assert ids == _ids(encoder, asked)
    assert _spoken(encoder, asked, "ab") == _ended(whole)
    assert encoder.prompts_or_refusals([(asked, None, None)], generation=True) == [_ids(encoder, asked)]
    assert not _text(encoder, asked, generation=True).endswith(EMPTY_THINK)


@pytest.mark.parametrize("asked", [USER, LONGER, CALLED])
@pytest.mark.parametrize("content", ["", None, "ab"])
def test_an_empty_think_block_stands_once_before_calls(toy_tokenizers: Path, asked: Messages, content: str | None) -> None:
    encoder = _encoder(toy_tokenizers, THINKING)
    said = {"role": "assistant", "content": content, "tool_calls": [CALL]}
    assert _spoken(encoder, asked, *split_answer(said)) == _ended(_text(encoder, [*asked, said]))


def test_an_answer_with_reasoning_continues_its_prompt_or_is_refused(toy_tokenizers: Path) -> None:
    encoder = _encoder(toy_tokenizers, THINKING)
    extras = '{"reasoning_content":"R"}'
    if not isinstance(_said(encoder, USER, "ab", extras), Refused):
        assert _spoken(encoder, USER, "ab", extras) == _ended(_text(encoder, [*USER, answer("ab", extras)]))


def test_an_empty_think_block_stands_once_where_thinking_is_turned_off(toy_tokenizers: Path) -> None:
    encoder = _encoder(toy_tokenizers, THINKING)
    whole = _text(encoder, [*USER, {"role": "assistant", "content": "ab"}], enable_thinking=False)
    assert _spoken(encoder, USER, "ab", kwargs='{"enable_thinking":false}') == _ended(whole)


# 5. and 6. templates that cannot serve


@pytest.mark.parametrize("asked", CONVERSATIONS)
def test_a_prompt_that_the_conversation_does_not_begin_with_is_refused(toy_tokenizers: Path, asked: Messages) -> None:
    encoder = _encoder(toy_tokenizers, "<bos>" + TURNS + HEADER.replace("<assistant>", "<assistant><think>\n"))
    with pytest.raises(Refused):
        encoder.require_sound()
    with pytest.raises(Refused):
        encoder.prompts([(asked, None, None)])
    assert isinstance(encoder.prompts_or_refusals([(asked, None, None)])[0], Refused)
    given = encoder.prompts_or_refusals([(asked, None, None)], generation=True)
    assert given == [_ids(encoder, asked)], "a model that is to answer gets what its template gives"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("messages[0]['role'] == 'system'", [False, False, True, True]),
        ("messages | selectattr('role', 'eq', 'assistant') | list", [False, True, False, True]),
    ],
)
def test_only_the_kind_of_conversation_that_cannot_be_served_is_refused(
    toy_tokenizers: Path, kind: str, expected: list[bool]
) -> None:
    odd = HEADER.replace("<assistant>", "<assistant>{% if " + kind + " %}<think>\n{% endif %}")
    encoder = _encoder(toy_tokenizers, "<bos>" + TURNS + odd)
    encoder.require_sound()
    made = encoder.prompts_or_refusals([(c, None, None) for c in CONVERSATIONS])
    assert [isinstance(m, Refused) for m in made] == expected
    assert [m for m in made if not isinstance(m, Refused)] == [
        _ids(encoder, c) for c, refused in zip(CONVERSATIONS, expected, strict=True) if not refused
    ]


@pytest.mark.parametrize("generation", [False, True])
def test_a_refused_system_message_costs_its_own_place_only(toy_tokenizers: Path, generation: bool) -> None:
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + BASE
    encoder = _encoder(toy_tokenizers, refusing)
    encoder.require_sound()
    made = encoder.prompts_or_refusals([(c, None, None) for c in CONVERSATIONS], generation)
    for asked, ids in zip(CONVERSATIONS, made, strict=True):
        if asked[0]["role"] == "system":
            assert isinstance(ids, Refused)
            assert "no system role" in str(ids)
        else:
            assert ids == _ids(encoder, asked)
    with pytest.raises(Refused, match="no system role"):
        encoder.prompts([(c, None, None) for c in CONVERSATIONS])


# 7. plain


@pytest.mark.parametrize(("name", "bos"), [("small", "<bos>"), ("large", "")])
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([{"role": "user", "content": " a<eos>\n"}], " a<eos>\n"),
        (LONGER, "Human: Sba\n\nAssistant: ab\n\nHuman:  \né 12 \n\nAssistant: "),
        ([{"role": "system", "content": "S"}, *USER], "System: S\n\nHuman: Sba\n\nAssistant: "),
        (
            [{"role": "system", "content": "S"}, *LONGER[:2], *USER],
            "System: S\n\nHuman: Sba\n\nAssistant: ab\n\nHuman: Sba\n\nAssistant: ",
        ),
        (
            [*LONGER[:2], {"role": "user", "content": "<|end|><user>"}],
            "Human: Sba\n\nAssistant: ab\n\nHuman: <|end|><user>\n\nAssistant: ",
        ),
    ],
)
def test_plain_prompts_say_who_speaks(toy_tokenizers: Path, name: str, bos: str, asked: Messages, expected: str) -> None:
    encoder = _encoder(toy_tokenizers, name=name, template="plain")
    encoder.require_sound()
    for generation in (False, True):
        (ids,) = encoder.prompts_or_refusals([(asked, None, None)], generation)
        assert not isinstance(ids, Refused)
        assert encoder.tokenizer.decode(ids) == bos + expected
        assert set(ids) & set(encoder.tokenizer.all_special_ids) == ({encoder.tokenizer.bos_token_id} if bos else set())


def test_plain_refuses_what_has_no_place_in_a_text(toy_tokenizers: Path) -> None:
    encoder = _encoder(toy_tokenizers, template="plain")
    called = {"role": "assistant", "content": "ab", "tool_calls": [CALL]}
    prompts: list[Any] = [
        (USER, None, None),
        (CALLED, None, None),
        (USER, json.dumps([TOOL]), None),
        ([*USER, called, *USER], None, None),
        ([*USER, {"role": "tool", "content": "7"}], None, None),
        ([called], None, None),
        (LONGER, None, None),
    ]
    made = encoder.prompts_or_refusals(prompts)
    assert [isinstance(m, Refused) for m in made] == [False, True, True, True, True, True, False]
    with pytest.raises(Refused):
        encoder.prompts(prompts)
    extras = [None, json.dumps({"tool_calls": [CALL]}), '{"reasoning_content":"R"}', '{"name":"bob"}']
    answers, _ = encoder.answers(prompts[:1] * 4, ["a<eos>"] * 4, ["stop"] * 4, extras)
    assert [isinstance(a, Refused) for a in answers] == [False, True, True, True]
    assert encoder.tokenizer.decode(answers[0]) == "a<eos><eos>"
    assert answers[0].count(encoder.tokenizer.eos_token_id) == 1


def test_one_plain_message_with_a_name_is_its_text(toy_tokenizers: Path) -> None:
    encoder = _encoder(toy_tokenizers, template="plain")
    assert encoder.tokenizer.decode(encoder.prompt(NAMED)) == "<bos>Sba"


def test_one_plain_tool_message_is_refused(toy_tokenizers: Path) -> None:
    encoder = _encoder(toy_tokenizers, template="plain")
    assert isinstance(encoder.prompts_or_refusals([([{"role": "tool", "content": "7"}], None, None)])[0], Refused)


# 8. rendered


@pytest.mark.parametrize("text", ["<bos><user>Sba<assistant>", "Sba", " <user>é\n", "<eos><eos>", "<use"])
def test_a_rendered_text_is_read_with_its_control_tokens(toy_tokenizers: Path, text: str) -> None:
    encoder = _encoder(toy_tokenizers, template="rendered")
    encoder.require_sound()
    expected = encoder.tokenizer.encode(text, add_special_tokens=False)
    for generation in (False, True):
        made = encoder.prompts_or_refusals([([{"role": "user", "content": text}], None, None)], generation)
        assert made == [expected]
    assert _controls(encoder, expected) == sorted(t for t in CONTROLS for _ in range(text.count(t)))


def test_a_rendered_answer_ends_once(toy_tokenizers: Path) -> None:
    encoder = _encoder(toy_tokenizers, template="rendered")
    ab, end = encoder.tokenizer.encode("ab", add_special_tokens=False), encoder.tokenizer.eos_token_id
    prompts: list[Any] = [(USER, None, None)] * 3
    made, lossy = encoder.answers(prompts, ["ab<eos>", "ab", "ab"], ["stop", "stop", "length"], [None] * 3)
    assert (made, lossy) == ([[*ab, end], [*ab, end], ab], {})
    assert isinstance(encoder.prompts_or_refusals([(LONGER, None, None)])[0], Refused)
    with pytest.raises(Refused):
        encoder.prompts([(LONGER, None, None)])
    assert isinstance(_said(encoder, USER, "ab", '{"reasoning_content":"R"}'), Refused)


# 9. control-token text


_PIECES = st.sampled_from(CONTROLS[:-1]) | st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
_TEXTS = st.lists(st.lists(_PIECES, max_size=4), min_size=7, max_size=7)


def _hostile(pieces: list[list[str]], harmless: bool) -> list[str]:
    """Texts with control-token texts in them, or with harmless words in their places."""
    return ["".join("zz" if harmless and p in CONTROLS else p for p in text) for text in pieces]


def _asked(texts: list[str]) -> tuple[Messages, list[Any]]:
    """A conversation and tools that say these texts everywhere but in keys."""
    call = {"function": {"name": "f", "arguments": {"a": [texts[0], {"b": texts[1]}], "n": 1}}}
    messages = [
        {"role": "system", "content": texts[2]},
        {"role": "user", "content": texts[3], "name": texts[4]},
        {"role": "assistant", "content": texts[5], "reasoning_content": texts[6], "tool_calls": [call]},
        {"role": "tool", "content": texts[0] + texts[6]},
    ]
    return messages, [{"function": {"name": "f", "description": texts[1], "parameters": {"enum": [texts[2], texts[3]]}}}]


@settings(max_examples=30, deadline=None)
@given(_TEXTS)
def test_control_text_in_a_prompt_stays_text(showing: Encoder, pieces: list[list[str]]) -> None:
    messages, tools = _asked(_hostile(pieces, harmless=False))
    (ids,) = showing.prompts([(messages, json.dumps(tools), None)])
    calm, calm_tools = _asked(_hostile(pieces, harmless=True))
    assert _controls(showing, ids) == _controls(showing, _ids(showing, calm, tools=calm_tools))
    assert showing.tokenizer.decode(ids) == _text(showing, messages, generation=True, tools=tools)


@settings(max_examples=30, deadline=None)
@given(_TEXTS, st.booleans(), st.sampled_from([SHOWING, "<bos>" + TOOLS + WHOLE_TURNS]))
def test_control_text_in_an_answer_stays_text(
    toy_tokenizers: Path, showing: Encoder, pieces: list[list[str]], as_text: bool, template: str
) -> None:
    """With a template that has a generation prompt, and with one that has none; arguments as an object and as JSON text."""
    encoder = showing if template == SHOWING else _ignoring(toy_tokenizers)

    def conversation(harmless: bool) -> tuple[Messages, list[Any], dict[str, Any]]:
        texts = _hostile(pieces, harmless)
        arguments = {"a": texts[0], "b": [texts[1]]}
        call = {"function": {"name": "f", "arguments": json.dumps(arguments) if as_text else arguments}}
        messages, tools = _asked(texts)
        said = {"role": "assistant", "content": texts[2], "reasoning_content": texts[3], "tool_calls": [call]}
        return messages, tools, said

    messages, tools, said = conversation(harmless=False)
    response, extras = split_answer(said)
    ids = _said(encoder, messages, response, extras, tools=json.dumps(tools))
    assert not isinstance(ids, Refused)
    assert _controls(encoder, ids) == ["<call>", "<eos>"]
    assert ids[-1] == encoder.tokenizer.eos_token_id
    assert _spoken(encoder, messages, response, extras, tools=json.dumps(tools)) == _ended(
        _text(encoder, [*messages, said], tools=tools)
    )
    calm, calm_tools, calm_said = conversation(harmless=True)
    calm_ids = _said(encoder, calm, *split_answer(calm_said), tools=json.dumps(calm_tools))
    assert not isinstance(calm_ids, Refused)
    assert _controls(encoder, calm_ids) == _controls(encoder, ids)


_IGNORING: dict[Path, Encoder] = {}


def _ignoring(folder: Path) -> Encoder:
    if folder not in _IGNORING:
        _IGNORING[folder] = _encoder(folder, "<bos>" + TOOLS + WHOLE_TURNS)
    return _IGNORING[folder]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(CONTROLS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=6))
def test_control_text_in_an_ordinary_answer_stays_text(showing: Encoder, pieces: list[str]) -> None:
    response = "".join(pieces)
    ids = _said(showing, USER, response)
    assert not isinstance(ids, Refused)
    assert _controls(showing, ids) == ["<eos>"]
    assert showing.tokenizer.decode(ids) == response + "<eos>"


_KEYS = "keys of arguments and tools are not looked at: control text in them becomes control ids, and an <eos> cuts the answer"


@pytest.mark.parametrize("key", ["<user>", "a<eos>"])
@pytest.mark.parametrize("place", ["prompt", "tools", "answer"])
def test_control_text_in_keys_stays_text(showing: Encoder, key: str, place: str) -> None:
    call = {"function": {"name": "f", "arguments": {key: 1}}}
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    if place == "answer":
        ids = _said(showing, USER, *split_answer(said))
        assert not isinstance(ids, Refused)
        expected, text = ["<call>", "<eos>"], _ended(_text(showing, [*USER, said]))[len("<bos><user>Sba<assistant>") :]
    elif place == "prompt":
        ids, text = showing.prompt([*USER, said, *USER]), _text(showing, [*USER, said, *USER], generation=True)
        expected = sorted(["<bos>", "<user>", "<assistant>", "<call>", "<eos>", "<user>", "<assistant>"])
    else:
        ids, text = showing.prompt(USER, json.dumps([call])), _text(showing, USER, generation=True, tools=[call])
        expected = sorted(["<bos>", "<tools>", "<user>", "<assistant>"])
    assert showing.tokenizer.decode(ids) == text
    assert _controls(showing, ids) == expected


_WRITTEN = (
    "what a template writes as JSON is put back without its escapes, in the whole conversation, where control text stands"
)


@pytest.mark.parametrize(
    "asked",
    [
        [*CALLED[:2], {"role": "tool", "content": '{"a": "<eos>"}'}],
        [{"role": "user", "content": "What is <eos>?"}, CALLED[1], {"role": "tool", "content": '{"a": "b\n"}'}],
        [
            *USER,
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": '<|"|>'}}}]},
            *USER,
        ],
    ],
)
def test_text_that_the_template_writes_as_json_is_rendered_as_ever(toy_tokenizers: Path, asked: Messages) -> None:
    """Llama 3.1's template writes what tools give as JSON; Gemma has a control token with quotes in it."""
    as_json = "{% if m['role'] == 'tool' %}{{ m['content'] | tojson }}{% else %}{{ m['content'] or '' }}{% endif %}"
    encoder = _encoder(toy_tokenizers, SHOWING.replace("{{ m['content'] or '' }}", as_json))
    assert encoder.tokenizer.decode(encoder.prompt(asked)) == _text(encoder, asked, generation=True)


def test_a_template_that_changes_answers_is_refused(toy_tokenizers: Path) -> None:
    """Where an answer stands in the conversation is then not known."""
    encoder = _encoder(toy_tokenizers, BASE.replace("m['content']", "m['content'] | upper"))
    (found,) = encoder.prompts_or_refusals([(USER, None, None)])
    assert isinstance(found, Refused)
    assert "does not show an answer as it is" in str(found)
