"""The spool gives back what was written, and only repeated prompts' rows are read again."""

import json
import random
from pathlib import Path

import pytest
from conftest import nectar, run_stages

from prefdata.sources import readers
from prefdata.stages import sources, spool
from prefdata.tables import files

IDS = [f"{i:016x}" for i in range(3)]


def line(own: str | None, text: str) -> dict:
    prompt = {"prompt_id": own, "text": text} if own else None
    return {"prompt": prompt, "candidates": [1.5, None, "\ud800"], "row_hash": None}


def test_lines_come_back_by_range_and_by_prompt(tmp_path: Path) -> None:
    written = [line(IDS[0], "a"), line(None, "b"), line(IDS[1], "c"), line(IDS[0], "d"), line(None, "e")]
    with spool.Spool(tmp_path / "s") as spooled:
        for one in written:
            spooled.write(4, one)
    path = tmp_path / "s" / "4"
    assert list(spool.lines(path)) == written
    assert spool.repeated(path) == {IDS[0].encode()}, "rows that are no prompts do not repeat one another"
    assert [one["prompt"]["text"] for one in spool.lines(path, spool.repeated(path))] == ["a", "d"]


def test_small_ranges_are_taken_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with spool.Spool(tmp_path / "s") as spooled:
        for bucket in (0, 1, 2, 5):
            spooled.write(bucket, line(IDS[0], "a"))
    assert [[p.name for p in group] for group in spool.together(tmp_path / "s", range(8))] == [["0", "1", "2", "5"]]
    monkeypatch.setattr(spool, "TOGETHER_BYTES", (tmp_path / "s" / "0").stat().st_size + 1)
    assert [[p.name for p in group] for group in spool.together(tmp_path / "s", range(8))] == [["0", "1"], ["2", "5"]]


def test_a_line_is_read_again_where_it_begins(tmp_path: Path) -> None:
    rows = [{"a": "é" * i, "b": i} for i in range(4)]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\n\n".join(json.dumps(r, ensure_ascii=False) for r in rows).encode())
    read = [row for _, row in readers.from_file(path, "key")]
    assert read == rows
    assert [readers.line_at(*row.place) for row in read] == rows


def test_the_smaller_row_hash_stays_whether_rows_are_hashed_early_or_late(make_run, tmp_path: Path) -> None:
    """Of Parquet rows, which cannot be read again by themselves, hashes are made at once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [nectar("Same?", answers=[(f"answer {i}", 1), ("none", 2)]) for i in range(8)] + [nectar("Other?")]
    random.Random(3).shuffle(rows)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    kept = []
    for kind in ("jsonl", "parquet"):
        run = make_run(name=kind, sources={"sources": [{"name": "s", "path": str(tmp_path / f"rows.{kind}")}]})
        run_stages(run, "sources")
        kept.append(files.read_table(Path(run.outputs("sources")[1]), "candidates")["response"].to_list())
    smallest = min((r for r in rows if "Same" in r["prompt"]), key=sources._row_hash)
    assert smallest["answers"][0]["answer"] in kept[0]
    assert kept[0] == kept[1]
