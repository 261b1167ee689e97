"""FAULTS C, files that are cut, changed, gone or too large: an error that names the file, never other rows."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefdata.draws import hash64
from prefdata.errors import PrefdataError
from prefdata.sources import readers
from prefdata.sources.settings import SourceSettings
from prefdata.tables import files, schema, table_writer

from .cases import Case, Error, Fault, as_parameters, require_error
from .place import Place, good_row

READ_BY = {
    ("prompts", "sources"): "split",
    ("candidates", "sources"): "prune",
    ("drops", "sources"): "prune",
    ("splits", "split"): "rank",
    ("drops", "prune"): "rank",
    ("ranks", "rank"): "noise",
    ("candidates", "noise"): "score",
    ("logps", "score"): "sets",
    ("sets", "sets"): "report",
}
"""A stage that reads each of our own tables."""


def truncated(table: str, stage: str, share: float) -> Fault:
    def fault(place: Place, name: str) -> None:
        for path in place.paths(table, stage):
            path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return fault


def truncated_source(share: float) -> Fault:
    def fault(place: Place, name: str) -> None:
        path = place.folder / "rows.parquet"
        pq.write_table(pa.Table.from_pylist(place.rows), path)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        place.source["path"] = path.name

    return fault


def gone(place: Place, name: str) -> None:
    place.paths("splits", "split")[0].unlink()


def of_another_kind(place: Place, name: str) -> None:
    shutil.copy(place.paths("ranks", "rank")[0], place.paths("splits", "split")[0])


def folder_for_a_table(place: Place, name: str) -> None:
    gone(place, name)
    (place.root / "tables/splits/split/all/00000-of-00001.parquet").mkdir()


def no_chunk_store(place: Place, name: str) -> None:
    next(place.root.glob("chunks/score/*.sqlite")).write_bytes(b"nothing" * 999)


def source_at(path: str) -> Fault:
    """Another path of the source: a folder `sub` and a file of an unknown kind are there, nothing else."""

    def fault(place: Place, name: str) -> None:
        (place.folder / "sub").mkdir()
        (place.folder / "rows.csv").write_text("a,b", encoding="utf-8")
        place.source["path"] = path

    return fault


CUTS = (0.0, 0.01, 0.5, 0.9)
CUT_SOURCE = Error(r"rows\.parquet(:0)?: (damaged|the file is empty)")
CUT = [
    *(Case(f"a source Parquet cut at {share:.0%}", truncated_source(share), CUT_SOURCE) for share in CUTS),
    *(
        Case(
            f"{table} of {stage} cut at {share:.0%}",
            truncated(table, stage, share),
            Error(rf"tables/{table}/{stage}/.*: damaged", by),
            by,
        )
        for (table, stage), by in READ_BY.items()
        for share in (CUTS if table == "candidates" else CUTS[2:3])
    ),
]
DAMAGED = [
    Case("a table that is gone", gone, Error("splits/split/.*: no such file; make it: prefdata split", "rank"), "rank"),
    Case("a table of another kind", of_another_kind, Error("splits/split/.*: not a splits table", "rank"), "rank"),
    Case("a folder where a table belongs", folder_for_a_table, Error("splits/split/", "rank"), "rank"),
    Case("a chunk store that is none", no_chunk_store, Error("chunks/score/.*: not a chunk store", "score"), "score"),
    Case("a folder where the source belongs", source_at("sub"), Error("sub: a folder")),
    Case("a source that is nowhere", source_at("nowhere.jsonl"), Error(r"nowhere\.jsonl: no such file")),
    Case("a source of an unknown kind", source_at("rows.csv"), Error(r"rows\.csv: unknown kind of file")),
]


@pytest.mark.parametrize("case", as_parameters([*CUT, *DAMAGED]))
def test_a_damaged_file_stops_with_one_line(case: Case, place: Place) -> None:
    case.run(place)


def test_a_published_file_that_was_cut_is_put_again(place: Place) -> None:
    """The same command makes the folder whole, or says that it is not."""
    path = next(place.dataset.rglob("*.parquet"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    said = place.run("publish")
    assert said.code == 2 or path.read_bytes() == whole


def flips(data: bytes, first: int, last: int, count: int) -> Iterator[bytes]:
    """Copies with one bit of one byte flipped, at keyed positions."""
    rng = random.Random(hash64("flip", first))
    for _ in range(count):
        flipped = bytearray(data)
        flipped[rng.randrange(first, last)] ^= 1 << rng.randrange(8)
        yield bytes(flipped)


def footer(data: bytes) -> int:
    """Where a Parquet file's footer begins."""
    return len(data) - 8 - int.from_bytes(data[-8:-4], "little")


def silent(path: Path, table: str, data: Iterator[bytes]) -> tuple[int, int]:
    """(flips refused, flips that read back as other rows or another manifest)."""
    rows, manifest = files.read_table(path, table), files.manifest(path)
    refused = other = 0
    for flipped in data:
        path.write_bytes(flipped)
        try:
            other += not (files.read_table(path, table).equals(rows) and files.manifest(path) == manifest)
        except PrefdataError:
            refused += 1
    return refused, other


@pytest.mark.parametrize(("table", "stage"), [("candidates", "sources"), ("logps", "score"), ("sets", "sets")])
def test_a_flipped_byte_of_our_own_pages_never_reads_back(place: Place, table: str, stage: str) -> None:
    path = place.paths(table, stage)[0]
    data = path.read_bytes()
    refused, other = silent(path, table, flips(data, 0, footer(data), 60))
    assert other == 0
    # headers of pages are not under the checksum, and columns of nulls are little else: what reads back there is the same rows
    assert refused > 30


@pytest.mark.parametrize(("table", "stage"), [("drops", "sources"), ("drops", "score")])
def test_a_flipped_byte_of_our_own_footer_never_reads_back(place: Place, table: str, stage: str) -> None:
    """The manifest lies there, and what downstream stages check by it."""
    path = place.paths(table, stage)[0]
    data = path.read_bytes()
    assert silent(path, table, flips(data, footer(data), len(data), 60))[1] == 0


def test_a_flipped_byte_of_a_source_is_refused_where_its_pages_are_checked(place: Place) -> None:
    """The publisher of a file decides whether it carries checksums; where it does they are read."""
    path = place.folder / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(place.rows), path, write_page_checksum=True)
    source, data = SourceSettings(name="s", path=str(path)), path.read_bytes()
    rows = list(readers.rows(source, [path]))
    refused = 0
    for flipped in flips(data, 0, footer(data), 60):
        path.write_bytes(flipped)
        try:
            assert list(readers.rows(source, [path])) == rows
        except PrefdataError:
            refused += 1
    assert refused > 40


def test_a_source_that_decodes_to_too_much_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_DECODED_BYTES", 1000)
    pq.write_table(pa.Table.from_pylist(place.rows), place.folder / "rows.parquet")
    place.source["path"] = "rows.parquet"
    place.write()
    require_error(place.run("sources"), r"rows\.parquet: decodes to \d+ bytes, more than 1000")


def test_a_table_of_ours_that_decodes_to_too_much_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_DECODED_BYTES", 1000)
    require_error(place.run("split"), r"tables/prompts/sources/.*: decodes to \d+ bytes, more than 1000")


def test_a_source_that_explodes_by_its_dictionary_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """One long text, referred to by every row: a small file, which even says that it is small."""
    monkeypatch.setattr(files, "MAX_DECODED_BYTES", 2**20)
    row = {**good_row("a"), "source": "y" * 10_000}
    pq.write_table(pa.Table.from_pylist([{**row, "id": str(i)} for i in range(2000)]), place.folder / "rows.parquet")
    assert (place.folder / "rows.parquet").stat().st_size < 2**20
    place.source["path"] = "rows.parquet"
    place.write()
    require_error(place.run("sources"), r"rows\.parquet.*: decodes to ")


def test_a_table_of_ours_that_explodes_by_its_dictionary_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_DECODED_BYTES", 2**20)
    path = tmp_path / "drops.parquet"
    row = {"scope": "row", "source": "s", "stage": "s", "reason": "r", "detail": "y" * 10_000}
    rows = [{**row, "source_row": str(i)} for i in range(2000)]
    table_writer.write_table(path, "drops", schema.frame("drops", rows))
    assert path.stat().st_size < 2**20
    with pytest.raises(PrefdataError, match="decodes to "):
        files.read_table(path, "drops")
