"""The spool gives back what was written, and only repeated prompts' rows are read again."""

import json
import random
from pathlib import Path

import pytest
from conftest import nectar, run_stages

from prefdata.errors import DataError
from prefdata.sources import readers
from prefdata.sources.settings import SourceSettings
from prefdata.stages import reading, shared_reading, spool
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
    assert list(spool.lines([path])) == written
    assert spool.repeated([path]) == {IDS[0].encode()}, "rows that are no prompts do not repeat one another"
    assert [one["prompt"]["text"] for one in spool.lines([path], spool.repeated([path]))] == ["a", "d"]


def test_small_ranges_are_taken_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with spool.Spool(tmp_path / "s" / "0") as spooled:
        for bucket in (0, 1, 2, 5):
            spooled.write(bucket, line(IDS[0], "a"))
    assert [[p.name for p in group] for group in spool.together(tmp_path / "s", range(8))] == [["0", "1", "2", "5"]]
    monkeypatch.setattr(spool, "TOGETHER_BYTES", (tmp_path / "s" / "0" / "0").stat().st_size + 1)
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
    smallest = min((r for r in rows if "Same" in r["prompt"]), key=reading.row_hash)
    assert smallest["answers"][0]["answer"] in kept[0]
    assert kept[0] == kept[1]


def test_several_processes_read_what_one_reads(make_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a line and a bit; prompts that repeat, bad rows, texts of a template, a mark of the encoding, empty lines."""
    rows = [
        nectar(f"Say {i % 20}", [(f"answer {i} <|im_end|>", 1), ("" if i % 7 == 0 else "b\x00" if i % 5 == 0 else "c", 2)])
        for i in range(40)
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + "\n\n".join(map(json.dumps, rows[:30])).encode())
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[30:]))
    made = []
    for name in ("one", "several"):
        paths = [str(tmp_path / f"{n}.jsonl") for n in "ab"]
        run = make_run(name=name, num_shards=3, sources={"sources": [{"name": "s", "path": paths}], "max_reject_rate": 1.0})
        run_stages(run, "sources")
        root = run.root / "tables"
        assert not (root / ".spool").exists()
        made.append({str(p.relative_to(root)): files.manifest(p)["content_hash"] for p in root.rglob("*.parquet")})
        monkeypatch.setattr(shared_reading, "PIECE_BYTES", 300)
        monkeypatch.setattr(shared_reading, "processors", lambda: 3)
    assert made[0] == made[1]
    assert len(made[0]) == 9


@pytest.mark.parametrize("wrong", ['{"prompt": 3}', "[1]", "{", '{"a": NaN}'])
def test_the_first_wrong_row_is_told_whoever_reads_it(
    make_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    lines = [json.dumps(nectar(f"Say {i}")) for i in range(30)]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines[:17], wrong, *lines[17:], '{"prompt": 4}']) + "\n")
    monkeypatch.setattr(shared_reading, "PIECE_BYTES", 300)
    monkeypatch.setattr(shared_reading, "processors", lambda: 2)
    run = make_run(sources={"sources": [{"name": "s", "path": str(tmp_path / "a.jsonl")}]})
    with pytest.raises(DataError, match=r"^a\.jsonl:18"):
        run_stages(run, "sources")
    assert not list((run.root / "tables").rglob("*.parquet"))


def test_small_or_doubtful_sources_are_read_by_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a"}\n' * 9)
    source = SourceSettings(name="s", path=str(path))
    monkeypatch.setattr(shared_reading, "processors", lambda: 2)
    assert not shared_reading.pays(source, [path]), "small"
    monkeypatch.setattr(shared_reading, "PIECE_BYTES", 20)
    assert shared_reading.pays(source, [path])
    found = list(shared_reading.cut(path))
    assert [(p.start, p.stop, p.number) for p in found] == [(0, 32, 1), (32, 64, 3), (64, 96, 5), (96, 128, 7), (128, 144, 9)]
    assert [where for p in found for where, _ in readers.lines_of(path, p.start, p.stop, p.number)] == [
        f"a.jsonl:{i}" for i in range(1, 10)
    ]
    assert not shared_reading.pays(source.model_copy(update={"fields": {"id": "i"}}), [path]), "ids must differ"
    for other in (tmp_path / "none.jsonl", tmp_path / "a.parquet"):
        assert not shared_reading.pays(source, [path, other])
    (tmp_path / "empty.jsonl").touch()
    assert not shared_reading.pays(source, [path, tmp_path / "empty.jsonl"])


def test_a_file_without_rows_is_told_among_large_ones(make_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl").write_text((json.dumps(nectar("a")) + "\n") * 9)
    (tmp_path / "b.jsonl").write_text("\n" * 900)
    monkeypatch.setattr(shared_reading, "PIECE_BYTES", 300)
    monkeypatch.setattr(shared_reading, "processors", lambda: 2)
    run = make_run(sources={"sources": [{"name": "s", "path": [str(tmp_path / f"{n}.jsonl") for n in "ab"]}]})
    with pytest.raises(DataError, match="no rows"):
        run_stages(run, "sources")
