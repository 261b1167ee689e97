"""docs/sources.md, "Your file looks like this": every row of the table is read, and becomes what its third cell says.

The third cell is "refused: <part of the message>", or parts between semicolons: prompt (its roles), with (what else it has),
candidates (each with its rank), drops (their reasons), warns (part of the message).
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import run_stages

from prefdata.errors import PrefdataError
from prefdata.recipe.results import Results
from prefdata.recipe.settings.whole import Settings
from prefdata.sources.settings import SourceSettings, SourcesSettings
from prefdata.sources.shapes import SHAPES
from prefdata.sources.words import words
from prefdata.tables import files
from prefdata.tables.drops import REASONS
from train.file_settings import DataSettings

PAGE = (Path(__file__).parent.parent / "docs" / "sources.md").read_text(encoding="utf-8")
TABLES = ("prompts", "candidates", "drops")
RECIPE_ONLY = ("prompts_only", "template")
"""Keys of the second cell that a recipe has, and `data` of a training file has not."""
CANDIDATE = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[^"\s+]+)((?:\+\w+)*) (unranked|[\d.]+)(?:,|$)')
Made = dict[str, pl.DataFrame]


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    name: str
    objects: list[dict[str, Any]]
    settings: dict[str, Any]
    becomes: str
    notes: str


def tables() -> list[list[list[str]]]:
    """The cells of every table of the page, headings left out."""
    found = re.findall(r"(?:^\|.*\n)+", PAGE, re.M)
    return [[[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()[2:]] for table in found]


def listed_rows() -> list[Row]:
    """The rows that have a JSON object."""
    made = []
    for first, second, third, fourth in tables()[0]:
        objects = [json.loads(o) for o in re.findall(r"`(\{.*?\})`(?=<br>|$)", first)]
        if objects:
            settings = yaml.safe_load("{" + second.strip("`") + "}")
            made.append(Row(first.partition("<br>")[0], objects, settings, third.replace("`", ""), fourth))
    return made


ROWS = listed_rows()


def expected(becomes: str) -> dict[str, Any]:
    """The parts of a third cell."""
    parts = dict(part.split(": ", 1) for part in becomes.split("; "))
    assert parts.keys() <= {"prompt", "with", "candidates", "drops", "warns"}, becomes
    assert re.fullmatch(f"(?:{CANDIDATE.pattern})*", parts.get("candidates", "")), becomes
    candidates = [
        (json.loads(text) if text.startswith('"') else text, more, None if rank == "unranked" else float(rank))
        for text, more, rank in CANDIDATE.findall(parts.get("candidates", ""))
    ]
    lists = {name: sorted(filter(None, parts.get(name, "").split(", "))) for name in ("with", "drops")}
    return {"prompt": parts.get("prompt"), "candidates": sorted(candidates, key=str), **lists}


def found(made: Made) -> dict[str, Any]:
    """The same of what was made."""
    assert made["prompts"].height <= 1, "a row of the table has one prompt"
    prompt = next(iter(made["prompts"].to_dicts()), None)
    return {
        "prompt": prompt and ", ".join(said(m["role"], e) for m, e in zip(prompt["messages"], extras_of(prompt), strict=True)),
        "with": [] if prompt is None else beside(prompt),
        "candidates": sorted(
            (
                (c["response"], said("", json.loads(c["extras"] or "{}")), c["source_rank"])
                for c in made["candidates"].to_dicts()
            ),
            key=str,
        ),
        "drops": sorted(made["drops"]["reason"]),
    }


def extras_of(prompt: Mapping[str, Any]) -> list[dict[str, Any]]:
    return json.loads(prompt["extras"]) if prompt["extras"] else [{}] * len(prompt["messages"])


def said(what: str, extras: Mapping[str, Any]) -> str:
    """`what` with the names of what is said beside it; a null content is no name."""
    return what + "".join(f"+{key}" for key in extras if key != "content")


def beside(prompt: Mapping[str, Any]) -> list[str]:
    names = [name for name in ("tools", "template_kwargs") if prompt[name]]
    return sorted([*names, *([f"answer {prompt['answer']}"] if prompt["answer"] else [])])


def recipe(row: Row, path: str) -> dict[str, Any]:
    """The recipe's keys that read the row's file."""
    source = {k: v for k, v in row.settings.items() if k != "template"}
    made: dict[str, Any] = {"sources": {"sources": [{"name": "s", "path": path, **source}], "max_reject_rate": 1}}
    if "template" in row.settings:
        made["score"] = {"references": [{"name": "r", "model": "/models/r", "template": row.settings["template"]}]}
    if row.settings.get("prompts_only"):
        made["generate"] = {"models": [{"name": "m", "id": "/models/m"}]}
    return made


def read(run: Results) -> Made:
    run_stages(run, "sources")
    return {t: files.read_table(Path(p), t) for t, p in zip(TABLES, run.outputs("sources"), strict=True)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.name}: {row.settings['format']}")
def test_a_row_of_the_page_becomes_what_it_says(
    row: Row,
    make_run: Callable[..., Results],
    write_rows: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = make_run(**recipe(row, write_rows(row.objects)))
    verb, _, message = row.becomes.partition(": ")
    if verb == "refused":
        with pytest.raises(PrefdataError) as caught:
            read(run)
        assert message in str(caught.value)
        assert re.match(r"rows\.jsonl:\d+:", str(caught.value)), "it names file, row and field"
        return
    made = read(run)
    assert found(made) == expected(row.becomes)
    _, warns, warning = row.becomes.partition("warns: ")
    stderr = capsys.readouterr().err
    assert warning in stderr if warns else "warning" not in stderr
    try:
        table = pa.Table.from_pylist(row.objects)
    except pa.ArrowInvalid:
        assert row.settings["format"] == "arena_hard", "only its version 2 has texts and objects in one place"
        return
    pq.write_table(table, tmp_path / "rows.parquet")
    columns = read(make_run(**recipe(row, str(tmp_path / "rows.parquet"))))
    assert found(columns) == found(made), "Parquet is read alike"


def test_every_format_has_a_row() -> None:
    assert {row.settings["format"] for row in ROWS} == set(SHAPES)
    assert len(tables()[0]) - len(ROWS) == 3, "only the rows about files have no object"


def test_settings_may_stand_under_data_of_a_training_file() -> None:
    for row in ROWS:
        if not row.settings.keys() & set(RECIPE_ONLY):
            DataSettings.model_validate({"path": "rows.jsonl", **row.settings})


def test_the_fields_of_each_format_are_all_there() -> None:
    told = {name: yaml.safe_load("{" + fields.strip("`") + "}") for name, fields in tables()[1]}
    assert told == {name: dict(shape.fields) for name, shape in SHAPES.items()}


def test_the_page_names_every_reason_that_is_bad_input_and_no_unknown_one() -> None:
    for kind, start in (("rows", "- in the rows:"), ("later", "- found by later stages:")):
        text = re.search(rf"^{re.escape(start)}((?:.+\n)+?)(?=- |\n)", PAGE, re.M)
        assert text is not None
        assert set(re.findall(r"`(\w+)`", text[1])) == {name for name, reason in REASONS.items() if reason.found == kind}
    known = {*REASONS, *SHAPES, *Settings.model_fields, *SourcesSettings.model_fields, *SourceSettings.model_fields}
    known |= {name for shape in SHAPES.values() for name in (*shape.fields, *shape.fields.values(), *shape.extras)}
    known |= {"candidates", "completion", "input_text", "messages", "nectar", "output_text", "sft", "system", "template"}
    known |= {"tool_calls", "truthful_qa", "verifier"}
    for row in ROWS:
        assert set(re.findall(r"`([a-z_]+)`", row.notes)) <= known, row.name


# ---- the rows about files ----

PAIR = {"prompt": "Hi", "chosen": "good", "rejected": "bad"}


def test_several_files_and_patterns_are_one_source(make_run: Callable[..., Results], tmp_path: Path) -> None:
    (tmp_path / "more" / "deep").mkdir(parents=True)
    for i, place in enumerate(("a.jsonl", "more/b.jsonl", "more/deep/c.jsonl")):
        (tmp_path / place).write_text(json.dumps({**PAIR, "prompt": f"p{i}"}) + "\n")
    for paths, count in (([f"{tmp_path}/a.jsonl", f"{tmp_path}/more/*.jsonl"], 2), (f"{tmp_path}/**/*.jsonl", 3)):
        run = make_run(sources={"sources": [{"name": "s", "path": paths, "format": "trl_pairs"}]})
        assert read(run)["prompts"].height == count


def test_parquet_files_whose_types_differ(make_run: Callable[..., Results], tmp_path: Path) -> None:
    kinds = [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
    for i, kind in enumerate(kinds):
        extra = [("note", pa.null())] if i else [("score", pa.int64())]
        schema = pa.schema([*((name, kind) for name in PAIR), *extra])
        pq.write_table(pa.Table.from_pylist([{**PAIR, "prompt": f"p{i}"}], schema=schema), tmp_path / f"{i}.parquet")
    source = {"name": "s", "path": f"{tmp_path}/*.parquet", "format": "trl_pairs"}
    assert read(make_run(sources={"sources": [source]}))["prompts"].height == len(kinds)
    pq.write_table(pa.Table.from_pylist([{**PAIR, "chosen": 5}]), tmp_path / "9.parquet")
    with pytest.raises(PrefdataError, match=r"9\.parquet: its column chosen .number. differs from that of .*0\.parquet"):
        read(make_run(sources={"sources": [source]}))


@pytest.mark.parametrize("name", [n for n, shape in SHAPES.items() if not shape.arrays])
def test_one_json_array_is_refused(name: str, make_run: Callable[..., Results], write_rows: Callable[..., str]) -> None:
    path = write_rows(json.dumps([PAIR]), "rows.json")
    with pytest.raises(PrefdataError, match=r"write one object a line .jq -c '\.\[\]'"):
        read(make_run(sources={"sources": [{"name": "s", "path": path, "format": name}]}))


# ---- the paragraphs below ----


def prompts(listed: list[dict[str, Any]], make_run: Callable[..., Results], write_rows: Callable[..., str]) -> list[str]:
    """The prompt_ids of rows of pairs."""
    source = {"name": "s", "path": write_rows(listed), "format": "trl_pairs"}
    return read(make_run(sources={"sources": [source]}))["prompts"]["prompt_id"].to_list()


def test_what_identifies_a_prompt(make_run: Callable[..., Results], write_rows: Callable[..., str]) -> None:
    talk = [{"role": r, "content": c} for r, c in (("user", "Hi"), ("assistant", "Yes?"), ("user", "Go on"))]
    names = {"user": "human", "assistant": "gpt"}
    alike = [
        {**PAIR, "prompt": talk},
        {**PAIR, "prompt": "Human: Hi\n\nAssistant: Yes?\n\nHuman: Go on\n\nAssistant: "},
        {**PAIR, "prompt": None, "conversations": [{"from": names[m["role"]], "value": m["content"]} for m in talk]},
        {**PAIR, "prompt": [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in talk]},
    ]
    assert len(prompts(alike, make_run, write_rows)) == 1
    differing = [
        PAIR,
        {**PAIR, "tools": [{"name": "f", "description": "d"}]},
        {**PAIR, "tools": [{"description": "d", "name": "f"}]},
        {**PAIR, "prompt": [{"role": "user", "content": "Hi", "timestamp": 1}]},
        {**PAIR, "chat_template_kwargs": {"enable_thinking": False}},
    ]
    assert len(prompts(differing, make_run, write_rows)) == len(differing)


def test_dedup_looks_at_what_the_user_says_only(make_run: Callable[..., Results], write_rows: Callable[..., str]) -> None:
    asked = "What is the weather in Rome today?"
    listed = [
        {**PAIR, "prompt": asked},
        {**PAIR, "prompt": asked, "tools": [{"name": "weather"}]},
        {**PAIR, "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": asked}]},
    ]
    source = {"name": "s", "path": write_rows(listed), "format": "trl_pairs"}
    run = make_run(sources={"sources": [source]}, dedup={})
    assert read(run)["prompts"].height == len(listed)
    run_stages(run, "signatures", "dedup")
    drops = files.read_table(Path(run.outputs("dedup")[1]), "drops")
    assert drops["reason"].to_list() == ["duplicate"] * 2


def test_words_are_those_of_the_page() -> None:
    assert len({tuple(words(t)) for t in ("C++", "C#", "C", "7 - 3", "7 + 3", "5", "5!", "3.5", "3 5")}) == 9
    assert words("Well, WELL!") == ["well", "well"]
    for text in ("你好吗", "ひらが", "ກຂຄ", "กขค", "កខគ", "ကခဂ"):
        assert words(text) == list(text)


def test_pairs_in_a_recipe_need_another_prune(make_run: Callable[..., Results], write_rows: Callable[..., str]) -> None:
    source = {"name": "s", "path": write_rows([PAIR]), "format": "trl_pairs"}
    for prune, left in (({}, 1), ({"drop_ranks": []}, 2)):
        run = make_run(sources={"sources": [source]}, prune=prune)
        run_stages(run, "sources", "split", "prune")
        assert 2 - files.read_table(Path(run.outputs("prune")[0]), "drops").height == left
