"""What a data stage holds at once: ranges of prompts by bytes, the columns that it declares, nothing where nothing comes of it."""

from pathlib import Path

import polars as pl
import pytest
from conftest import nectar, run_stages

from prefdata.recipe import parts
from prefdata.recipe.job import Job
from prefdata.recipe.units import Part
from prefdata.stages.registry import STAGES
from prefdata.tables import files, table_writer
from prefdata.tables.schema import TABLES

PATH = ("sources", "signatures", "dedup", "split", "prune", "rank", "noise", "sets")


@pytest.fixture
def made(make_run, write_rows):
    def make(name: str, shards: int = 2):
        answers = [(f"answer {k} " * 9, k + 1) for k in range(4)]
        rows = [nectar(f"What is {i} and {i * i}?", answers[: 2 + i % 3]) for i in range(60)]
        run = make_run(name=name, num_shards=shards, sources={"sources": [{"name": "s", "path": write_rows(rows)}]}, dedup={})
        run_stages(run, *PATH)
        return run

    return make


def hashes(run) -> dict[str, str]:
    root = run.root / "tables"
    return {str(p.relative_to(root)): files.manifest(p)["content_hash"] for p in sorted(root.rglob("*.parquet"))}


def test_tables_do_not_depend_on_what_is_held_at_once(made, monkeypatch: pytest.MonkeyPatch) -> None:
    large = hashes(made("large"))
    monkeypatch.setattr(parts, "PART_BYTES", 1)
    monkeypatch.setattr(files, "BATCH_ROWS", 3)
    monkeypatch.setattr(table_writer, "ROW_GROUP_ROWS", 2)
    assert hashes(made("small")) == large
    assert sum(name.startswith("sets/") for name in large) == 4


def test_parts_are_as_large_as_their_bytes_allow(made, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made("parts", shards=1)
    job = Job(run, "sets", "preference")
    (whole,) = job.parts()
    assert whole["prompts"].height == 60
    monkeypatch.setattr(parts, "PART_BYTES", 2000)
    several = list(job.parts())
    assert 3 < len(several) < 60
    assert pl.concat([f["candidates"] for f in several]).equals(whole["candidates"])
    assert [f["prompts"].height for f in job.parts(prompts=25)] == [25, 25, 10], "as many as asked for, whatever they hold"


@pytest.mark.parametrize("stage", [s for s in STAGES if STAGES[s].columns])
def test_declared_columns_are_columns_with_the_prompt(stage: str) -> None:
    for table, columns in STAGES[stage].columns.items():
        assert "prompt_id" in columns
        assert set(columns) <= set(TABLES[table].columns)


def test_a_stage_sees_the_columns_that_it_declares(made) -> None:
    run = made("columns")
    for stage in ("prune", "rank", "split"):
        job = Job(run, stage, run.units(stage)[0])
        for frames in job.parts():
            for table, columns in job.stage.columns.items():
                assert set(frames[table].columns) == set(columns)
            assert "response" not in frames.get("candidates", pl.DataFrame()).columns


def test_nothing_is_read_where_no_row_can_come_of_it(made, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made("nothing")
    read: list[str] = []
    whole = files.iter_table

    def watched(path: Path, table: str, *rest, **more):
        read.append(table)
        return whole(path, table, *rest, **more)

    monkeypatch.setattr(files, "iter_table", watched)
    run_stages(run, "noise")
    assert read == [], "no reference, so no noise"
    job = Job(run, "sets", "sft")
    job.stage.run(job)
    assert set(read) == {"splits"}, "no prompt is for plain SFT"
    assert files.read_table(run.table(Part("sets", "sets", "sft"), 0), "sets").is_empty()


def test_a_table_of_some_columns_keeps_what_is_left_of_its_key() -> None:
    some = TABLES["candidates"].only(("response",))
    assert (list(some.columns), some.key, some.unique) == (["prompt_id", "response"], ("prompt_id",), False)
    assert TABLES["candidates"].only(None) is TABLES["candidates"]
    with pytest.raises(KeyError, match="respnse"):
        TABLES["candidates"].only(("respnse",))
