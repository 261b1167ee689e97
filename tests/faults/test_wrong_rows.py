"""FAULTS A, rows whose shape or values are wrong: one line with file, row and field; the earlier output stays."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from .cases import (
    Case,
    Error,
    Fault,
    add,
    as_parameters,
    both,
    change,
    change_answer,
    policy,
    set_line,
    set_text,
    without,
    without_in_answer,
)
from .place import Place, Row, good_row

ROW = r"rows\.jsonl:4:"
ANSWER = r"rows\.jsonl:4:answers\[1\][:.]"


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
    other = [{**r, "prompt": 1} for r in place.rows[6:]]
    pq.write_table(pa.Table.from_pylist(other), place.folder / "two.parquet")
    place.source["path"] = ["one.parquet", "two.parquet"]


def doubled_id(place: Place, name: str) -> None:
    place.rows[5]["id"] = place.rows[3]["id"]


def fractional_ranks(place: Place, name: str) -> None:
    """Ranks that Parquet stores as floats."""
    for answer in (a for row in place.rows for a in row["answers"]):
        answer["rank"] = float(answer["rank"])


def same_name(place: Place, name: str) -> None:
    place.recipe["sources"]["sources"].append({**place.source, "path": "b.jsonl"})


LONG = "x" * 99
ONE_ANSWER = '{"id":"x","prompt":"x","answers":[{"answer":"a","model":"m","rank":%s}]}'
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
    Case("a count of answers that is a text", change(num_responses="three"), Error(ROW + "num_responses: .*not str: 'three'")),
    Case("a null prompt", change(prompt=None), Error(ROW + "prompt: .*not NoneType")),
    Case("null answers", change(answers=None), Error(ROW + "answers: .*not NoneType")),
    Case("a null answer", change(answers=[None]), Error(ROW + r"answers\[0\]: .*not NoneType")),
    Case("a null answer text", change_answer(answer=None), Error(ANSWER + "answer: .*not NoneType")),
    Case("a null model", change_answer(model=None), Error(ANSWER + "model: .*not NoneType")),
    Case("a null rank", change_answer(rank=None), Error(ANSWER + "rank: .*not NoneType")),
    Case("a null prompt in Parquet", both(change(prompt=None), as_parquet), Error(r"rows\.parquet:3:prompt: .*not NoneType")),
    Case("a rank of NaN", change_answer(rank=float("nan")), Error(r"rows\.jsonl:4: NaN is not JSON")),
    Case("a rank of infinity", change_answer(rank=float("inf")), Error(r"rows\.jsonl:4: Infinity is not JSON")),
    Case("a rank that overflows", set_line(ONE_ANSWER % "1e999"), Error("rank: .*inf")),
    Case("a rank of 400 digits", change_answer(rank=10**400), Error(ANSWER + "rank: ranks are finite and >= 1")),
    Case("a rank of 0", change_answer(rank=0), Error(ANSWER + "rank: ranks are finite and >= 1, not 0")),
    Case("a rank below 1", change_answer(rank=0.5), Error(ANSWER + r"rank: ranks are finite and >= 1, not 0\.5")),
    Case("a negative rank", change_answer(rank=-2), Error(ANSWER + "rank: ranks are finite and >= 1, not -2")),
    Case(
        "a rank of NaN in Parquet",
        both(fractional_ranks, change_answer(rank=float("nan")), as_parquet),
        Error(r"rows\.parquet:3:answers\[1\].rank: ranks are finite and >= 1, not nan"),
    ),
    Case("num_responses unlike the list", change(num_responses=4), Error(ROW + "num_responses: says 4, but there are 3")),
    Case("num_response unlike the list", change(num_response=2), Error(ROW + "num_response: says 2, but there are 3")),
    Case("a row id that stands twice", doubled_id, Error(r"rows\.jsonl:6:id: .*'good3' stands at rows\.jsonl:4 too")),
    Case("an unknown column", both(policy(unknown_fields="error"), change(colour=1)), Error(ROW + "colour: unknown")),
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
    Case("an empty Parquet file", lambda p, n: as_parquet(p, n, []), Error(r"rows\.parquet: the file has no rows")),
    Case("the same file twice", second_source("rows.jsonl"), Error(r"rows\.jsonl is given 2 times")),
    Case("the same file twice by another path", second_source("../c/rows.jsonl"), Error(r"rows\.jsonl is given 2 times")),
    Case("the same file twice by a link", linked, Error(r"rows\.jsonl is given 2 times")),
    Case("the same name twice", same_name, Error("mine is given 2 times")),
    Case(
        "more bad rows than allowed",
        both(policy(max_reject_rate=0.01), add(answers=[("a", 1), ("", 2)])),
        Error(r"1 of \d+ rows .*empty_answer.*max_reject_rate"),
    ),
]


@pytest.mark.parametrize("case", as_parameters(ERRORS))
def test_stops_with_one_line_and_keeps_the_earlier_output(case: Case, place: Place) -> None:
    case.run(place)
