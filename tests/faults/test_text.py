"""FAULTS B, texts that are dropped or kept verbatim: invisible characters, control tokens, template code, lengths, noise."""

import json
import re
import unicodedata

import polars as pl
import pytest

from prefdata.models.tokens import Encoder, load_encoder
from prefdata.output.explore import document

from . import tiny
from .cases import Case, Dropped, Fault, Handled, add, as_parameters, mixture
from .place import BIDI, CONTEXT, SURROGATE, Place, chain, human, phrase

NUL, BELL, ZERO = "\x00", "\x07", "\u200b"
CONTROL_TEXTS = [*tiny.CONTROL, "<|im_start|>system", "<eos>", "<assistant>", " <bos> x "]
TEMPLATES = ["{{ 7*7 }}", "{output_2}", "{% if x %}", "{title}", "${HOME}"]


@pytest.fixture(scope="module")
def encoder(good: Place) -> Encoder:
    return load_encoder(good.reference["model"])


# ---- rows that are dropped or handled: all of them in one input ----


def in_prompt(text: str, **extra: str) -> Fault:
    return lambda place, name: add(human(f"{phrase(name)} {text}"), **extra)(place, name)


def in_answer(text: str) -> Fault:
    """The second of three answers is this text between words."""

    def fault(place: Place, name: str) -> None:
        add(answers=[(phrase(name, 0), 1), (f"so {text} it", 2), (phrase(name, 2), 3)])(place, name)

    return fault


def in_model(text: str) -> Fault:
    return lambda place, name: add(answers=[(phrase(name, 0), 1), (phrase(name, 1), 2, text)])(place, name)


def keeps_answer(text: str) -> Handled:
    """Verbatim in the table, in the set and in what is published."""

    def shows(place: Place, name: str) -> None:
        wanted = f"so {text} it"
        assert wanted in [c["response"] for c in place.of(name, "candidates", "sources")]
        assert wanted in [c["response"] for c in place.set_of(name)["candidates"]]
        own = pl.col("prompt_id") == place.prompt(name)["prompt_id"]
        for config in ("candidates", "sets"):
            rows = pl.concat([pl.read_parquet(p) for p in (place.dataset / "data" / config).glob("train*.parquet")])
            assert json.dumps(wanted) in json.dumps(rows.filter(own).to_dicts())

    return Handled(shows)


def keeps_prompt(text: str) -> Handled:
    def shows(place: Place, name: str) -> None:
        wanted = f"{phrase(name)} {text}".strip()
        assert place.prompt(name)["messages"] == [{"role": "user", "content": wanted}]
        assert place.set_of(name)["prompt"] == [{"role": "user", "content": wanted}]

    return Handled(shows)


def keeps_model(text: str) -> Handled:
    def shows(place: Place, name: str) -> None:
        assert text in [c["producer"] for c in place.of(name, "candidates", "sources")]

    return Handled(shows)


def noise_failed(text: str) -> tuple[Fault, Dropped]:
    return add(answers=[(text, 1), ("other text", 2)]), Dropped("noise_failed", "noise")


def one_token_per_byte(place: Place, name: str) -> None:
    """What is scored is the text's own bytes and the end, whatever the text looks like."""
    sizes = {c["candidate_id"]: len(c["response"].encode()) + 1 for c in place.of(name, "candidates", "sources")}
    scored = {r["candidate_id"]: r["num_tokens"] for r in place.of(name, "logps", "score") if r["candidate_id"] in sizes}
    assert scored == sizes


def longer_prompt_than_context(place: Place, name: str) -> None:
    add(human("z" * CONTEXT), [("one z", 1), ("two z", 2)])(place, name)


SYSTEM_MESSAGE = [{"role": "system", "content": SURROGATE}, {"role": "user", "content": "x"}]
LONG_CHOSEN = [("c " * 600, 1), ("d", 2), ("e", 3)]
TEXTS = [
    Case("a lone surrogate in a prompt", in_prompt(SURROGATE), Dropped("bad_text")),
    Case("a lone surrogate in an answer", in_answer(SURROGATE), Dropped("bad_text")),
    Case("a lone surrogate in a model", in_model(f"m{SURROGATE}"), Dropped("bad_text")),
    Case("a lone surrogate in a message", add(SYSTEM_MESSAGE), Dropped("bad_text")),
    Case("NUL in a prompt", in_prompt(NUL), Dropped("control_characters")),
    Case("NUL in an answer", in_answer(NUL), Dropped("control_characters")),
    Case("a C0 control in a prompt", in_prompt(BELL), Dropped("control_characters")),
    Case("a C0 control in an answer", in_answer(BELL), Dropped("control_characters")),
    Case("a tab and newlines in an answer", in_answer("\t\n\r\n"), keeps_answer("\t\n\r\n")),
    Case("bidi in a prompt", in_prompt(f"a{BIDI}b"), keeps_prompt(f"a{BIDI}b")),
    Case("bidi in an answer", in_answer(BIDI), keeps_answer(BIDI)),
    Case("bidi in a model", in_model(f"m{BIDI}"), keeps_model(f"m{BIDI}")),
    Case("zero width in an answer", in_answer(ZERO), keeps_answer(ZERO)),
    *(Case(f"control text in a prompt: {t}", in_prompt(t), keeps_prompt(t)) for t in CONTROL_TEXTS),
    *(Case(f"control text in an answer: {t}", in_answer(t), keeps_answer(t)) for t in CONTROL_TEXTS),
    *(Case(f"control tokens scored as text: {t}", in_answer(t), Handled(one_token_per_byte)) for t in CONTROL_TEXTS),
    *(Case(f"template text in a prompt: {t}", in_prompt(t), keeps_prompt(t)) for t in TEMPLATES),
    *(Case(f"template text in an answer: {t}", in_answer(t), keeps_answer(t)) for t in TEMPLATES),
    *(Case(f"template text in a model: {t}", in_model(t), keeps_model(t)) for t in TEMPLATES),
    Case("an answer the tokenizer cannot write", in_answer(tiny.LOSSY), Dropped("lossy_tokenizer", "score", "candidate")),
    Case("a prompt that leaves no room", longer_prompt_than_context, Dropped("too_long:own", "score", "candidate", count=3)),
    Case("an answer that finds no room", in_answer("y" * CONTEXT), Dropped("too_long:own", "score", "candidate")),
    Case(
        "a chosen that finds no room", add(answers=LONG_CHOSEN), Dropped("chosen_dropped", "sets", "prompt", unit="preference")
    ),
    Case("noise of one distinct token", *noise_failed("aaaa")),
    Case("noise of one token", *noise_failed("b")),
    Case("noise that makes U+FFFD", *noise_failed("é")),
]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, good: Place) -> Place:
    """The good rows and all of these in one run."""
    return mixture(tmp_path_factory.mktemp("text"), good, TEXTS)


@pytest.mark.parametrize("case", as_parameters(TEXTS))
def test_a_text_is_dropped_or_kept(case: Case, mixed: Place) -> None:
    case.check(mixed)


def test_no_control_id_stands_inside_a_content(mixed: Place, encoder: Encoder) -> None:
    """Of all prompts and candidates: only the template's own ids are control ids, and the text comes back."""
    plain = [i for i in encoder.prompt([{"role": "user", "content": "x"}]) if i in encoder.control_ids]
    prompts = {r["prompt_id"]: r["messages"] for r in mixed.table("prompts", "sources").to_dicts()}
    single = [m for m in prompts.values() if len(m) == 1]
    assert len(single) > 20
    for messages in single:
        ids = encoder.prompt(messages)
        assert [i for i in ids if i in encoder.control_ids] == plain
        assert [i for i in ids if i not in encoder.control_ids] == encoder.contents([messages[0]["content"]])[0]
    responses = [c for s in ("sources", "noise") for c in mixed.table("candidates", s)["response"]]
    for response, ids in zip(responses, encoder.completions(responses, ["stop"] * len(responses)), strict=True):
        assert not encoder.control_ids & set(ids[:-1])
        assert tiny.LOSSY in response or encoder.decode(ids[:-1]) == response


def test_noise_is_a_permutation_of_its_parents_ids(mixed: Place, encoder: Encoder) -> None:
    """As many tokens, two places exchanged, no control id, no new U+FFFD, another text."""
    parents = {c["candidate_id"]: c["response"] for c in mixed.table("candidates", "sources").to_dicts()}
    rows = mixed.table("candidates", "noise").to_dicts()
    assert len(rows) > 20
    for row in rows:
        old, new = encoder.contents([parents[row["parent_id"]], row["response"]])
        assert sorted(old) == sorted(new)
        assert sum(a != b for a, b in zip(old, new, strict=True)) == 2
        assert row["response"] != parents[row["parent_id"]]
        assert row["response"].count("\ufffd") <= parents[row["parent_id"]].count("\ufffd")
        assert not encoder.control_ids & set(new)


def test_cards_and_reports_hold_no_invisible_character(mixed: Place) -> None:
    written = [
        p for f in ("report", "publish") for p in (mixed.root / f).rglob("*") if p.suffix in (".md", ".json", ".html", ".txt")
    ]
    assert len(written) > 3
    page = mixed.root / "publish" / "explore.html"
    for path in written:  # a library of the page names a bell; what it holds of the data is compressed
        text = document.held(path) if path == page else path.read_text(encoding="utf-8")
        assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in text.replace("\n", "")), path


def test_control_characters_are_kept_where_the_policy_says_so(place: Place) -> None:
    place.recipe["sources"]["control_characters"] = "keep"
    for name, text in (("nul", NUL), ("bell", BELL)):
        in_answer(text)(place, name)
    place.write()
    assert place.run(*chain()).code == 0
    for name, text in (("nul", NUL), ("bell", BELL)):
        keeps_answer(text).shows(place, name)


def test_the_policy_of_control_characters_is_declared(place: Place) -> None:
    said = place.command("settings")
    assert re.search(r"control_characters  \[.drop.\]\n +\S", said.out), said.out
