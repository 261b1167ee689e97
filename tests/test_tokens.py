"""THE tokenisation: spans apart, control text as text, ends by the template, nothing stripped."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken

from prefdata.errors import ConfigError, DataError
from prefdata.models.tokens import Encoder, load_encoder

USER = [{"role": "user", "content": "Sba"}]
HOSTILE = ["<eos>", "<|end|>", "</s>", "[INST]", "<|im_start|>system", "{{ 7*7 }}", "{output_2}", "{% raw %}", " <bos> x "]


@pytest.fixture(scope="module", params=["small", "large"])
def encoder(request: pytest.FixtureRequest, toy_tokenizers: Path) -> Encoder:
    return load_encoder(str(toy_tokenizers / request.param))


@pytest.mark.parametrize(
    "messages", [USER, [*USER, {"role": "assistant", "content": "ab"}, {"role": "user", "content": " \né "}]]
)
def test_ordinary_prompts_equal_apply_chat_template(encoder: Encoder, messages: list[dict[str, str]]) -> None:
    expected = encoder.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert encoder.prompt(messages) == expected


@pytest.mark.parametrize("text", HOSTILE)
def test_control_text_is_encoded_as_plain_text(encoder: Encoder, text: str) -> None:
    ordinary = [i for i in encoder.prompt(USER) if i in encoder.control_ids]
    ids = encoder.prompt([{"role": "user", "content": text}])
    assert [i for i in ids if i in encoder.control_ids] == ordinary, "only the template's own control ids"
    assert text in encoder.tokenizer.decode(ids, skip_special_tokens=True)
    completion = encoder.completions([text], ["stop"])[0]
    assert completion[-1] == encoder.end_id
    assert not encoder.control_ids & set(completion[:-1])
    assert encoder.decode(completion[:-1]) == text


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_completions_decode_to_the_response(toy_tokenizers: Path, text: str) -> None:
    encoder = _small(toy_tokenizers)
    ids = encoder.completions([text], ["length"])[0]
    assert encoder.decode(ids) == text
    assert not encoder.control_ids & set(ids)


_LOADED: dict[Path, Encoder] = {}


def _small(folder: Path) -> Encoder:
    if folder not in _LOADED:
        _LOADED[folder] = load_encoder(str(folder / "small"))
    return _LOADED[folder]


def test_only_finished_answers_get_the_end_id(encoder: Encoder) -> None:
    stop, length = encoder.completions(["ab", "ab"], ["stop", "length"])
    assert stop == [*length, encoder.end_id]


def test_end_is_what_the_template_writes_first_after_an_answer(toy_tokenizers: Path) -> None:
    small, large = (load_encoder(str(toy_tokenizers / n)) for n in ("small", "large"))
    assert small.tokenizer.convert_ids_to_tokens(small.end_id) == "<eos>"
    assert large.tokenizer.convert_ids_to_tokens(large.end_id) == "<|end|>"
    assert load_encoder(str(toy_tokenizers / "small"), end="none").end_id is None


def test_plain_prompts_are_bos_and_the_text(toy_tokenizers: Path) -> None:
    small = load_encoder(str(toy_tokenizers / "small"), template="plain")
    ids = small.prompt([{"role": "user", "content": " a<eos>"}])
    assert ids[0] == small.tokenizer.bos_token_id
    assert small.decode(ids[1:]) == " a<eos>"
    assert small.control_ids & set(ids) == {ids[0]}
    large = load_encoder(str(toy_tokenizers / "large"), template="plain")
    assert large.decode(large.prompt([{"role": "user", "content": "a"}])) == "a", "it has no bos"


def test_boundary_merges_do_not_happen(toy_tokenizers: Path) -> None:
    """`large` merges "1" "2" inside a text, never a prompt's last byte with an answer's first."""
    large = load_encoder(str(toy_tokenizers / "large"), template="plain")
    assert len(large.contents(["12"])[0]) == 1
    joint = large.prompt([{"role": "user", "content": "1"}]) + large.completions(["2"], ["length"])[0]
    assert len(joint) == 2


def test_a_template_that_trims_is_followed_for_hostile_text_too(toy_tokenizers: Path) -> None:
    encoder = load_encoder(str(toy_tokenizers / "small"))
    encoder.tokenizer.chat_template = encoder.tokenizer.chat_template.replace("m['content']", "m['content'] | trim")
    ids = Encoder(encoder.tokenizer).prompt([{"role": "user", "content": "  <eos> "}])
    assert encoder.tokenizer.convert_ids_to_tokens(ids) == ["<bos>", "<user>", "<", "e", "o", "s", ">", "<assistant>"]


def test_what_cannot_serve_is_refused_before_work(toy_tokenizers: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no tokenizer"):
        load_encoder(str(tmp_path))
    encoder = load_encoder(str(toy_tokenizers / "small"))
    encoder.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(ConfigError, match="no special token after an answer; set end: none"):
        _ = Encoder(encoder.tokenizer).end_id
    encoder.tokenizer.chat_template = "{{ raise_exception('only users') }}"
    with pytest.raises(DataError, match="refuses a prompt with the roles.*only users"):
        Encoder(encoder.tokenizer).prompt(USER)
    encoder.tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="no chat template; set template: plain"):
        Encoder(encoder.tokenizer).prompt(USER)


def test_a_template_that_moves_contents_keeps_them(toy_tokenizers: Path) -> None:
    """Mistral's puts the system text into the last user turn: sentinels come back in another order."""
    encoder = load_encoder(str(toy_tokenizers / "small"))
    encoder.tokenizer.chat_template = (
        "<bos>{% for m in messages[1:] %}{% if m['role'] == 'user' %}<user>"
        "{% if loop.last %}{{ messages[0]['content'] }}|{% endif %}{{ m['content'] }}"
        "{% else %}<assistant>{{ m['content'] }}<eos>{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    roles = ("system", "user", "assistant", "user")
    messages = [{"role": r, "content": c} for r, c in zip(roles, ("SYS", "one", "two", "three <eos>"), strict=True)]
    (ids,) = Encoder(encoder.tokenizer).prompts_or_refusals([(messages, None, None)], generation=True)
    assert encoder.tokenizer.decode(ids) == "<bos><user>one<assistant>two<eos><user>SYS|three <eos><assistant>"
    assert ids.count(encoder.tokenizer.eos_token_id) == 1


def test_special_tokens_that_no_name_points_to_are_control_ids(toy_tokenizers: Path) -> None:
    """Phi-3's <|end|> is special in the added tokens only, and it is what ends an answer."""
    encoder = load_encoder(str(toy_tokenizers / "small"))
    encoder.tokenizer.add_tokens([AddedToken("<|end|>", special=True)], special_tokens=False)
    encoder.tokenizer.chat_template = encoder.tokenizer.chat_template.replace("<eos>", "<|end|>\n<eos>")
    fresh = Encoder(encoder.tokenizer)
    assert encoder.tokenizer.convert_ids_to_tokens(fresh.end_id) == "<|end|>"


def test_templates_that_print_the_date_do_not_depend_on_the_day(toy_tokenizers: Path) -> None:
    encoder = load_encoder(str(toy_tokenizers / "small"))
    encoder.tokenizer.chat_template = "<bos>{{ strftime_now('%d %b %Y') }}" + encoder.tokenizer.chat_template
    assert "01 Jan 2026" in encoder.tokenizer.decode(Encoder(encoder.tokenizer).prompt(USER))
