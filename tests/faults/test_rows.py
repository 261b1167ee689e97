"""FAULTS A, rows and schema: every clause a case."""

import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from .machinery import (
    MAX_CHARS,
    Case,
    Dropped,
    Error,
    Fault,
    Handled,
    Place,
    Row,
    add,
    as_errors,
    as_parameters,
    chain,
    change,
    change_answer,
    defect,
    good_row,
    phrase,
    require_counted,
    require_error,
    require_hint,
    set_line,
    set_text,
    without,
    without_in_answer,
)

ROW = r"rows\.jsonl:4:"
ANSWER = r"rows\.jsonl:4:answers\[1\][:.]"


def policy(**keys: Any) -> Fault:
    """Other keys in the section `sources` of the recipe."""
    return lambda place, name: place.recipe["sources"].update(keys)


def both(*faults: Fault) -> Fault:
    return lambda place, name: [fault(place, name) for fault in faults]


def as_parquet(place: Place, name: str, rows: list[Row] | None = None) -> None:
    """The rows as Parquet, which can hold what JSON cannot."""
    place.folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(place.rows if rows is None else rows), place.folder / "rows.parquet")
    place.source["path"] = "rows.parquet"


def second_source(path: str) -> Fault:
    """The same file once more, under another name."""
    return lambda place, name: place.recipe["sources"]["sources"].append({**place.source, "name": "again", "path": path})


def linked(place: Place, name: str) -> None:
    os.symlink("rows.jsonl", place.folder / "link.jsonl")
    second_source("link.jsonl")(place, name)


def two_schemas(place: Place, name: str) -> None:
    """One source in two Parquet files, of which the second has another type in a column."""
    pq.write_table(pa.Table.from_pylist(place.rows[:6]), place.folder / "one.parquet")
    other = [{**r, "split": None, "extra": 1} for r in place.rows[6:]]
    pq.write_table(pa.Table.from_pylist(other), place.folder / "two.parquet")
    place.source["path"] = ["one.parquet", "two.parquet"]


def doubled_id(place: Place, name: str) -> None:
    place.rows[5]["id"] = place.rows[3]["id"]


LONG = "x" * 99
ERRORS = [
    Case("a missing prompt", without("prompt"), Error(ROW + "prompt: missing")),
    Case("missing answers", without("answers"), Error(ROW + "answers: missing")),
    Case("a missing answer text", without_in_answer("answer"), Error(ANSWER + "answer: missing")),
    Case("a missing model", without_in_answer("model"), Error(ANSWER + "model: missing")),
    Case("a rank that one answer lacks", without_in_answer("rank"), Error(ROW + "answers: some answers have a rank")),
    Case("a missing row id", without("id"), Error(ROW + "id: missing")),
    Case("a message without content", change(prompt=[{"role": "user"}]), Error(ROW + "prompt: message 0")),
    Case("a prompt that is a number", change(prompt=5), Error(ROW + "prompt: .*not int: 5")),
    Case("a prompt that is true", change(prompt=True), Error(ROW + "prompt: .*not bool: True")),
    Case("a prompt that is an object", change(prompt={"a": 1}), Error(ROW + "prompt: .*not dict: ")),
    Case("messages that are texts", change(prompt=["x"]), Error(ROW + "prompt: message 0.*'x'")),
    Case("a message of an unknown role", change(prompt=[{"role": "boss", "content": "x"}]), Error(ROW + "prompt: .*'boss'")),
    Case("a prompt that ends with an answer", change(prompt=[{"role": "assistant", "content": "x"}]), Error(ROW + "prompt: ")),
    Case("answers that are a long text", change(answers=LONG), Error(ROW + r"answers: .*not str: 'x{30,39}(?!x)")),
    Case("answers that are an object", change(answers={"a": 1}), Error(ROW + "answers: .*not dict: ")),
    Case("an answer that is a text", change(answers=["x"]), Error(ROW + r"answers\[0\]: .*not str: 'x'")),
    Case("an answer text that is a number", change_answer(answer=7), Error(ANSWER + "answer: .*not int: 7")),
    Case("a model that is a list", change_answer(model=["m"]), Error(ANSWER + "model: .*not list: ")),
    Case("a rank that is a text", change_answer(rank="1"), Error(ANSWER + "rank: .*not str: '1'")),
    Case("a rank that is a list", change_answer(rank=[1]), Error(ANSWER + "rank: .*not list: ")),
    Case("a rank that is true", change_answer(rank=True), Error(ANSWER + "rank: .*not bool: True")),
    Case("a row id that is a fraction", change(id=1.5), Error(ROW + r"id: .*not float: 1\.5")),
    Case("a split that is a number", change(split=3), Error(ROW + "split: .*not int: 3")),
    Case("a split of another name", change(split="dev"), Error(ROW + "split: 'dev' is none of")),
    Case(
        "a count of answers that is a text",
        change(num_responses="three"),
        Error(ROW + "num_responses: .*not str: 'three'"),
        defect="a count that is no integer is not looked at",
    ),
    Case("a null prompt", change(prompt=None), Error(ROW + "prompt: .*not NoneType")),
    Case("null answers", change(answers=None), Error(ROW + "answers: .*not NoneType")),
    Case("a null answer", change(answers=[None]), Error(ROW + r"answers\[0\]: .*not NoneType")),
    Case("a null answer text", change_answer(answer=None), Error(ANSWER + "answer: .*not NoneType")),
    Case("a null model", change_answer(model=None), Error(ANSWER + "model: .*not NoneType")),
    Case("a null rank", change_answer(rank=None), Error(ANSWER + "rank: .*not NoneType")),
    Case("a null prompt in Parquet", both(change(prompt=None), as_parquet), Error(r"rows\.parquet:3:prompt: .*not NoneType")),
    Case("a rank of NaN", change_answer(rank=float("nan")), Error(r"rows\.jsonl:4: NaN is not JSON")),
    Case("a rank of infinity", change_answer(rank=float("inf")), Error(r"rows\.jsonl:4: Infinity is not JSON")),
    Case("a rank that overflows", set_line('{"id":"x","prompt":"x","answers":[{"answer":"a","model":"m","rank":1e999}]}'), Error("rank: .*inf")),
    Case("a rank of 400 digits", change_answer(rank=10**400), Error(ANSWER + "rank: ranks are finite and >= 1")),
    Case("a rank of 0", change_answer(rank=0), Error(ANSWER + "rank: ranks are finite and >= 1, not 0")),
    Case("a rank below 1", change_answer(rank=0.5), Error(ANSWER + r"rank: ranks are finite and >= 1, not 0\.5")),
    Case("a negative rank", change_answer(rank=-2), Error(ANSWER + "rank: ranks are finite and >= 1, not -2")),
    Case(
        "a rank of NaN in Parquet",
        both(
            lambda place, name: [a.update(rank=float(a["rank"])) for r in place.rows for a in r["answers"]],
            change_answer(rank=float("nan")),
            as_parquet,
        ),
        Error(r"rows\.parquet:3:answers\[1\].rank: ranks are finite and >= 1, not nan"),
    ),
    Case("num_responses unlike the list", change(num_responses=4), Error(ROW + "num_responses: says 4, but there are 3")),
    Case("num_response unlike the list", change(num_response=2), Error(ROW + "num_response: says 2, but there are 3")),
    Case("a row id that stands twice", doubled_id, Error(r"rows\.jsonl:6:id: .*'good3' stands at rows\.jsonl:4 too")),
    Case("an unknown column where the policy is error", both(policy(unknown_fields="error"), change(colour=1)), Error(ROW + "colour: unknown")),
    Case("shards with different schemas", two_schemas, Error(r"one\.parquet.*two\.parquet|two\.parquet.*one\.parquet")),
    Case("JSON with NaN", change(extra=float("nan")), Error(r"rows\.jsonl:4: NaN is not JSON")),
    Case("JSON with a key twice", set_line('{"prompt": "a", "prompt": "b"}'), Error(r"rows\.jsonl:4:.*'prompt'.*twice|twice")),
    Case("JSON nested 100,000 deep", set_line('{"a":' * 100_000), Error(r"rows\.jsonl:4: (nested too deeply|not JSON)")),
    Case("JSON with an integer of 5,000 digits", set_line('{"a": ' + "9" * 5000 + "}"), Error(r"rows\.jsonl:4: not JSON")),
    Case("JSON that is an array", set_text(json.dumps([good_row("a")])), Error(r"rows\.jsonl:1: a JSON array")),
    Case("JSON that is cut", set_line('{"prompt": "a", '), Error(r"rows\.jsonl:4: not JSON")),
    Case("JSON that is a number", set_line("5"), Error(r"rows\.jsonl:4: not a JSON object")),
    Case("text that is not utf-8", set_text(b'{"a": "\xe9"}\n'), Error(r"rows\.jsonl:1: not utf-8 at byte 7")),
    Case("an empty file", set_text(""), Error(r"rows\.jsonl: the file is empty")),
    Case("a file of blank lines", set_text("\n \n"), Error(r"rows\.jsonl: the file has no rows")),
    Case("an empty Parquet file", lambda place, name: as_parquet(place, name, []), Error(r"rows\.parquet: the file has no rows")),
    Case("the same file twice", second_source("rows.jsonl"), Error(r"rows\.jsonl is given 2 times")),
    Case("the same file twice by another path", second_source("../c/rows.jsonl"), Error(r"rows\.jsonl is given 2 times")),
    Case("the same file twice by a link", linked, Error(r"rows\.jsonl is given 2 times")),
    Case("the same name twice", lambda p, n: p.recipe["sources"]["sources"].append({**p.source, "path": "b.jsonl"}), Error("mine is given 2 times")),
    Case("more bad rows than allowed", both(policy(max_reject_rate=0.01), add(answers=[("a", 1), ("", 2)])), Error(r"1 of \d+ rows .*empty_answer.*max_reject_rate")),
]  # fmt: skip


@pytest.mark.parametrize("case", as_parameters(ERRORS))
def test_stops_with_one_line_and_keeps_the_earlier_output(case: Case, place: Place) -> None:
    case.run(place)


WORDLESS = [
    "a message without content",
    "messages that are texts",
    "a message of an unknown role",
    "an answer that is a text",
    "a rank that is a text",
    "a rank that is a list",
    "a rank that is true",
    "a null answer",
    "a null rank",
]


@pytest.mark.parametrize("case", as_errors(ERRORS, WORDLESS))
def test_says_what_to_do(case: Case, place: Place) -> None:
    require_hint(case, place)


# ---- rows that are dropped or handled: all of them in one input ----


def human(text: str) -> str:
    return f"\n\nHuman: {text}\n\nAssistant: "


def twins(place: Place, name: str) -> None:
    """Three rows with one prompt, of which the source calls one a test row."""
    for number, split in enumerate(("train", "test", "train")):
        answers = [(phrase(name, number, i), i + 1) for i in range(3)]
        place.rows.append(good_row(f"{name}{number}", human(phrase(name)), answers, split=split))


def response_of(place: Place, name: str, role: str) -> list[str]:
    candidates = place.set_of(name)["candidates"]
    return [c["response"] for c in candidates if c["role"] == role and c["origin"] == "source"]


def shows_merged(place: Place, name: str) -> None:
    """The best rank of the three equal texts is kept, and they are counted."""
    same = [c for c in place.set_of(name)["candidates"] if c["copies"] > 1]
    assert [(c["response"], c["rank"], c["copies"]) for c in same] == [("é same", 2, 3)]
    assert len(place.of(name, "candidates", "sources")) == 5, "the table keeps every row"


def shows_dense(place: Place, name: str) -> None:
    """Source ranks 1, 2.5, 2.5, 9 become 1, 2, 2, 3."""
    assert sorted(r["rank"] for r in place.of(name, "ranks", "rank", "source")) == [1, 2, 2, 3]
    assert sorted(c["source_rank"] for c in place.of(name, "candidates", "sources")) == [1, 2.5, 2.5, 9]


def shows_tie_at_the_top(place: Place, name: str) -> None:
    """One of the first is chosen, the others are no rejected ones, and the published pair is the chosen and the last."""
    assert len(response_of(place, name, "chosen")) == 1
    assert len(response_of(place, name, "other")) == 2
    assert response_of(place, name, "rejected") == [phrase(name, "last")]
    own = place.prompt(name)["prompt_id"]
    pairs = pl.concat([pl.read_parquet(p) for p in (place.dataset / "data/preference").glob("*.parquet")])
    (pair,) = pairs.filter(pl.col("prompt_id") == own).to_dicts()
    assert pair["rejected"][0]["content"] == phrase(name, "last")


def shows_one_prompt(place: Place, name: str) -> None:
    """One of the rows stays, the others are counted, and the prompt is in one split: the test split, as one row says."""
    messages = [{"role": "user", "content": phrase(name)}]
    prompts = place.table("prompts", "sources").filter(
        pl.col("messages").map_elements(lambda m: m.to_list() == messages, pl.Boolean)
    )
    assert prompts.height == 1
    dropped = place.table("drops", "sources").filter(pl.col("source_row").str.starts_with(name))
    assert dropped["reason"].to_list() == ["duplicate_prompt"] * 2
    require_counted(place, place.paths("drops", "sources")[0], "duplicate_prompt")
    splits = place.table("splits", "split").join(prompts, on="prompt_id", how="semi")
    assert splits.height <= 1


def shows_extra_columns_ignored(place: Place, name: str) -> None:
    assert len(place.of(name, "candidates", "sources")) == 3
    assert "colour" not in place.table("prompts", "sources").columns


ALIKE = ("é same", "e\u0301 same", "é same")
ROWS = [
    Case("an empty answer", add(answers=[("a b", 1), ("c d", 2), ("", 3)]), Dropped("empty_answer", scope="candidate")),
    Case("a whitespace answer", add(answers=[("a b", 1), ("c d", 2), (" \n\t", 3)]), Dropped("empty_answer", scope="candidate")),
    Case("an empty prompt", add(human("")), Dropped("empty_prompt")),
    Case("a whitespace prompt", add("  \n "), Dropped("empty_prompt")),
    Case("an empty list of messages", add([]), Dropped("empty_prompt")),
    Case("no answers", add(answers=[]), Dropped("no_candidate")),
    Case("no usable answer", add(answers=[("x" * (MAX_CHARS + 1), 1)]), Dropped("no_candidate")),
    Case("one candidate", add(answers=[("alone", 1)]), Dropped("need_2", "sets", "prompt", unit="preference")),
    Case("all identical after NFC", add(answers=[(ALIKE[0], 1), (ALIKE[1], 2)]), Dropped("identical", "sets", "prompt", unit="preference")),
    Case("all tied", add(answers=[("one x", 1), ("two x", 1)]), Dropped("no_preference", "sets", "prompt", unit="preference")),
    Case("role leakage", add(answers=[("a b", 1), ("c\n\nHuman: d", 2), ("e f", 3)]), Dropped("role_leakage", scope="candidate")),
    Case("a broken dialogue", add("\n\nAssistant: a\n\nHuman: b\n\nAssistant: "), Dropped("bad_dialogue")),
    Case("a prompt over max_chars", add(human("y" * (MAX_CHARS + 1))), Dropped("too_many_chars")),
    Case("an answer over max_chars", add(answers=[("a b", 1), ("y" * (MAX_CHARS + 1), 2), ("c", 3)]), Dropped("too_many_chars")),
    Case("some identical", add(answers=[("best", 1), *((t, 2 + i, f"m{i}") for i, t in enumerate(ALIKE)), ("last", 9)]), Handled(shows_merged)),
    Case("ties averages and gaps", add(answers=[("a b", 1), ("c d", 2.5), ("e f", 2.5), ("g h", 9)]), Handled(shows_dense)),
    Case(
        "several at rank 1",
        lambda place, name: add(answers=[*((phrase(name, i), 1) for i in range(3)), (phrase(name, "last"), 2)])(place, name),
        Handled(shows_tie_at_the_top),
    ),
    Case("duplicate prompts", twins, Handled(shows_one_prompt)),
    Case("unknown extra columns where the policy is ignore", add(colour="red"), Handled(shows_extra_columns_ignored)),
]  # fmt: skip


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, good: Place) -> Place:
    """The good rows and all of these in one run."""
    return mixture(tmp_path_factory.mktemp("rows"), good, ROWS)


def mixture(folder: Path, good: Place, cases: list[Case]) -> Place:
    place = Place(folder, [dict(r) for r in good.rows], json.loads(json.dumps(good.recipe)))
    for case in cases:
        case.fault(place, case.breaks)
    place.write()
    said = place.run(*chain())
    assert said.code == 0, said.err
    return place


@pytest.mark.parametrize("case", as_parameters(ROWS))
def test_a_row_is_dropped_or_handled(case: Case, mixed: Place) -> None:
    case.check(mixed)


def test_never_a_pair_across_equal_ranks(mixed: Place) -> None:
    for row in mixed.table("sets", "sets", "preference").to_dicts():
        ranks = {c["candidate_id"]: c["rank"] for c in row["candidates"]}
        chosen = row["candidates"][0]
        rejected = [c for c in row["candidates"] if c["role"] == "rejected" and c["origin"] != "noise"]
        assert all(c["rank"] > chosen["rank"] for c in rejected), ranks
    sets = {r["prompt_id"]: r for r in mixed.table("sets", "sets", "preference").to_dicts()}
    for path in (mixed.dataset / "data" / "preference").glob("*.parquet"):
        for pair in pl.read_parquet(path).to_dicts():
            ranks = {c["candidate_id"]: c["rank"] for c in sets[pair["prompt_id"]]["candidates"]}
            assert ranks[pair["chosen_id"]] < ranks[pair["rejected_id"]]


def test_bad_rows_change_nothing_of_the_good_ones(mixed: Place, good: Place) -> None:
    mine = good.table("prompts", "sources").select("prompt_id")
    for table, stage in (
        ("prompts", "sources"),
        ("candidates", "sources"),
        ("splits", "split"),
        ("ranks", "rank"),
        ("candidates", "noise"),
    ):
        assert (
            mixed.table(table, stage)
            .join(mine, on="prompt_id", how="semi", maintain_order="left")
            .equals(good.table(table, stage))
        )


# ---- what needs a recipe of its own ----


def every_split_of_twins(place: Place, name: str) -> None:
    """Whatever the hashes of the rows: a prompt that a test row has is a test prompt."""
    for pair in range(6):
        for split in ("train", "test"):
            answers = [(phrase(name, pair, split, i), i + 1) for i in range(2)]
            place.rows.append(good_row(f"{name}{pair}{split}", human(phrase(name, pair)), answers, split=split))


def shows_test_prompts(place: Place, name: str) -> None:
    prompts = place.table("prompts", "sources").filter(pl.col("source_row").str.starts_with(name))
    splits = place.table("splits", "split").join(prompts, on="prompt_id", how="semi")
    assert splits["split"].to_list() == ["test"] * 6


def near_twins(place: Place, name: str) -> None:
    """Long prompts that differ in case, spaces and one word, one a train row and one a test row."""
    text = phrase(name, words=60)
    place.rows.append(good_row(f"{name}a", human(text), split="train"))
    place.rows.append(good_row(f"{name}b", human(text.replace(" ", "  ", 3).capitalize() + " so"), split="test"))


def shows_one_cluster(place: Place, name: str) -> None:
    prompts = place.table("prompts", "sources").filter(pl.col("source_row").str.starts_with(name))
    kept = place.table("sets", "sets", "preference").join(prompts, on="prompt_id", how="semi")
    assert kept["split"].to_list() == ["test"], "of a cluster one prompt stays, in the test split as one of its rows"


def shows_dropped_order(place: Place, name: str) -> None:
    """Positions 2 and 3 go, one of the two tied included; the last keeps its place in the source's order."""
    gone = {r["candidate_id"] for r in place.of(name, "drops", "prune")}
    left = [c["response"] for c in place.of(name, "candidates", "sources") if c["candidate_id"] not in gone]
    assert len(gone) == 2
    assert len({"one x", "two x"} & set(left)) == 1, "of the tied at 1 and 2 the draw keeps one"
    assert {"four x", "five x"} < set(left)


OF_ITS_OWN = [
    Case("twins of which one is a test row", every_split_of_twins, Handled(shows_test_prompts), last="split", defect="the smaller row hash decides which of two rows stays, and with it the split"),
    Case("near duplicates in train and test", near_twins, Handled(shows_one_cluster), last="sets"),
    Case(
        "drop_ranks over ties",
        both(
            add(answers=[("one x", 1.5), ("two x", 1.5), ("three x", 3), ("four x", 4), ("five x", 4)]),
            lambda place, name: place.recipe.update(prune={"drop_ranks": [2, 3]}),
        ),
        Handled(shows_dropped_order),
        last="prune",
    ),
    Case(
        "decisions of the recipe beside a reject rate of 0",
        both(policy(max_reject_rate=0.0), twins, add(answers=[("alone", 1)]), add(answers=[("a", 1), ("b", 1)], id="tied", prompt=human("all tied"))),
        Handled(lambda place, name: None),
        last="sets",
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", as_parameters(OF_ITS_OWN))
def test_is_handled(case: Case, place: Place) -> None:
    case.run(place)


def test_a_bom_crlf_and_blank_lines_change_no_table(place: Place, good: Place) -> None:
    place.text = "\ufeff" + "\r\n\r\n".join(json.dumps(r) for r in place.rows) + "\r\n"
    place.write()
    assert place.run("sources").code == 0
    for table in ("prompts", "candidates", "drops"):
        assert place.table(table, "sources").equals(good.table(table, "sources"))


def test_the_keyed_draw_at_the_top_depends_on_the_seed_alone(place: Place) -> None:
    """Other seeds choose others, the same seed the same, whatever the order of the answers."""
    chosen: dict[int, str] = {}
    texts = [phrase("top", i) for i in range(4)]
    for seed in (1, 2, 3, 1):
        answers = [*((t, 1, t) for t in (texts if seed in chosen else texts[::-1])), ("last", 2, "z")]
        place.rows = [good_row("top", answers=answers)]
        place.recipe = {**place.recipe, "seed": seed, "score": {}}
        place.write()
        assert place.run(*chain(last="sets")).code == 0
        (first,) = [c["response"] for c in place.set_of("top")["candidates"] if c["role"] == "chosen"]
        assert chosen.setdefault(seed, first) == first
    assert len(set(chosen.values())) > 1


def test_the_share_of_bad_rows_is_checked_over_all_shards(place: Place) -> None:
    """One bad answer among many, alone in its shard: 1 in 50 passes at 5 %, fails at 1 %."""
    place.rows.append(good_row("bad", answers=[("a b", 1), ("", 2)]))
    place.recipe |= {"num_shards": 40, "score": {}}
    place.recipe["sources"]["max_reject_rate"] = 0.05
    place.write()
    assert place.run("sources").code == 0
    place.recipe["sources"]["max_reject_rate"] = 0.01
    place.write()
    require_error(place.run("sources"), r"1 of \d+ rows and answers are bad")


@defect("publish takes an unchanged set for an unchanged card, so new counts of drops are never published")
def test_a_count_that_changes_is_published_though_no_row_does(place: Place) -> None:
    """A row that only adds a drop: the published card counts it."""
    place.rows.append(good_row("empty", human("")))
    place.write()
    assert place.run(*chain()).code == 0
    require_counted(place, place.paths("drops", "sources")[0], "empty_prompt")
