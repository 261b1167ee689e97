"""`prefdata show`: sets found where they lie, prompts by prefix, every token with its id, and nothing of the data obeyed."""

import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hub.sets import SECRET, hub
from literal_sets import candidate, put, row
from test_from_file import published
from typer.testing import CliRunner, Result

from prefdata.errors import ConfigError, DataError
from prefdata.models.tokens import load_encoder
from prefdata.output import read_back
from prefdata.output.looking import token_view
from prefdata.output.looking.listing import listing
from prefdata.output.looking.opened import open_set
from prefdata.tables import schema
from prefdata.workflow.cli import app

__all__ = ["hub", "published"]
HOSTILE = "\x1b[31mred\x1b]0;title\x07 \x9b1m \u202etfel \u200b\r[bold]x[/bold] [link=a]b[/] :smile: \u2028 end\ttab\x00"
ROWS = [
    row(
        "a1",
        [
            candidate(1, "chosen", "long answer", 1, {"p": -5.0, "q": -1.0}, score=2.5, win_prob=0.75),
            candidate(3, "rejected", "no", 3, {"p": -7.5, "q": -0.5}, copies=2),
            candidate(2, "rejected", "nope", 2, {"p": -4.0, "q": -3.0}, finish="length"),
            candidate(4, "rejected", "answer long", None, {"p": -9.0, "q": -9.0}, origin="noise", producer="swap"),
        ],
        "What?",
    ),
    row("a2", [candidate(5, "chosen", "abc", 1), candidate(6, "rejected", "b", 2)], split="test", source="t@local"),
    row("b0", [candidate(7, "chosen", "abcd", 1, {"p": -1.0}), candidate(8, "rejected", "c", 2, {"p": -9.0})], split="train"),
]


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [*map(str, words)], env={"COLUMNS": "100"}, catch_exceptions=False)


@pytest.fixture
def literal(tmp_path: Path) -> Path:
    return put(tmp_path / "literal", ROWS, shards=2)


def ids(found: list[dict[str, Any]]) -> list[str]:
    return [f["prompt_id"][:2] for f in found]


# ---- where a set lies ----


def test_rows_come_in_the_order_of_prompt_id_over_splits_and_shards(literal: Path) -> None:
    assert len(list(literal.rglob("*.parquet"))) == 2
    assert [p for part in open_set(str(literal)).parts() for p in part["prompt_id"]] == [r["prompt_id"] for r in ROWS]


def test_a_results_folder_and_what_it_published_are_one_set(published: Path) -> None:
    results = published.parents[1]
    tables, files = (pl.concat(list(open_set(str(p)).parts())) for p in (results, published))
    assert tables.height == 12
    assert tables.equals(files)
    shutil.rmtree(results / "tables" / "sets")
    assert pl.concat(list(open_set(str(results)).parts())).equals(files), "without the table, what was published"


def test_shards_of_an_older_run_beside_those_of_the_last(published: Path) -> None:
    results = published.parents[1]
    folder = results / "tables" / "sets" / "sets" / "preference"
    shutil.copy(folder / "00000-of-00001.parquet", folder / "00000-of-00002.parquet")
    with pytest.raises(ConfigError, match="no tables/sets/sets/preference of one number of shards"):
        open_set(str(results))
    (results / "settings.json").write_text('{"num_shards": 1}')
    assert sum(p.height for p in open_set(str(results)).parts()) == 12
    (results / "settings.json").write_text('{"num_shards": 2}')
    with pytest.raises(DataError, match="1 of 2 shards of the set are there"):
        open_set(str(results))


def test_a_set_on_the_hub(hub: Any, published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {p.relative_to(published).as_posix(): p.read_bytes() for p in published.rglob("*") if p.is_file()}
    sha = hub._commit("owner/set", files).sha
    first = run("show", "owner/set", "--revision", sha, "--json")
    assert first.exit_code == 0
    assert json.loads(first.stdout) == json.loads(run("show", published, "--json").stdout)
    one = json.loads(first.stdout)[0]["prompt_id"]
    assert json.loads(run("show", f"owner/set@{sha}", one, "--json").stdout)["candidates"][0]["sample"] == 0
    monkeypatch.setenv("HF_TOKEN", "hf_no")
    with pytest.raises(DataError, match="cannot fetch the set") as raised:
        open_set("owner/set", sha[::-1])
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "revision", "said"),
    [
        ("owner/set", None, "needs its revision"),
        ("owner/set", "main", "needs its revision"),
        ("owner/set@main", None, "needs its revision"),
        ("nowhere", None, "no folder of a set"),
        ("a/b/c", "0" * 40, "no folder of a set"),
        (".", "0" * 40, "a folder has no revision"),
        (".", None, "no published set"),
    ],
)
def test_names_that_are_no_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, revision: str | None, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said):
        open_set(name, revision)


def test_files_out_of_order_and_prompts_in_two_files_are_refused(literal: Path, tmp_path: Path) -> None:
    twice = put(tmp_path / "twice", ROWS)
    put(twice, [{**ROWS[0], "split": "test"}])
    with pytest.raises(DataError, match="the prompt a1.* stands in two files"):
        list(open_set(str(twice)).parts())
    with pytest.raises(DataError, match="the prompt a1.* stands in two files"):
        open_set(str(twice)).find("a1")
    swapped = tmp_path / "swapped" / "data" / "sets"
    swapped.mkdir(parents=True)
    for number, one in ((0, ROWS[2]), (1, ROWS[0])):
        schema.stored(schema.frame("sets", [one])).write_parquet(swapped / f"train-{number:05d}-of-00002.parquet")
    with pytest.raises(DataError, match="prompt a1.* comes after b0"):
        list(open_set(str(tmp_path / "swapped")).parts())


def test_parts_of_a_file_name_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_back, "BATCH_ROWS", 2)
    rows = [
        row(f"{i}", [candidate(2 * i, "chosen", "a", 1, {"p": -1.0}), candidate(2 * i + 1, "rejected", "b", 2)])
        for i in range(5)
    ]
    folder = put(tmp_path / "set", rows)
    assert [p.height for p in open_set(str(folder)).parts()] == [2, 2, 1]
    rows[3]["candidates"][0]["logps"][0]["logp"] = float("inf")
    put(folder, rows)
    with pytest.raises(DataError, match="train-00000-of-00001.parquet:3:candidates"):
        list(open_set(str(folder)).parts())


def test_a_damaged_file_is_one_line(literal: Path) -> None:
    path = next(literal.rglob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-30])
    for look in (lambda o: list(o.parts()), lambda o: o.find("a1"), lambda o: o.prompts()):
        with pytest.raises(DataError, match="damaged Parquet"):
            look(open_set(str(literal)))


# ---- the list ----


def test_prompts_are_listed_filtered_and_sorted(literal: Path) -> None:
    opened = open_set(str(literal))
    assert ids(listing(opened, 2)) == ["a1", "a2"]
    assert ids(listing(opened, 9, split="train")) == ["a1", "b0"]
    assert ids(listing(opened, 9, source="t")) == ids(listing(opened, 9, source="t@local")) == ["a2"]
    assert ids(listing(opened, 9, sort="length")) == ["a1", "b0", "a2"]
    assert ids(listing(opened, 1, sort="length", least=True)) == ["a2"]
    assert ids(listing(opened, 9, sort="candidates")) == ["a1", "a2", "b0"]
    # a1: -5/2 less the mean of -7.5/2 and -4/2, noise left out; b0: -1/2 + 9/2; a2 has no log-prob
    assert ids(listing(opened, 9, sort="margin")) == ["b0", "a1", "a2"]
    assert ids(listing(opened, 9, sort="margin", least=True)) == ["a1", "b0", "a2"]
    assert listing(opened, 1)[0]["reference_margin"] == pytest.approx(-2.5 + (3.75 + 2.0) / 2)
    said = run("show", literal, "--limit", 1)
    assert said.exit_code == 0
    assert "1 of 3 prompts" in said.stdout
    assert "a1" + "0" * 14 in said.stdout
    assert json.loads(run("show", literal, "--json", "--split", "test").stdout)[0]["candidates"] == 2


def test_sorting_keeps_the_best_of_all_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_back, "BATCH_ROWS", 2)
    sizes = [3, 9, 1, 7, 8, 2]
    rows = [
        row(f"{i}", [candidate(2 * i, "chosen", "a" * n, 1), candidate(2 * i + 1, "rejected", "b", 2)])
        for i, n in enumerate(sizes)
    ]
    found = listing(open_set(str(put(tmp_path / "set", rows))), 3, sort="length")
    assert [f["chosen_chars"] for f in found] == [9, 8, 7]


# ---- one prompt ----


def test_a_unique_prefix_is_enough_and_others_are_told(literal: Path) -> None:
    opened = open_set(str(literal))
    assert opened.find("A1")["prompt_id"] == opened.find("a1" + "0" * 14)["prompt_id"] == "a1" + "0" * 14
    assert opened.find("b")["split"] == "train"
    with pytest.raises(ConfigError, match="a may be a10+, a20+; "):
        opened.find("a")
    with pytest.raises(ConfigError, match="no prompt's id begins with c"):
        opened.find("c")
    with pytest.raises(ConfigError, match="no prompt's id begins with 00"):
        opened.find("00")
    for wrong in ("", "xyz", "a" * 17, "\x1b[31m", "*", "a1\n"):
        with pytest.raises(ConfigError, match="is no prompt_id") as raised:
            opened.find(wrong)
        assert "\x1b" not in str(raised.value)


def test_a_prompt_is_shown_with_its_candidates_by_rank(literal: Path) -> None:
    found = json.loads(run("show", literal, "a1", "--json").stdout)
    assert [c["candidate_id"][-1] for c in found["candidates"]] == ["1", "2", "3", "4"]
    assert [c["rank"] for c in found["candidates"]] == [1, 2, 3, None]
    assert [c["logps"]["p"]["margin"] for c in found["candidates"]] == [0.0, -1.0, 2.5, 4.0]
    assert [c["logps"]["q"]["margin"] for c in found["candidates"]] == [0.0, 2.0, -0.5, 8.0]
    said = run("show", literal, "a1").stdout
    for text in (
        "What?",
        "1. chosen · rank 1 · score 2.5 · wins 0.75 · source by m",
        "noise by swap",
        "finish length",
        "2 copies",
    ):
        assert text in said
    assert "p: -4.000 nats over 2 tokens; the chosen -1.000" in said


def test_how_candidates_were_made_is_told_from_the_config_candidates(published: Path) -> None:
    some = open_set(str(published)).find(json.loads(run("show", published, "--json").stdout)[0]["prompt_id"])
    for place in (published, published.parents[1]):
        found = json.loads(run("show", place, some["prompt_id"], "--json").stdout)
        noisy = [c for c in found["candidates"] if c["origin"] == "noise"]
        assert all(c["parent_id"] in {d["candidate_id"] for d in found["candidates"]} for c in noisy)
        assert {c["sample"] for c in found["candidates"]} == {0}


def test_hostile_texts_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    made = [candidate(1, "chosen", HOSTILE, 1, producer=HOSTILE), candidate(2, "rejected", "b\nc", 2)]
    folder = put(tmp_path / "hostile", [row("a", made, HOSTILE, source=HOSTILE)])
    for words in (["show", folder], ["show", folder, "a"], ["stats", folder], ["diff", folder, put(tmp_path / "other", ROWS)]):
        said = run(*words)
        hidden = {c for c in said.stdout if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")} - {"\n"}
        assert not hidden, (words, hidden)
        assert "\\u001b[31mred" in said.stdout
    words = " ".join(run("show", folder, "a").stdout.split())
    assert "\\u000d[bold]x[/bold] [link=a]b[/] :smile: \\u2028 end\\ttab\\u0000" in words
    assert "    b\n    c\n" in run("show", folder, "a").stdout, "lines stay lines"
    assert run("show", folder, "a", "--json").stdout.isascii()
    assert json.loads(run("show", folder, "a", "--json").stdout)["candidates"][0]["response"] == HOSTILE


def test_long_texts_are_wrapped_to_the_terminal_and_whole(tmp_path: Path) -> None:
    text = "word " * 200 + "x" * 500
    folder = put(tmp_path / "long", [row("a", [candidate(1, "chosen", text, 1), candidate(2, "rejected", "b", 2)])])
    said = CliRunner().invoke(app, ["show", str(folder), "a"], env={"COLUMNS": "60"}, catch_exceptions=False).stdout
    assert max(map(len, said.splitlines())) <= 60
    assert said.count("word") == 200
    assert said.count("x") >= 500


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a1", "--split", "train"], "no effect on one prompt"),
        (["a1", "--least"], "no effect on one prompt"),
        (["--tokens", "m"], "no effect without one prompt"),
        (["a1", "--tokens-revision", "m"], "no effect without --tokens"),
    ],
)
def test_options_without_effect_are_refused(literal: Path, words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run("show", literal, *words)


# ---- tokens ----


def test_tokens_are_those_that_are_trained_on(lm: Path, tmp_path: Path) -> None:
    made = [
        candidate(1, "chosen", "ab c", 1),
        candidate(2, "other", "b", 1),
        candidate(3, "rejected", "ca", 2, finish="length"),
    ]
    folder, encoder = put(tmp_path / "set", [row("a", made, "Sab")]), load_encoder(str(lm))
    found = json.loads(run("show", folder, "a", "--tokens", lm, "--json").stdout)["tokens"]
    asked = [{"role": "user", "content": "Sab"}]
    assert [t["id"] for t in found["prompt"]] == encoder.prompt(asked)
    assert not any(t["loss"] for t in found["prompt"])
    (chosen, tie, cut) = found["candidates"]
    (wanted,) = encoder.completions(["ab c"], ["stop"])
    assert [t["id"] for t in chosen["tokens"]] == wanted
    assert [t["part"] for t in chosen["tokens"]] == ["answer"] * (len(wanted) - 1) + ["end"]
    assert all(t["loss"] for t in chosen["tokens"])
    assert not any(t["loss"] for t in tie["tokens"]), "a tie is never trained on"
    assert {t["part"] for t in cut["tokens"]} == {"answer"}, "a cut answer has no end"
    assert "".join(t["text"] for t in chosen["tokens"][:-1]) == "ab c"
    said = run("show", folder, "a", "--tokens", lm).stdout
    assert f"‹{token_view.shown(chosen['tokens'][0]['text'])}›{wanted[0]}" in said
    assert "prompt: " in said
    assert "end: 1 tokens, carry the loss" in said
    assert "end: none" in said


def test_without_an_end_and_as_plain_text(lm: Path, tmp_path: Path) -> None:
    folder = put(tmp_path / "set", [row("a", [candidate(1, "chosen", "ab", 1), candidate(2, "rejected", "b", 2)], "Sab")])
    found = json.loads(run("show", folder, "a", "--tokens", lm, "--template", "plain", "--end", "none", "--json").stdout)
    encoder = load_encoder(str(lm), template="plain", end="none")
    assert [t["id"] for t in found["tokens"]["prompt"]] == encoder.prompt([{"role": "user", "content": "Sab"}])
    assert {t["part"] for c in found["tokens"]["candidates"] for t in c["tokens"]} == {"answer"}


def words_with_marks(folder: Path) -> Path:
    """A tokenizer of words with a leading mark, as SentencePiece has them, and of bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    byte = {f"<0x{b:02X}>": b + 10 for b in range(256)}
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, "▁": 3, "▁the": 4, "▁cat": 5, "s": 6}
    made = Tokenizer(models.WordPiece({**words, **byte}, unk_token="<unk>", continuing_subword_prefix=""))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>").save_pretrained(folder)
    return folder


def test_leading_spaces_and_parts_of_characters_are_visible(tmp_path: Path) -> None:
    encoder = load_encoder(str(words_with_marks(tmp_path / "t")), template="plain")
    view = token_view._View(encoder)
    tokens = view.tokens([4, 5, 6, 10 + 0xC3, 10 + 0xA9], ["answer"] * 5, True)
    assert [token_view.shown(t["text"]) for t in tokens][:3] == ["the", "␣cat", "s"]
    assert tokens[3]["text"] == "<0xC3>", "a part of a character is the vocabulary's own text"
    assert token_view.shown(" a\n\t\x1b") == "␣a↵⇥\\u001b"


def test_what_a_template_refuses_and_a_tokenizer_loses_is_told(tmp_path: Path) -> None:
    calls = json.dumps({"tool_calls": [{"function": {"name": "f", "arguments": {}}}]})
    made = [
        candidate(1, "chosen", "the cat", 1),
        candidate(2, "rejected", "", 2, extras=calls),
        candidate(3, "rejected", "dog", 3),
    ]
    folder, model = put(tmp_path / "set", [row("a", made, "the cat")]), words_with_marks(tmp_path / "t")
    words = ["show", folder, "a", "--tokens", model, "--template", "plain"]
    found = json.loads(run(*words, "--json").stdout)["tokens"]["candidates"]
    assert ("refused" in found[1], found[1]["tokens"]) == (True, [])
    assert [("gives_back" in c) for c in found] == [False, False, True]
    said = run(*words).stdout
    assert "not trained on: " in said
    assert "do not give the answer back" in said
    tools = {**row("a", made[:1] + made[2:], "the cat"), "tools": "[{}]"}
    whole = json.loads(run("show", put(tmp_path / "tools", [tools]), *words[2:], "--json").stdout)["tokens"]
    assert "refused" in whole
    assert not any(t["loss"] for c in whole["candidates"] for t in c["tokens"])
