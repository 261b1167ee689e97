"""Messages as people's files hold them: what they say is kept, what cannot be kept is named, columns read like JSON lines."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import run_stages
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from prefdata.errors import DataError
from prefdata.recipe.units import Part
from prefdata.sources import conversations, json_columns, readers, rows
from prefdata.sources.conversations import Columnar, messages_of
from prefdata.sources.settings import SourceSettings, SourcesSettings
from prefdata.stages import reading
from prefdata.tables import files, messages
from prefdata.tables.ids import candidate_id, prompt_id

TABLES = ("prompts", "candidates", "drops")
few = settings(max_examples=60, deadline=None)


@pytest.fixture
def read(make_run, write_rows, tmp_path: Path):
    """read(rows, format, kind of file) -> the three tables."""

    def call(
        listed: list[dict[str, Any]],
        name: str = "trl_pairs",
        kind: str = "jsonl",
        schema: pa.Schema | None = None,
        path: str | None = None,
    ) -> dict[str, pl.DataFrame]:
        path = path or (str(tmp_path / "rows.parquet") if kind == "parquet" else write_rows(listed))
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(listed, schema=schema), path)
        run = make_run(sources={"sources": [{"name": "s", "path": path, "format": name}], "max_reject_rate": 1.0})
        run_stages(run, "sources")
        return {t: files.read_table(Path(p), t) for t, p in zip(TABLES, run.outputs("sources"), strict=True)}

    return call


def parse(row: dict[str, Any], name: str = "trl_pairs") -> rows.Parsed:
    """One row, its candidates named as they are when nothing else has its prompt."""
    source = SourceSettings(name="s", path="x", format=name)
    made = reading.parse(row, source, "f:1", SourcesSettings(sources=[source]))
    candidates, drops = rows.finish(made.candidates)
    return rows.Parsed(made.prompt, candidates, made.drops + drops)


def contents(made: dict[str, pl.DataFrame]) -> list[list[tuple[str, str]]]:
    return [[(m["role"], m["content"]) for m in p] for p in made["prompts"]["messages"].to_list()]


def reasons(made: dict[str, pl.DataFrame]) -> list[tuple[str, str]]:
    return sorted(made["drops"].select("scope", "reason").cast(pl.String).iter_rows())


def ids(made: dict[str, pl.DataFrame]) -> tuple[list[str], list[str]]:
    return made["prompts"]["prompt_id"].to_list(), made["candidates"]["candidate_id"].to_list()


def same(found: str, expected: object) -> bool:
    """Whether a JSON text is the value, its keys in the same order too."""
    return json.dumps(json.loads(found)) == json.dumps(expected)


def user(text: Any = "hi", **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def says(text: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def call(name: str = "weather", **arguments: Any) -> dict[str, Any]:
    """Its keys are in no alphabetical order."""
    return {"type": "function", "id": "c1", "function": {"name": name, "arguments": arguments}}


# ---- what a message says beside role and content ----

ASKED = [
    user("Wetter in Köln?", name="ann"),
    says(None, tool_calls=[call(town="Köln", day=1)]),
    {"role": "tool", "content": "rain", "tool_call_id": "c1", "name": "weather"},
    user("And in Rome?"),
]
ASKED_EXTRAS = [
    {"name": "ann"},
    {"content": None, "tool_calls": [call(town="Köln", day=1)]},
    {"tool_call_id": "c1", "name": "weather"},
    {},
]
GOOD = says("", tool_calls=[call(town="Rome", day=2)], reasoning_content="Öfter", name="bot")
GOOD_EXTRAS = {"tool_calls": [call(town="Rome", day=2)], "reasoning_content": "Öfter", "name": "bot"}

SHAPED = {
    "explicit pairs": ("trl_pairs", [{"prompt": ASKED, "chosen": [GOOD], "rejected": [says("no")]}]),
    "implicit pairs": ("trl_pairs", [{"chosen": [*ASKED, GOOD], "rejected": [*ASKED, says("no")]}]),
    "lone objects": ("trl_pairs", [{"conversations": ASKED, "chosen": GOOD, "rejected": says("no")}]),
    "unpaired": (
        "trl_unpaired",
        [
            {"prompt": ASKED, "completion": [GOOD], "label": True},
            {"prompt": ASKED, "completion": [says("no")], "label": False},
        ],
    ),
    "binarized": (
        "ultrafeedback_binarized",
        [{"chosen": [*ASKED, GOOD], "rejected": [*ASKED, says("no")], "score_chosen": 2, "score_rejected": 1}],
    ),
}


@pytest.mark.parametrize("which", SHAPED)
def test_what_messages_say_beside_role_and_content_is_kept_in_its_order(read, which: str) -> None:
    name, listed = SHAPED[which]
    made = read(listed, name)
    assert contents(made) == [
        [("user", "Wetter in Köln?"), ("assistant", ""), ("tool", "rain"), ("user", "And in Rome?")],
    ]
    assert same(made["prompts"]["extras"].item(), ASKED_EXTRAS)
    answers = dict(made["candidates"].select("source_rank", "extras").iter_rows())
    assert same(answers[1.0], GOOD_EXTRAS)
    assert answers[2.0] is None
    assert reasons(made) == []


def test_the_messages_of_a_set_are_those_of_its_source(make_run, write_rows) -> None:
    pair = {"prompt": ASKED, "chosen": [GOOD], "rejected": [says("no")]}
    source = {"name": "s", "path": write_rows([pair]), "format": "trl_pairs"}
    run = make_run(sources={"sources": [source]}, prune={"drop_ranks": []}, noise={"copies": 0})
    run_stages(run, "sources", "split", "prune", "rank:source", "noise", "sets:preference")
    made = files.read_table(run.table(Part("sets", "sets", "preference"), 0), "sets").to_dicts()[0]
    assert messages.prompt_of(made) == ASKED
    assert [messages.answer(c["response"], c["extras"]) for c in made["candidates"]] == [GOOD, says("no")]


def test_all_shapes_give_a_prompt_and_its_answers_the_same_ids(read) -> None:
    found = [ids(read(listed, name)) for name, listed in SHAPED.values()]
    assert all(one == found[0] for one in found)


def test_nectar_keeps_what_the_messages_of_its_prompt_say(read) -> None:
    answers = [{"answer": "a", "rank": 1, "model": "m"}, {"answer": "b", "rank": 2, "model": "n"}]
    made = read([{"prompt": ASKED, "answers": answers}, {"prompt": "plain", "answers": answers}], "nectar")
    extras = {m[0]["content"]: e for m, e in made["prompts"].select("messages", "extras").iter_rows()}
    assert same(extras["Wetter in Köln?"], ASKED_EXTRAS)
    assert extras["plain"] is None
    assert made["candidates"]["extras"].to_list() == [None] * 4


def test_ordinary_messages_have_no_extras(read) -> None:
    made = read([{"prompt": [user()], "chosen": [says("a")], "rejected": [says("b", name=None)]}])
    assert made["prompts"]["extras"].to_list() == [None]
    assert made["candidates"]["extras"].to_list() == [None, None]


def test_a_key_of_no_known_name_is_kept_and_one_that_is_null_is_not() -> None:
    made = parse({"prompt": [user(mood=["glad", None], name=None)], "chosen": "a", "rejected": "b"})
    assert same(made.prompt["extras"], [{"mood": ["glad", None]}])


# ---- ids ----


def blake(*key: Any) -> str:
    text = json.dumps(list(key), separators=(",", ":"))
    return hashlib.blake2b(text.encode("ascii"), digest_size=8).hexdigest()


def test_ids_of_ordinary_messages_are_what_they_were(read) -> None:
    own = blake('[["user","hi"]]')
    assert prompt_id([user()]) == own
    answers = [blake(own, text, "source", "unknown", -1.0, 0) for text in "ab"]
    assert candidate_id(own, "a", "source", "unknown", None, 0) == answers[0]
    for prompt in ("hi", [user(name=None)]):
        assert ids(read([{"prompt": prompt, "chosen": "a", "rejected": "b"}])) == ([own], sorted(answers))


def test_prompts_that_differ_in_extras_only_are_different_prompts(read) -> None:
    prompts = [[user()], [user(name="ann")], [user(name="bob")], [user(nick="ann")]]
    made = read([{"prompt": p, "chosen": "a", "rejected": "b"} for p in prompts])
    assert made["prompts"]["prompt_id"].n_unique() == 4
    assert made["candidates"]["candidate_id"].n_unique() == 8
    assert reasons(made) == []


def test_tools_and_extras_of_the_same_text_are_different_prompts() -> None:
    x = '[{"a":1}]'
    found = {prompt_id([user()], *more) for more in ((), (x,), (None, x), (None, None, x), (x, None, x), (x, x))}
    assert len(found) == 6


def test_answers_that_differ_in_tool_calls_only_are_two_candidates(read) -> None:
    pair = {"prompt": "p", "chosen": [says("", tool_calls=[call("f")])], "rejected": [says("", tool_calls=[call("g")])]}
    for listed in ([pair], [pair, pair]):
        made = read(listed)
        assert made["candidates"]["response"].to_list() == ["", ""]
        assert made["candidates"]["candidate_id"].n_unique() == 2
        ranks = {json.loads(e)["tool_calls"][0]["function"]["name"]: r for e, r in extras_and_ranks(made)}
        assert ranks == {"f": 1.0, "g": 2.0}
        assert reasons(made) == []


def extras_and_ranks(made: dict[str, pl.DataFrame]) -> list[tuple[str, float]]:
    return list(made["candidates"].select("extras", "source_rank").iter_rows())


# ---- what is an answer ----


@pytest.mark.parametrize(
    ("answer", "empty"),
    [
        (says(None, tool_calls=[call()]), False),
        (says("", tool_calls=[call()]), False),
        (says(" \n", tool_calls=[call()], reasoning_content="so"), False),
        ({"role": "assistant", "tool_calls": [call()]}, False),
        (says("", reasoning_content="so"), True),
        (says(" \n", reasoning_content="so"), True),
        (says("", tool_calls=[]), True),
        (says("", tool_calls=None), True),
        (says(" "), True),
        (says("x", reasoning_content=""), False),
    ],
)
@pytest.mark.parametrize("which", ["chosen", "rejected"])
def test_a_tool_call_is_an_answer_and_reasoning_alone_is_none(which: str, answer: dict[str, Any], empty: bool) -> None:
    made = parse({"prompt": "p", "chosen": [says("a")], "rejected": [says("b")], which: [answer]})
    assert [(d["scope"], d["reason"]) for d in made.drops] == [("candidate", "empty_answer")] * empty
    assert len(made.candidates) == 2


@pytest.mark.parametrize("answer", [says(None), says(None, reasoning_content="so"), says(None, tool_calls=[])])
def test_a_content_of_null_without_a_call_is_an_error(read, answer: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl:1:chosen.*no content"):
        read([{"prompt": "p", "chosen": [answer], "rejected": "b"}])


# ---- content in parts ----


def part(text: str, kind: str = "text") -> dict[str, Any]:
    return {"type": kind, "text": text}


def test_parts_of_text_are_joined(read) -> None:
    parts, whole = [part("a "), part("b", "input_text"), part("\nc", "output_text")], "a b\nc"
    made = read([{"prompt": [user(parts)], "chosen": [says(parts)], "rejected": [says([part("d")])]}])
    assert contents(made) == [[("user", whole)]]
    assert set(made["candidates"]["response"]) == {whole, "d"}
    assert ids(made) == ids(read([{"prompt": whole, "chosen": whole, "rejected": "d"}]))


@pytest.mark.parametrize(
    ("row", "place"),
    [
        (
            {"prompt": [user("x"), user([part("a"), {"type": "image_url", "image_url": {"url": "u"}}])]},
            r"prompt\[1\].content\[1\]",
        ),
        ({"chosen": [says([{"type": "image_url"}])]}, r"chosen\[0\].content\[0\]"),
        ({"rejected": [says([part("a", "image_url")])]}, r"rejected\[0\].content\[0\]"),
    ],
)
def test_an_image_is_an_error_that_names_its_place_and_type(read, row: dict[str, Any], place: str) -> None:
    with pytest.raises(DataError, match=rf"rows.jsonl:1:{place}: .*image_url"):
        read([{"prompt": "p", "chosen": "a", "rejected": "b"} | row])


def test_an_image_in_other_shapes_is_an_error_too(read) -> None:
    image, answers = [user([{"type": "image"}])], [{"answer": "a", "rank": 1, "model": "m"}]
    with pytest.raises(DataError, match=r"rows.jsonl:1:prompt\[0\].content\[0\]: .*image"):
        read([{"prompt": image, "answers": answers}], "nectar")
    with pytest.raises(DataError, match=r"rows.jsonl:1:completion\[0\].content\[0\]: .*image"):
        read([{"prompt": "p", "completion": [says([{"type": "image"}])], "label": True}], "trl_unpaired")
    with pytest.raises(DataError, match=r"rows.jsonl:1:rejected\[0\].content\[0\]: .*image"):
        read([{"chosen": [user(), says("a")], "rejected": [*image, says("b")]}], "ultrafeedback_binarized")


@pytest.mark.parametrize("content", [5, {"text": "a"}, [part("a"), 5], [{"type": "text"}], [{"type": "text", "text": None}]])
def test_a_content_that_is_no_text_is_an_error(content: object) -> None:
    with pytest.raises(DataError, match=r"f:1:prompt\[0\].content"):
        parse({"prompt": [user(content)], "chosen": "a", "rejected": "b"})


# ---- who speaks ----


def test_sharegpt_rows_are_read_like_role_and_content(read) -> None:
    turns = [("system", "Be kind."), ("human", "hi"), ("gpt", "ho"), ("tool", "42"), ("human", "And?")]
    roles = {"human": "user", "gpt": "assistant"}
    theirs = {
        "conversations": [{"from": who, "value": text} for who, text in turns],
        "chosen": {"from": "gpt", "value": "good"},
        "rejected": {"from": "gpt", "value": "bad"},
    }
    ours = {
        "prompt": [{"role": roles.get(who, who), "content": text} for who, text in turns],
        "chosen": "good",
        "rejected": "bad",
    }
    made = read([theirs])
    assert contents(made) == [[(roles.get(who, who), text) for who, text in turns]]
    assert dict(made["candidates"].select("response", "source_rank").iter_rows()) == {"good": 1.0, "bad": 2.0}
    assert made["prompts"]["extras"].to_list() == [None]
    assert ids(made) == ids(read([ours]))


def test_sharegpt_messages_keep_what_else_they_say_and_may_stand_in_any_shape(read) -> None:
    asked, good, bad = (
        {"from": "human", "value": "hi", "weight": 1},
        {"from": "gpt", "value": "a"},
        {"from": "gpt", "value": "b"},
    )
    for name, listed in {
        "trl_pairs": [{"conversations": [asked], "chosen": [good], "rejected": [bad]}],
        "ultrafeedback_binarized": [{"chosen": [asked, good], "rejected": [asked, bad]}],
        "trl_unpaired": [
            {"conversations": [asked], "completion": good, "label": True},
            {"conversations": [asked], "completion": bad, "label": False},
        ],
    }.items():
        made = read(listed, name)
        assert contents(made) == [[("user", "hi")]]
        assert same(made["prompts"]["extras"].item(), [{"weight": 1}])
        assert dict(made["candidates"].select("response", "source_rank").iter_rows()) == {"a": 1.0, "b": 2.0}


def test_a_developer_is_a_system(read) -> None:
    pair = {"chosen": "a", "rejected": "b"}
    told = [{"prompt": [{"role": r, "content": "Be kind."}, user()], **pair} for r in ("developer", "system")]
    made = read(told)
    assert contents(made) == [[("system", "Be kind."), ("user", "hi")]]
    assert ids(made) == ids(read(told[1:]))


@pytest.mark.parametrize(
    ("row", "place"),
    [
        ({"prompt": [user(), {"role": "boss", "content": "x"}]}, "prompt"),
        ({"prompt": [{"role": None, "content": "x"}]}, "prompt"),
        ({"prompt": [{"content": "x"}]}, "prompt"),
        ({"prompt": ["x"]}, "prompt"),
        ({"prompt": None, "conversations": [{"from": "boss", "value": "x"}]}, "conversations"),
        ({"chosen": {"from": "boss", "value": "x"}}, "chosen"),
        ({"rejected": [{"role": "Assistant", "content": "x"}]}, "rejected"),
    ],
)
def test_an_unknown_role_is_an_error_that_names_its_place(read, row: dict[str, Any], place: str) -> None:
    with pytest.raises(DataError, match=rf"rows.jsonl:2:{place}: message \d is no"):
        pair = {"prompt": "p", "chosen": "a", "rejected": "b"}
        read([pair, pair | row])


# ---- answers that repeat the prompt ----


@pytest.mark.parametrize("before", [[user()], [user(), says("ho"), user("and?")], ASKED])
def test_answers_that_repeat_the_prompts_messages_are_read_as_the_last(read, before: list[dict[str, Any]]) -> None:
    short = {"prompt": before, "chosen": [says("a")], "rejected": [GOOD]}
    repeated = {"prompt": before, "chosen": [*before, says("a")], "rejected": [*before, GOOD]}
    made = read([repeated])
    assert made["candidates"].height == 2
    assert ids(made) == ids(read([short]))
    unpaired = [{"prompt": before, "completion": repeated[n], "label": n == "chosen"} for n in ("chosen", "rejected")]
    assert ids(read(unpaired, "trl_unpaired")) == ids(made)


def test_h4_columns_are_read(read) -> None:
    talk = {"chosen": [user(), says("a")], "rejected": [user(), says("b")]}
    made = read([{"prompt": "hi", "prompt_id": "f" * 64, "messages": talk["chosen"], **talk}])
    assert contents(made) == [[("user", "hi")]]
    assert dict(made["candidates"].select("response", "source_rank").iter_rows()) == {"a": 1.0, "b": 2.0}


@pytest.mark.parametrize("field", ["chosen", "rejected"])
def test_answers_that_repeat_other_messages_are_errors(read, field: str) -> None:
    row = {"prompt": "hi", "chosen": [user(), says("a")], "rejected": [user(), says("b")]}
    for wrong in ([user("ho"), says("a")], [user(name="ann"), says("a")], [user(), user(), says("a")], [user()]):
        with pytest.raises(DataError, match=rf"rows.jsonl:1:{field}: one message of the assistant"):
            read([row | {field: wrong}])


# ---- lists of messages written as text ----

AS_TEXT = json.dumps([user("x"), says("y")])
RANKED = [{"answer": "a", "rank": 1, "model": "m"}]


@pytest.mark.parametrize(
    ("name", "row", "place"),
    [
        ("trl_pairs", {"prompt": "p", "chosen": AS_TEXT, "rejected": "b"}, "chosen"),
        ("trl_pairs", {"prompt": "p", "chosen": "a", "rejected": AS_TEXT}, "rejected"),
        ("trl_pairs", {"prompt": AS_TEXT, "chosen": "a", "rejected": "b"}, "prompt"),
        ("trl_pairs", {"conversations": '[{"from":"human","value":"x"}]', "chosen": "a", "rejected": "b"}, "conversations"),
        ("trl_unpaired", {"prompt": "p", "completion": AS_TEXT, "label": True}, "completion"),
        ("trl_unpaired", {"prompt": AS_TEXT, "completion": "a", "label": True}, "prompt"),
        ("ultrafeedback_binarized", {"chosen": AS_TEXT, "rejected": AS_TEXT}, "chosen"),
        ("nectar", {"prompt": "p", "answers": [{**RANKED[0], "answer": AS_TEXT}]}, r"answers\[0\]:answer"),
        pytest.param(
            "nectar",
            {"prompt": AS_TEXT, "answers": RANKED},
            "prompt",
        ),
        pytest.param(
            "helpsteer",
            {"prompt": AS_TEXT, "response": "a", "helpfulness": 1},
            "prompt",
        ),
        pytest.param(
            "trl_pairs",
            {"prompt": "p", "chosen": "\n " + json.dumps([says("x")], indent=1), "rejected": "b"},
            "chosen",
        ),
        pytest.param(
            "trl_pairs",
            {"prompt": "p", "chosen": json.dumps([{"role": "assistant", "tool_calls": [call()]}]), "rejected": "b"},
            "chosen",
        ),
    ],
)
def test_a_list_of_messages_written_as_text_is_an_error(read, name: str, row: dict[str, Any], place: str) -> None:
    with pytest.raises(DataError, match=rf"rows.jsonl:1:{place}: (a JSON list of messages|list expected)"):
        read([row], name)


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "[1] is a list",
        "[]",
        "[1, 2]",
        '["content"]',
        '[{"content": "x"}]',
        '[{"role": "user", "content": "x"}, 5]',
        '[{"role": "content"',
        "[" * 9999 + '"content"',
    ],
)
def test_a_text_that_merely_begins_like_a_list_is_a_text(text: str) -> None:
    made = parse({"prompt": text, "chosen": text, "rejected": "b"})
    assert made.prompt["messages"] == [user(text)]
    assert [c["response"] for c in made.candidates] == [text, "b"]
    assert messages_of(text, "f:1:prompt") == [user(text)]


# ---- rows from columns ----

NESTED = [
    {"prompt": "p", "chosen": [says("", tool_calls=[call("f", x={"y": "z"})])], "rejected": [says("b")]},
    {"prompt": "q", "chosen": [says(None, tool_calls=[call("g", z="w"), {"id": "2"}])], "rejected": [says("b")]},
]


def test_keys_that_a_message_lacks_are_absent_whatever_the_file(read) -> None:
    """Of messages whose extras are texts: a null that its column fills in is no extra."""
    listed = [
        {"prompt": [user(name="ann")], "chosen": [says("a", reasoning_content="so")], "rejected": [says("b")]},
        {"prompt": [user("ho")], "chosen": [says("a", name="bot")], "rejected": [says("b")]},
    ]
    lines, columns = read(listed), read(listed, kind="parquet")
    assert ids(lines) == ids(columns)
    for table in ("prompts", "candidates"):
        assert lines[table]["extras"].to_list() == columns[table]["extras"].to_list()


def test_tool_calls_of_parquet_have_the_keys_they_were_written_with(read) -> None:
    lines, columns = read(NESTED), read(NESTED, kind="parquet")
    assert lines["candidates"]["extras"].to_list() == columns["candidates"]["extras"].to_list()
    assert ids(lines) == ids(columns)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def json_column(values: Sequence[Any]) -> pa.Array:
    return pa.ExtensionArray.from_storage(pa.json_(), pa.array([v if v is None else json.dumps(v) for v in values]))


def in_json(listed: list[dict[str, Any]], path: Path, **texts: str) -> str:
    """The rows with answers whose other keys are JSON columns; `texts`: JSON of the first row's own, by key."""
    arrays = {}
    for side in ("chosen", "rejected"):
        said = [row[side][0] for row in listed]
        keys = sorted({k for m in said for k in m} - {"role", "content"})
        columns = {k: json_column([m.get(k) for m in said]) for k in keys}
        for key, text in texts.items():
            if key in columns:
                storage = pa.array([text, *columns[key].storage.to_pylist()[1:]])
                columns[key] = pa.ExtensionArray.from_storage(pa.json_(), storage)
        columns = {k: pa.array([m[k] for m in said], pa.string()) for k in ("role", "content")} | columns
        messages_ = pa.StructArray.from_arrays(list(columns.values()), fields=[pa.field(k, c.type) for k, c in columns.items()])
        arrays[side] = pa.ListArray.from_arrays(pa.array(range(len(listed) + 1), pa.int32()), messages_)
    pq.write_table(pa.table({"prompt": [row["prompt"] for row in listed], **arrays}), path)
    return str(path)


@few
@given(st.lists(json_values.filter(lambda v: v is not None), min_size=1, max_size=4))
def test_json_columns_are_what_their_texts_say(values: list[Any]) -> None:
    """Null keys too, and whatever the key: at the top, in messages, and as `datasets` gives them."""
    row = {"a": 1, "said": [{"role": "user", "more": values}, {"role": "user", "more": None}], "json": values[0]}
    as_text = {**row, "said": [{"role": "user", "more": json.dumps(values)}, row["said"][1]], "json": json.dumps(values[0])}
    places = {"said": [{"more": True}], "json": True}
    for found in (json_columns.read(as_text, places, "f:0"), json_columns.read(row, places)):
        assert json.dumps(found) == json.dumps(row)
        assert json.dumps(conversations._without_nulls(found["said"][0]["more"])) == json.dumps(values)


def test_answers_in_json_columns_are_those_of_the_lines(read, tmp_path: Path) -> None:
    listed = [
        {
            "prompt": "p",
            "chosen": [says("a", meta={"x": None, "y": [{"z": None}]}, tool_calls=[call("f", day=None)], weight=0)],
            "rejected": [says("b", flags=[True, None], weight="0")],
        },
        {"prompt": "q", "chosen": [says("a")], "rejected": [says("b", weight=False)]},
    ]
    path = in_json(listed, tmp_path / "rows.parquet")
    lines, columns = read(listed), read([], path=path)
    assert lines["candidates"]["extras"].to_list() == columns["candidates"]["extras"].to_list()
    assert ids(lines) == ids(columns)


@pytest.mark.parametrize(("text", "said"), [("{", "not JSON"), ("NaN", "NaN is not JSON"), ('{"a":1,"a":2}', "twice")])
def test_a_json_column_is_read_as_strictly_as_json_lines(read, tmp_path: Path, text: str, said: str) -> None:
    listed = [{"prompt": "p", "chosen": [says("a", weight=0)], "rejected": [says("b")]}]
    with pytest.raises(DataError, match=rf"^rows.parquet:0:chosen\[0\].weight.*{said}"):
        read([], path=in_json(listed, tmp_path / "rows.parquet", weight=text))


def test_features_of_datasets_tell_where_json_is() -> None:
    features = datasets.Features(
        {"a": datasets.Value("string"), "m": datasets.List({"role": datasets.Value("string"), "w": datasets.Json()})}
    )
    assert json_columns.places_in(features) == {"m": [{"w": True}]}
    assert json_columns.places_in(datasets.Features({"j": datasets.Json()})) == {"j": True}
    assert not json_columns.places_in(datasets.Features({"a": datasets.List(datasets.Value("int64"))}))


def test_tools_of_parquet_have_the_keys_they_were_written_with(read) -> None:
    tools = [
        {"type": "function", "function": {"name": "f", "parameters": {"properties": {n: {"type": "string"}}}}} for n in "xy"
    ]
    listed = [{"prompt": "p", "chosen": "a", "rejected": "b", "tools": [t]} for t in tools]
    lines, columns = read(listed), read(listed, kind="parquet")
    assert lines["prompts"]["tools"].to_list() == columns["prompts"]["tools"].to_list()
    assert ids(lines) == ids(columns)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_tools_written_as_text_are_kept_as_they_stand(read, kind: str) -> None:
    """A null that the text itself holds was written there by somebody."""
    tools = [{"function": {"name": "f", "default": None}}]
    made = read([{"prompt": "p", "chosen": "a", "rejected": "b", "tools": json.dumps(tools)}], kind=kind)
    assert same(made["prompts"]["tools"].item(), tools)


def test_tools_written_as_text_in_a_columnar_row_are_kept_as_they_stand() -> None:
    tools = [{"function": {"name": "f", "default": None}}]
    made = parse(Columnar({"prompt": "p", "chosen": "a", "rejected": "b", "tools": json.dumps(tools)}))
    assert same(made.prompt["tools"], tools)


def test_parts_without_a_type_are_texts_in_columns_too(read) -> None:
    listed = [{"prompt": [user([part("a"), {"text": "b"}])], "chosen": "a", "rejected": "b"}]
    assert ids(read(listed)) == ids(read(listed, kind="parquet"))


def test_sharegpt_and_roles_may_stand_in_one_column(read) -> None:
    listed = [
        {"conversations": [user(), {"from": "gpt", "value": "ho"}, user("and?")], "chosen": "a", "rejected": "b"},
        {"conversations": [{"from": "human", "value": "x"}], "chosen": "a", "rejected": "b"},
    ]
    lines, columns = read(listed), read(listed, kind="parquet")
    assert sorted(contents(lines)) == [[("user", "hi"), ("assistant", "ho"), ("user", "and?")], [("user", "x")]]
    assert ids(lines) == ids(columns)
    assert columns["prompts"]["extras"].to_list() == [None, None]


TEXT = pa.string()
SPEC = pa.struct({"type": TEXT, "enum": pa.list_(TEXT)})
ARGUMENTS = pa.struct({"town": TEXT, "day": pa.int64(), "deep": pa.list_(pa.struct({"x": TEXT, "y": pa.struct({"z": TEXT})}))})
CALL = pa.struct({"id": TEXT, "type": TEXT, "function": pa.struct({"name": TEXT, "arguments": ARGUMENTS})})
MESSAGE = pa.struct(
    {
        "role": TEXT,
        "content": TEXT,
        "tool_calls": pa.list_(CALL),
        "reasoning_content": TEXT,
        "name": TEXT,
        "tool_call_id": TEXT,
    }
)
TOOL = pa.struct(
    {
        "type": TEXT,
        "function": pa.struct({"name": TEXT, "parameters": pa.struct({"town": SPEC, "day": SPEC})}),
    }
)
COLUMNS = {"prompt": pa.list_(MESSAGE), "chosen": pa.list_(MESSAGE), "rejected": MESSAGE, "tools": pa.list_(TOOL)}
SCHEMA = pa.schema(COLUMNS)


def values(kind: pa.DataType) -> st.SearchStrategy[Any]:
    """Values of an Arrow type in which any object may lack any key; keys stand in the type's order."""
    if pa.types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        drawn = st.fixed_dictionaries({}, optional={f.name: values(f.type) for f in fields})
        return drawn.map(lambda d: {f.name: d[f.name] for f in fields if f.name in d})
    if pa.types.is_list(kind):
        return st.lists(values(kind.value_type), max_size=2)
    return st.integers(0, 3) if pa.types.is_integer(kind) else st.sampled_from(["", "a", "ü"])


def spoken(role: str) -> st.SearchStrategy[dict[str, Any]]:
    """A message of this role with some of the further keys; an assistant's content may be null beside a tool call."""

    def made(drawn: dict[str, Any], text: str, null: bool) -> dict[str, Any]:
        content = None if null and role == "assistant" and drawn.get("tool_calls") else text
        return {"role": role, "content": content} | {k: v for k, v in drawn.items() if k not in ("role", "content")}

    return st.builds(made, values(MESSAGE), st.sampled_from(["x", "y"]), st.booleans())


def spoken_rows() -> st.SearchStrategy[dict[str, Any]]:
    answer = spoken("assistant")
    asked = st.tuples(spoken("user"), answer, spoken("tool")).map(list) | st.tuples(spoken("user")).map(list)
    fields = {"prompt": asked, "chosen": st.tuples(answer).map(list), "rejected": answer}
    return st.fixed_dictionaries(fields, optional={"tools": values(COLUMNS["tools"])})


@few
@given(st.lists(spoken_rows(), min_size=1, max_size=3))
def test_columnar_rows_say_what_json_lines_say(tmp_path_factory: pytest.TempPathFactory, listed: list[dict[str, Any]]) -> None:
    """Whatever keys are present, at any depth; Columnar as a reader of columns has to make it."""
    folder = tmp_path_factory.mktemp("columns")
    lines, columns = folder / "rows.jsonl", folder / "rows.parquet"
    lines.write_text("".join(json.dumps(row) + "\n" for row in listed), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(listed, schema=SCHEMA), columns)
    ours = [parse(row) for _, row in readers.from_file(lines, "path")]
    theirs = [parse(Columnar(row)) for _, row in readers.from_file(columns, "path")]
    for one, other in zip(ours, theirs, strict=True):
        assert {**one.prompt, "source_row": ""} == {**other.prompt, "source_row": ""}
        assert one.candidates == other.candidates


@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(spoken_rows(), min_size=1, max_size=3))
def test_the_stage_makes_the_same_of_parquet_and_of_json_lines(read, listed: list[dict[str, Any]]) -> None:
    lines, columns = read(listed), read(listed, kind="parquet", schema=SCHEMA)
    assert ids(lines) == ids(columns)
    for table, names in (("prompts", ["extras", "tools"]), ("candidates", ["extras", "source_rank"])):
        assert lines[table].select(names).equals(columns[table].select(names))


# ---- tables and messages are inverse ----


own_keys = st.text(max_size=5).filter(lambda k: k not in ("role", "content"))
more_keys = st.dictionaries(own_keys | st.sampled_from(["name", "tool_calls", "reasoning_content"]), json_values, max_size=3)


def any_message(roles: tuple[str, ...]) -> st.SearchStrategy[dict[str, Any]]:
    contents_of = st.none() | st.text(max_size=9)
    return st.builds(lambda r, c, m: {"role": r, "content": c, **m}, st.sampled_from(roles), contents_of, more_keys)


@few
@given(st.lists(any_message(("system", "user", "assistant", "tool")), max_size=4))
def test_split_and_joined_are_inverse(listed: list[dict[str, Any]]) -> None:
    plain, extras = messages.split(listed)
    back = messages.joined(plain, extras)
    assert back == listed
    assert [list(m) for m in back] == [list(m) for m in listed], "keys keep their order"
    assert all(set(m) == {"role", "content"} and isinstance(m["content"], str) for m in plain)
    ordinary = all(set(m) == {"role", "content"} and m["content"] is not None for m in listed)
    assert (extras is None) == ordinary
    assert messages.split(back) == (plain, extras)
    assert messages.prompt_of({"messages": plain, "extras": extras}) == listed


@few
@given(any_message(("assistant",)))
def test_split_answer_and_answer_are_inverse(message: dict[str, Any]) -> None:
    response, extras = messages.split_answer(message)
    back = messages.answer(response, extras)
    assert back == message
    assert list(back) == list(message)
    assert isinstance(response, str)
    assert (extras is None) == (set(message) == {"role", "content"} and message["content"] is not None)
    assert messages.split_answer(back) == (response, extras)


def test_a_message_is_read_as_its_content_then_its_other_keys() -> None:
    assert messages.as_text(user("x")) == "x"
    assert messages.as_text(user("x", name=None)) == "x"
    first, second = messages.as_text(says("x", tool_calls=[call()])).split("\n")
    assert first == "x"
    assert same(second, {"tool_calls": [call()]})
    assert same(messages.as_text(says(None, tool_calls=[call()])), {"tool_calls": [call()]})
