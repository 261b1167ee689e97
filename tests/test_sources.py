"""Sources: Nectar's shape with its traps, and FAULTS A: each line of bad input gets its outcome."""

import json
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import nectar, run_stages

from prefdata.errors import PrefdataError
from prefdata.sources import readers, rows
from prefdata.sources.settings import SourceSettings, SourcesSettings
from prefdata.stages import reading
from prefdata.tables import files

SOURCE = SourceSettings(name="s", path="x", license="mit")


def parse(row: dict, source: SourceSettings = SOURCE, unknown: str = "ignore") -> rows.Parsed:
    """One row, its candidates named and ranked as they are when nothing else has its prompt."""
    limits = SourcesSettings(sources=[source], max_chars=1000, unknown_fields=unknown)
    made = reading.parse(row, source, "f:1", limits)
    candidates, drops = rows.finish(made.candidates)
    return rows.Parsed(made.prompt, candidates, made.drops + drops)


def read(make_run, path: str, rate: float = 1.0, **source: object) -> dict[str, pl.DataFrame]:
    run = make_run(sources={"sources": [{"name": "s", "path": path, **source}], "max_reject_rate": rate})
    run_stages(run, "sources")
    return {
        t: files.read_table(Path(p), t) for t, p in zip(("prompts", "candidates", "drops"), run.outputs("sources"), strict=True)
    }


def test_one_row_becomes_a_prompt_and_candidates(make_run, write_rows) -> None:
    made = read(make_run, write_rows([nectar("Sba", split="test")]))
    prompt = made["prompts"].to_dicts()[0]
    assert prompt["messages"] == [{"role": "user", "content": "Sba"}]
    assert (prompt["source"], prompt["source_split"]) == ("s@local", "test")
    assert made["candidates"].select("response", "origin", "producer", "source_rank", "finish").sort("response").rows() == [
        ("ab", "source", "m0", 1.0, "stop"),
        ("ba", "source", "m1", 2.0, "stop"),
    ]
    assert made["drops"].is_empty()


def test_multi_turn_prompts_become_messages() -> None:
    text = "\n\nHuman: one\n\nAssistant: two\n\nHuman: three Human: x\n\nAssistant: "
    row = {**nectar(), "prompt": text}
    messages = parse(row).prompt["messages"]
    assert [(m["role"], m["content"]) for m in messages] == [("user", "one"), ("assistant", "two"), ("user", "three Human: x")]


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("\n\nHuman: a\n\nAssistant: b", "bad_dialogue"),
        ("\n\nAssistant: a\n\nHuman: b\n\nAssistant: ", "bad_dialogue"),
        ("\n\nHuman: a\n\nHuman: b\n\nAssistant: ", "bad_dialogue"),
        ("before\n\nHuman: b\n\nAssistant: ", "bad_dialogue"),
        ("\n\nHuman: \n\nAssistant: ", "empty_prompt"),
        ("   ", "empty_prompt"),
        ("\ud800", "bad_text"),
        ("x" * 1001, "too_many_chars"),
    ],
)
def test_prompts_that_are_dropped_with_a_reason(prompt: str, reason: str) -> None:
    parsed = parse({**nectar(), "prompt": prompt})
    assert parsed.prompt is None
    assert [(d["scope"], d["reason"]) for d in parsed.drops] == [("row", reason)]


def test_a_plain_prompt_is_kept_as_it_is() -> None:
    row = {**nectar(), "prompt": " plain text with {{ 7*7 }} {output_2} {% %} "}
    assert parse(row).prompt["messages"][0]["content"] == row["prompt"]


@pytest.mark.parametrize(
    ("answers", "reasons", "kept"),
    [
        ((("ab", 1), ("", 2)), ["empty_answer"], 2),
        ((("ab", 1), (" \n", 2)), ["empty_answer"], 2),
        ((("ab", 1), ("x\n\nHuman: next", 2)), ["role_leakage"], 2),
        ((("ab", 1), ("\ud800", 2)), ["bad_text"], 1),
        ((("ab", 1), ("y" * 1001, 2)), ["too_many_chars"], 1),
        ((("\ud800", 1),), ["bad_text", "no_candidate"], 0),
        ((), ["no_candidate"], 0),
    ],
)
def test_answers_that_are_dropped_with_a_reason(answers, reasons: list[str], kept: int) -> None:
    parsed = parse(nectar(answers=answers))
    assert [d["reason"] for d in parsed.drops] == reasons
    assert len(parsed.candidates) == kept
    assert (parsed.prompt is None) == (kept == 0)


@pytest.mark.parametrize("rank", [0, -1, 0.5, float("nan"), float("inf"), 10**400, "1", None, True])
def test_bad_ranks_are_errors_that_name_the_field(rank: object) -> None:
    with pytest.raises(PrefdataError, match=r"f:1:answers\[1\]\.rank"):
        parse(nectar(answers=(("ab", 1), ("ba", rank))))


def test_ties_averages_and_gaps_are_legal() -> None:
    parsed = parse(nectar(answers=(("a", 2.5), ("b", 2.5), ("c", 9))))
    assert [c["source_rank"] for c in parsed.candidates] == [2.5, 2.5, 9.0]


def test_ranks_may_come_from_a_map_of_the_row() -> None:
    mapped = SourceSettings(name="s", path="x", fields={"ranks": "tied_rank"})
    row = nectar(answers=(("a", 1), ("b", 2)), tied_rank={"m0": 1.5, "m1": 1.5})
    assert [c["source_rank"] for c in parse(row, mapped).candidates] == [1.5, 1.5]
    with pytest.raises(PrefdataError, match="f:1:tied_rank"):
        parse({**row, "tied_rank": {"m0": 1}}, mapped)


def _without(row: dict, name: str) -> dict:
    return {k: v for k, v in row.items() if k != name}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (_without(nectar(), "prompt"), "f:1:prompt: missing"),
        (_without(nectar(), "answers"), "f:1:answers: missing"),
        ({**nectar(), "prompt": 5}, "f:1:prompt: str or list expected, not int: 5"),
        ({**nectar(), "prompt": None}, "NoneType"),
        ({**nectar(), "answers": "x" * 99}, "list expected, not str: 'xxx"),
        ({**nectar(), "answers": ["x"]}, "f:1:answers[0]: object expected"),
        ({**nectar(), "answers": [{"model": "m", "rank": 1}]}, "f:1:answers[0]:answer: missing"),
        (
            {**nectar(), "answers": [{"answer": None, "model": "m", "rank": 1}]},
            "f:1:answers[0]:answer: str expected, not NoneType",
        ),
        ({**nectar(), "num_responses": 3}, "says 3, but there are 2"),
        ({**nectar(), "split": "dev"}, "'dev' is none of"),
        (
            nectar(answers=(("a", 1),)) | {"answers": [*nectar()["answers"][:1], {"answer": "x", "model": "y"}]},
            "some have none",
        ),
        ({**nectar(), "prompt": [{"role": "boss", "content": "x"}]}, "message 0"),
        ({**nectar(), "prompt": [{"role": "assistant", "content": "x"}]}, "the last message is the assistant's"),
    ],
)
def test_wrong_shapes_are_errors_that_name_file_row_and_field(row: dict, said: str) -> None:
    with pytest.raises(PrefdataError) as error:
        parse(row)
    assert said in str(error.value)


def test_unknown_fields_are_ignored_or_refused_as_declared() -> None:
    row = nectar(extra=1, turns=1, good_natured=True)
    assert parse(row).prompt is not None
    with pytest.raises(PrefdataError, match="f:1:extra: unknown field"):
        parse(row, unknown="error")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": 1, "a": 2}', "twice"),
        ("[1]", "a JSON array"),
        ("5", "not a JSON object"),
        ("{", "not JSON"),
        ('{"a": ' + "9" * 5000 + "}", "not JSON"),
        ('{"a":' * 100_000, "nested too deeply|not JSON"),
    ],
)
def test_strict_json(text: str, said: str) -> None:
    with pytest.raises(PrefdataError, match=said):
        readers.parse_object(text, "f:1")


def test_bom_crlf_and_blank_lines_are_read(make_run, write_rows) -> None:
    text = "\ufeff" + json.dumps(nectar("Sba")) + "\r\n\r\n" + json.dumps(nectar("Sab")) + "\r\n"
    assert read(make_run, write_rows(text))["prompts"].height == 2


def test_parquet_is_read_like_json_lines(make_run, tmp_path: Path, write_rows) -> None:
    rows = [nectar("Sba"), nectar("Rab")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    ours, theirs = read(make_run, str(tmp_path / "rows.parquet")), read(make_run, write_rows(rows))
    assert ours["candidates"].equals(theirs["candidates"])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.jsonl", b"", "the file is empty"),
        ("blank.jsonl", b"\n\n", "no rows"),
        ("latin.jsonl", b'{"a": "\xe9"}', "not utf-8 at byte 7"),
        ("x.csv", b"a,b", "unknown kind of file"),
        ("bad.parquet", b"PAR1 nothing PAR1", "damaged Parquet"),
    ],
)
def test_files_that_are_no_source(make_run, tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PrefdataError, match=said):
        read(make_run, str(tmp_path / name))


def test_a_missing_file_and_the_same_file_twice(make_run, write_rows) -> None:
    with pytest.raises(PrefdataError, match="no such file; correct sources.sources"):
        read(make_run, "/nowhere/x.jsonl")
    path = write_rows([nectar()])
    run = make_run(sources={"sources": [{"name": "a", "path": path}, {"name": "b", "path": path}]})
    with pytest.raises(PrefdataError, match="is given 2 times"):
        run_stages(run, "sources")


def test_duplicate_row_ids_name_both_rows(make_run, write_rows) -> None:
    path = write_rows([nectar("Sba", key=7), nectar("Sab", key=7)])
    with pytest.raises(PrefdataError, match=r"rows.jsonl:2:key: the row id '7' stands at rows.jsonl:1 too"):
        read(make_run, path, fields={"id": "key"})


def test_of_equal_prompts_one_row_stays_whatever_the_order(make_run, write_rows) -> None:
    rows = [nectar("Sba", (("ab", 1), ("x", 2))), nectar("Sba", (("ba", 1), ("y", 2))), nectar("Sba", (("ab", 1), ("x", 2)))]
    one, other = (read(make_run, write_rows(r)) for r in (rows, [rows[1], rows[0], rows[2]]))
    assert all(one[t].equals(other[t]) for t in one)
    assert one["prompts"].height == 1
    assert one["drops"].select("scope", "reason").rows() == [("row", "duplicate_prompt")] * 2


def test_a_prompt_belongs_to_the_first_source(make_run, write_rows) -> None:
    paths = [write_rows([nectar("Sba", ((a, 1), ("zz", 2)))], f"{a}.jsonl") for a in ("first", "second")]
    sources = [{"name": n, "path": p} for n, p in zip(("one", "two"), paths, strict=True)]
    run = make_run(sources={"sources": sources, "max_reject_rate": 1})
    run_stages(run, "sources")
    prompts, candidates, drops = (
        files.read_table(Path(p), t) for p, t in zip(run.outputs("sources"), ("prompts", "candidates", "drops"), strict=True)
    )
    assert prompts["source"].to_list() == ["one@local"]
    assert "first" in candidates["response"].to_list()
    assert drops.select("source", "reason").rows() == [("two@local", "other_source")]


def test_too_much_bad_input_fails_and_says_why(make_run, write_rows) -> None:
    path = write_rows([nectar("Sba"), nectar("Sab", (("", 1), ("x", 2)))])
    with pytest.raises(PrefdataError, match=r"1 of 6 rows and answers are bad.*empty_answer.*max_reject_rate"):
        read(make_run, path, rate=0.1)


def test_several_shards_hold_every_row_once(make_run, write_rows) -> None:
    rows = [nectar(f"S{a}{b}") for a in "abcdef" for b in "abcdef"] + [
        {**nectar(), "prompt": f"\n\nHuman: {i}"} for i in range(9)
    ]
    path = write_rows(rows)
    whole = read(make_run, path)
    run = make_run(num_shards=5, sources={"sources": [{"name": "s", "path": path}], "max_reject_rate": 1})
    run_stages(run, "sources")
    for place, table in enumerate(("prompts", "candidates", "drops")):
        parts = [files.read_table(Path(p), table) for p in run.outputs("sources")[place * 5 : place * 5 + 5]]
        key = ["source_row"] if table == "drops" else list(whole[table].columns[:1])
        assert pl.concat(parts).sort(key, maintain_order=True).equals(whole[table].sort(key, maintain_order=True))


def test_an_id_that_cannot_be_stored_is_an_error() -> None:
    keyed = SourceSettings(name="s", path="x", fields={"id": "key"})
    with pytest.raises(PrefdataError, match="f:1:key: an id that cannot be stored"):
        parse(nectar(key="\ud800"), keyed)


def test_a_lone_demonstration_is_its_sources_first() -> None:
    row = nectar()
    row["answers"] = [{"answer": "ab", "model": "m"}]
    assert parse(row).candidates[0]["source_rank"] == 1.0


def test_a_prompt_that_any_row_holds_out_is_held_out(make_run, write_rows) -> None:
    """Whatever the order of the rows and whoever owns it: a test prompt is never trained on through its twin."""
    twins = [nectar("Sba", split="train"), nectar("Sba", (("x", 1), ("y", 2)), split="test")]
    for rows_ in (twins, twins[::-1]):
        made = read(make_run, write_rows(rows_))
        assert made["prompts"]["source_split"].to_list() == ["test"]
        assert set(made["candidates"]["response"]) == {"x", "y"}
    paths = [write_rows([row], f"{i}.jsonl") for i, row in enumerate(twins)]
    run = make_run(sources={"sources": [{"name": f"s{i}", "path": p} for i, p in enumerate(paths)]})
    run_stages(run, "sources")
    prompts = files.read_table(Path(run.outputs("sources")[0]), "prompts")
    assert prompts.select("source", "source_split").rows() == [("s0@local", "test")]
