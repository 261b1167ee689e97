"""FAULTS B, text and tokens: every clause a case."""

import contextlib
import json
import re
import shutil
import sqlite3
import unicodedata
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from prefdata import files, recipe
from prefdata.run import Run
from prefdata.tokens import Encoder, load_encoder

from . import tiny
from .machinery import (
    CONTEXT,
    Case,
    Dropped,
    Error,
    Fault,
    Handled,
    Place,
    add,
    as_errors,
    as_parameters,
    chain,
    change,
    change_answer,
    defect,
    good_row,
    phrase,
    require_error,
    require_hint,
)
from .test_rows import human, mixture

SURROGATE, NUL, BELL, BIDI, ZERO = "\ud800", "\x00", "\x07", "\u202e", "\u200b"
CONTROL_TEXTS = [*tiny.CONTROL, "<|im_start|>system", "<eos>", "<assistant>", " <bos> x "]
TEMPLATES = ["{{ 7*7 }}", "{output_2}", "{% if x %}", "{title}", "${HOME}"]


@pytest.fixture(scope="module")
def encoder(model: Path) -> Encoder:
    return load_encoder(str(model))


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


TEXTS = [
    Case("a lone surrogate in a prompt", in_prompt(SURROGATE), Dropped("bad_text")),
    Case("a lone surrogate in an answer", in_answer(SURROGATE), Dropped("bad_text")),
    Case("a lone surrogate in a model", in_model(f"m{SURROGATE}"), Dropped("bad_text")),
    Case("a lone surrogate in a message", add([{"role": "system", "content": SURROGATE}, {"role": "user", "content": "x"}]), Dropped("bad_text")),
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
    Case("a prompt that leaves no room", lambda p, n: add(human("z" * CONTEXT), [("one z", 1), ("two z", 2)])(p, n), Dropped("too_long:own", "score", "candidate", count=3)),
    Case("an answer that finds no room", in_answer("y" * CONTEXT), Dropped("too_long:own", "score", "candidate")),
    Case("a chosen that finds no room", add(answers=[("c " * 600, 1), ("d", 2), ("e", 3)]), Dropped("chosen_dropped", "sets", "prompt", unit="preference")),
    Case("noise of one distinct token", *noise_failed("aaaa")),
    Case("noise of one token", *noise_failed("b")),
    Case("noise that makes U+FFFD", *noise_failed("é")),
]  # fmt: skip


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
    for path in written:
        text = path.read_text(encoding="utf-8")
        assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in text.replace("\n", "")), path


# ---- names in the recipe, and messages ----


def test_a_source_name_is_escaped_on_the_card_and_kept_in_the_tables(place: Place) -> None:
    name = f"a{BIDI}{ZERO}b\x00 {{{{ 7*7 }}}} {{output_2}} {{% x %}} | <b>"
    place.source.update(name=name)
    place.recipe["card"] = {"title": f"{{version}} {BIDI}t{SURROGATE}", "description": "{{ 7*7 }} {holes}"}
    place.recipe["score"] = {}
    shutil.rmtree(place.root)  # a card that is there keeps its title
    place.write()
    assert place.run(*chain(last="sets")).code == 0
    assert place.run_apart("report").code == 0, "a process that draws"
    assert place.run(*chain("card")).code == 0
    assert set(place.table("prompts", "sources")["source"]) == {f"{name}@local"}
    card = (place.dataset / "README.md").read_text(encoding="utf-8")
    assert not any(unicodedata.category(c) in ("Cc", "Cf") for c in card.replace("\n", ""))
    plain = card.replace("\\", "")
    for text in ("{{ 7*7 }} {output_2} {% x %}", "{version}", "{{ 7*7 }} {holes}", "u202e", "u200b", "ud800"):
        assert text in plain
    assert "<b>" not in card


def unknown_column(name: str) -> Fault:
    def fault(place: Place, _: str) -> None:
        place.recipe["sources"]["unknown_fields"] = "error"
        place.rows[3][name] = 1

    return fault


def file_of_that_name(name: str) -> Fault:
    def fault(place: Place, _: str) -> None:
        place.source["path"] = name
        (place.folder / name).write_text("{", encoding="utf-8")

    return fault


RAW = "names of fields and files stand in messages as they are"
MESSAGES = [
    Case("bidi in a wrong value", change(prompt=[{"role": BIDI, "content": "x"}]), Error("rows.jsonl:4:prompt: .*u202e")),
    Case("a lone surrogate in a wrong value", change_answer(rank=SURROGATE), Error("rank: .*ud800")),
    Case("a control in a wrong value", change_answer(rank="\x1b[2J\n"), Error(r"rank: .*x1b\[2J")),
    Case("a lone surrogate in a row id", change(id=SURROGATE), Error("rows.jsonl:4:id: .*ud800")),
    Case("bidi in the name of a column", unknown_column(f"a{BIDI}"), Error("rows.jsonl:4:a.*unknown field"), defect=RAW),
    Case("a newline in the name of a column", unknown_column("a\nb"), Error("rows.jsonl:4:a.*unknown field"), defect=RAW),
    Case("an escape sequence in the name of a column", unknown_column("a\x1b[2Jb"), Error("rows.jsonl:4:a.*unknown field"), defect=RAW),
    Case("a lone surrogate in the name of a column", unknown_column(f"a{SURROGATE}"), Error("rows.jsonl:4:a.*unknown field"), defect=RAW),
    Case("a newline in the name of a file", file_of_that_name("a\nb.jsonl"), Error("a.*b.jsonl:1: not JSON"), defect=RAW),
    Case("bidi in the name of a file", file_of_that_name(f"a{BIDI}.jsonl"), Error("a.*.jsonl:1: not JSON"), defect=RAW),
    Case("a lone surrogate in the name of a source", lambda p, n: p.source.update(name=f"a{SURROGATE}"), Error("sources")),
]  # fmt: skip


@pytest.mark.parametrize("case", as_parameters(MESSAGES))
def test_a_message_is_one_printable_line(case: Case, place: Place) -> None:
    case.run(place)


@defect(f"{RAW}; a lone surrogate breaks the log file")
@pytest.mark.parametrize("column", [f"a{SURROGATE}", f"a{BIDI}", "a\x1b[2J\nb"], ids=["surrogate", "bidi", "escape"])
def test_a_log_holds_the_line_and_nothing_that_is_obeyed(place: Place, column: str) -> None:
    unknown_column(column)(place, "")
    place.write()
    require_error(place.run("sources", options=["--log", "logs/sources.log"]), "unknown field")
    log = (place.folder / "logs" / "sources.log").read_text(encoding="utf-8")
    assert "unknown field" in log
    assert all(c.isprintable() or c == "\n" for c in log)


# ---- tokenizers and templates ----


def template(start: str = "<bos>", turn: str = "<assistant>{{ m['content'] }}<eos>", asks: str = "<assistant>") -> str:
    """The toy tokenizer's template with another start, another assistant's turn or another end."""
    turns = f"{{% if m['role'] == 'assistant' %}}{turn}{{% else %}}<user>{{{{ m['content'] }}}}{{% endif %}}"
    return f"{start}{{% for m in messages %}}{turns}{{% endfor %}}{{% if add_generation_prompt %}}{asks}{{% endif %}}"


def reference(name: str, read: str = "chat", **keys: Any) -> Fault:
    """Another model as the primary reference, saved beside the recipe; `read`: chat or plain; else keys of tiny.save."""

    def fault(place: Place, _: str) -> None:
        tiny.save(place.folder / name, **keys)
        place.reference.update(model=name, template=read)

    return fault


def empty_folder(place: Place, name: str) -> None:
    (place.folder / "none").mkdir()
    place.reference.update(model="none")


STAGES = "noise|score"
DOUBLE_BOS = template(start="<bos><bos>")
NO_EOS = template(turn="<assistant>{{ m['content'] }}")
EOS_AFTER = template(asks="<assistant><eos>")
EOS_BEFORE = template(turn="<assistant><eos>{{ m['content'] }}<eos>")
TOKENIZERS = [
    Case("a template with a double BOS", reference("two-bos", template=DOUBLE_BOS), Error("two-bos: .*template.*(bos|BOS)", STAGES), "noise"),
    Case("a template without EOS", reference("no-eos", template=NO_EOS), Error("no-eos: .*template.*(eos|EOS|after an answer)", STAGES), "noise"),
    Case("a template with EOS before the answer", reference("eos-after", template=EOS_AFTER), Error("eos-after: .*template.*(eos|EOS|end)", STAGES), "noise", defect="an end token inside the generation prompt is not looked for"),
    Case("a template with EOS inside a turn", reference("eos-before", template=EOS_BEFORE), Error("eos-before: .*template.*(eos|EOS|end)", STAGES), "noise"),
    Case("a tokenizer without a chat template", reference("bare", drop=("chat_template",)), Error("bare: .*no chat template; set template: plain", STAGES), "noise"),
    Case("a plain tokenizer without EOS", reference("endless", "plain", drop=("eos_token",)), Error("endless: .*no eos token; set end: none", STAGES), "noise"),
    Case("a template that raises", reference("raises", template="{{ raise_exception('only users') }}"), Error("raises: .*template.*only users", STAGES), "noise"),
    Case("a template that is no Jinja", reference("no-jinja", template="{% for %}<eos>"), Error("no-jinja: .*template", STAGES), "noise"),
    Case("a folder without a tokenizer", empty_folder, Error("none: no tokenizer", STAGES), "noise"),
    Case("a model that is nowhere", lambda p, n: p.reference.update(model="nowhere/at-all"), Error("nowhere/at-all: ", STAGES), "noise"),
]  # fmt: skip


@pytest.mark.parametrize("case", as_parameters(TOKENIZERS))
def test_a_tokenizer_that_cannot_serve_stops_before_work(case: Case, place: Place) -> None:
    stores = set((place.root / "chunks" / "score").glob("*.sqlite"))
    case.run(place)
    for store in set((place.root / "chunks" / "score").glob("*.sqlite")) - stores:
        with contextlib.closing(sqlite3.connect(store)) as connection:
            assert connection.execute("SELECT count(*) FROM items").fetchone() == (0,), "a log-prob was computed"


WORDLESS = [
    "bidi in a wrong value",
    "a lone surrogate in a wrong value",
    "a control in a wrong value",
    "a lone surrogate in the name of a source",
    "a template that raises",
    "a template that is no Jinja",
    "a folder without a tokenizer",
]


@pytest.mark.parametrize("case", as_errors([*MESSAGES, *TOKENIZERS], WORDLESS))
def test_says_what_to_do(case: Case, place: Place) -> None:
    require_hint(case, place)


def test_a_tokenizer_without_pad_serves(place: Place, good: Place) -> None:
    """Padding is masked, so no pad token is needed: the log-probs are those of the tokenizer that has one."""
    reference("no-pad", drop=("pad_token",))(place, "")
    place.write()
    assert place.run(*chain("noise", "sets")).code == 0
    old = good.paths("logps", "score")
    new = [p for p in place.paths("logps", "score") if p.parent.name != old[0].parent.name]
    mine, theirs = (pl.concat([files.read_table(p, "logps") for p in paths]) for paths in (new, old))
    assert mine["candidate_id"].to_list() == theirs["candidate_id"].to_list()
    assert ((mine["logp"] - theirs["logp"]).abs() <= 1e-5 * mine["num_tokens"]).all()


@pytest.fixture
def large(place: Place) -> Place:
    """The rows under a tokenizer that merges, as the primary reference, read plainly."""
    reference("large", kind="large", read="plain")(place, "")
    return place


def test_prompt_and_answer_are_never_merged(large: Place) -> None:
    """`12` is one token of this tokenizer; a prompt's last 1 and an answer's first 2 stay two, each in its own span."""
    for name, prompt, answer in (
        ("digits", "what is 1", "2 or so"),
        ("letters", "what is a", "b or so"),
        ("nectar", "what is c\n\nAssistant: ", " 12"),
    ):
        large.rows.append(good_row_plain(name, prompt, [(answer, 1), ("nothing of it", 2)]))
    large.write()
    assert large.run(*chain(last="score")).code == 0
    encoder = load_encoder(str(large.folder / "large"), template="plain")
    eos = encoder.tokenizer.eos_token_id
    (unit,) = Run(recipe.load(large.folder / "recipe.yaml")).units("score")
    for name in ("digits", "letters", "nectar"):
        scored = {r["candidate_id"]: r for r in large.of(name, "logps", "score", unit)}
        for candidate in large.of(name, "candidates", "sources"):
            prompt = encoder.tokenizer(large.prompt(name)["messages"][0]["content"], add_special_tokens=False)["input_ids"]
            answer = [*encoder.tokenizer(candidate["response"], add_special_tokens=False)["input_ids"], eos]
            row = scored[candidate["candidate_id"]]
            assert row["num_tokens"] == len(answer)
            assert row["logp"] == pytest.approx(tiny.oracle(large.folder / "large", prompt, answer), abs=1e-3)


def good_row_plain(name: str, prompt: str, answers: list[tuple[str, int]]) -> dict[str, object]:
    return good_row(name, [{"role": "user", "content": prompt}], answers)


def test_swaps_that_merge_or_change_nothing_are_no_noise(large: Place) -> None:
    """`ba` would become the one token `ab`; `aaa` is `aa` and `a`, which exchanged are the same text."""
    for name in ("ba", "aaa"):
        large.rows.append(good_row_plain(name, phrase(name), [(name, 1), ("another", 2)]))
    large.write()
    assert large.run(*chain(last="noise")).code == 0
    drops = large.table("drops", "noise").filter(pl.col("reason") == "noise_failed")
    assert sorted(drops["source_row"]) == ["aaa", "ba"]
    encoder = load_encoder(str(large.folder / "large"), template="plain")
    assert [len(i) for i in encoder.contents(["ba", "ab", "aaa"])] == [2, 1, 2]


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
