"""Files appear whole or not at all; damage never reads back silently; the content hash is over rows and schema."""

import errno
import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefdata.draws import hex_id
from prefdata.errors import DataError
from prefdata.tables import content, files, schema, table_writer


def ranks(n: int = 50, rank: int = 1) -> pl.DataFrame:
    return schema.frame(
        "ranks",
        [{"prompt_id": hex_id("p", i), "candidate_id": hex_id("c", i), "method": "m", "rank": rank} for i in range(n)],
    )


@given(st.lists(st.tuples(st.text(max_size=20), st.floats(allow_nan=False) | st.none()), max_size=20))
def test_rows_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, float | None]]) -> None:
    path = tmp_path_factory.mktemp("t") / "c.parquet"
    made = [
        {
            "prompt_id": hex_id("p", i % 3),
            "candidate_id": hex_id("c", i),
            "response": text.encode("utf-8", "ignore").decode(),
            "origin": "source",
            "producer": "m",
            "sample": 0,
            "finish": "stop",
            "source_score": score,
        }
        for i, (text, score) in enumerate(rows)
    ]
    frame = schema.frame("candidates", made)
    table_writer.write_table(path, "candidates", frame, {"stage": "s"})
    assert files.read_table(path, "candidates").equals(frame)
    assert files.manifest(path)["content_hash"] == content.content_hash(frame) or frame.is_empty()


def test_content_hash_ignores_batches_and_sees_every_cell(tmp_path: Path) -> None:
    whole, parts = tmp_path / "a.parquet", tmp_path / "b.parquet"
    frame = ranks()
    table_writer.write_table(whole, "ranks", frame)
    with table_writer.TableWriter(parts, schema.TABLES["ranks"], {}) as writer:
        for start in range(0, 50, 7):
            writer.write(frame[start : start + 7])
    assert files.manifest(whole)["content_hash"] == files.manifest(parts)["content_hash"]
    changed = frame.with_columns(
        pl.when(pl.int_range(pl.len()) == 17).then(2).otherwise(pl.col("rank")).cast(pl.Int32).alias("rank")
    )
    assert content.content_hash(changed) != content.content_hash(frame)
    assert content.content_hash(frame.with_columns(score=0.0)) != content.content_hash(frame), "null is not 0"


def test_content_hash_sees_where_strings_and_lists_end() -> None:
    for one, other in ((["ab", "c"], ["a", "bc"]), ([["a"], ["b"]], [["a", "b"], []])):
        assert content.content_hash(pl.DataFrame({"x": one})) != content.content_hash(pl.DataFrame({"x": other}))


def test_parts_out_of_order_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    frame = ranks()
    with pytest.raises(DataError, match="before"), table_writer.TableWriter(path, schema.TABLES["ranks"], {}) as writer:
        writer.write(frame[10:20])
        writer.write(frame[:10])
    assert list(tmp_path.iterdir()) == []


def test_an_exception_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table_writer.write_table(path, "ranks", ranks())
    before = path.read_bytes()
    with pytest.raises(RuntimeError), table_writer.TableWriter(path, schema.TABLES["ranks"], {}) as writer:
        writer.write(ranks(rank=2))
        raise RuntimeError
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


@pytest.mark.parametrize(("operation", "nth"), [("fsync", 1), ("fsync", 2), ("replace", 1)])
def test_the_nth_failing_operation_keeps_a_whole_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, nth: int
) -> None:
    """Old or new, never a third; the error names the path."""
    path = tmp_path / "a.parquet"
    table_writer.write_table(path, "ranks", ranks())
    real, calls = getattr(os, operation), []

    def failing(*arguments: object, **keys: object) -> object:
        calls.append(1)
        if len(calls) == nth:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **keys)

    monkeypatch.setattr(os, operation, failing)
    with pytest.raises(DataError, match=r"a\.parquet: cannot write: No space left"):
        table_writer.write_table(path, "ranks", ranks(rank=2))
    monkeypatch.undo()
    ranked = files.read_table(path, "ranks")["rank"].unique().to_list()
    assert ranked == ([2] if (operation, nth) == ("fsync", 2) else [1]), "only the folder's fsync comes after the rename"
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


def test_a_full_disk_is_one_line_and_keeps_the_old_file(tmp_path: Path) -> None:
    """A real write that the system refuses: the process may write no more than 4 KiB to a file."""
    path = tmp_path / "a.parquet"
    table_writer.write_table(path, "ranks", ranks(10))
    before = path.read_bytes()
    code = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from prefdata.tables import table_writer
from test_files import ranks
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
table_writer.write_table(Path({str(path)!r}), "ranks", ranks(5000))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "DataError" in done.stderr
    assert "a.parquet: cannot write: File too large; free space" in done.stderr
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table_writer.write_table(path, "ranks", ranks())
    whole = path.read_bytes()
    for keep in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:keep])
        with pytest.raises(DataError, match="damaged"):
            files.read_table(path, "ranks")


def test_a_flipped_byte_never_reads_back_as_other_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    frame = ranks(400)
    table_writer.write_table(path, "ranks", frame)
    whole, rng, caught = bytearray(path.read_bytes()), random.Random(0), 0
    for _ in range(150):
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            read = files.read_table(path, "ranks")
            assert read.equals(frame), "a flip in unused metadata may pass, other rows may not"
        except DataError:
            caught += 1
    assert caught > 75


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file; run the stage"):
        files.read_table(tmp_path / "none.parquet", "ranks")


def test_prompt_reader_gives_every_row_once_in_ranges(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    frame = ranks(101)
    table_writer.write_table(path, "ranks", frame)
    reader = files.PromptReader(path, "ranks")
    ids = frame["prompt_id"].to_list()
    got = [reader.until(ids[i]) for i in (0, 0, 49, 99)] + [reader.until("f" * 16)]
    assert [g.height for g in got] == [1, 0, 49, 50, 1]
    assert pl.concat(got).equals(frame)


def test_a_changed_manifest_is_refused(tmp_path: Path) -> None:
    """A Parquet footer has no checksum; the manifest in it has its own."""
    path = tmp_path / "t.parquet"
    table_writer.write_table(path, "drops", schema.TABLES["drops"].empty(), {"stage": "s", "slice": {"seed": 1}})
    assert files.manifest(path)["slice"] == {"seed": 1}
    data = path.read_bytes()
    path.write_bytes(data.replace(b'{"seed": 1}', b'{"seed": 2}'))
    assert path.read_bytes() != data
    for read in (files.manifest, lambda p: files.read_table(p, "drops")):
        with pytest.raises(DataError, match="its manifest was changed"):
            read(path)


@given(st.lists(st.none() | st.text(max_size=4), min_size=1, max_size=8), st.integers(0, 3))
def test_the_hash_of_texts_is_that_of_their_bytes(texts: list[str | None], skipped: int) -> None:
    """By hand: a stream for the type, one for nulls, one for lengths, one for the bytes; whatever lies before in memory."""
    made = content.ContentHash(pa.schema([("t", pa.large_string())]))
    made.update(pa.table({"t": pa.array(["before"] * skipped + texts, pa.large_string())}).slice(skipped))
    data = [(t or "").encode() for t in texts]
    streams = {"t=large_string": b"", "t?": bytes(t is not None for t in texts)}
    streams |= {"t#": b"".join(len(d).to_bytes(8, "little") for d in data), "t": b"".join(data)}
    whole = hashlib.blake2b(digest_size=16)
    for name in sorted(streams):
        whole.update(name.encode() + b"\0" + hashlib.blake2b(streams[name], digest_size=16).digest())
    assert made.hexdigest() == whole.hexdigest()
    for kind in (pa.string(), pa.string_view()):
        other = content.ContentHash(pa.schema([("t", pa.large_string())]))
        other.update(pa.table({"t": pa.array(texts, kind)}))
        assert other.hexdigest() == made.hexdigest()


def test_only_the_columns_that_are_asked_for_are_read(tmp_path: Path) -> None:
    path, frame = tmp_path / "a.parquet", ranks(50)
    table_writer.write_table(path, "ranks", frame)
    (read,) = files.iter_table(path, "ranks", columns=("prompt_id", "rank"))
    assert read.equals(frame.select("prompt_id", "rank"))
    rows, size = files.size_of(path, ("prompt_id",))
    assert (rows, 16 * 50 < size < 16 * 50 + 500) == (50, True)
    assert files.size_of(path)[1] > 2 * size


def test_texts_are_written_without_a_dictionary_so_that_footers_tell_their_size(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    one = {"origin": "source", "producer": "m", "sample": 0, "finish": "stop", "response": "same " * 200}
    rows = [{"prompt_id": hex_id(i), "candidate_id": hex_id(i), **one} for i in range(100)]
    table_writer.write_table(path, "candidates", schema.frame("candidates", rows))
    assert files.size_of(path, ("response",))[1] > 100 * 1000
    assert files.size_of(path, ("producer",))[1] < 1000


def test_a_page_that_is_passed_over_is_missed(tmp_path: Path) -> None:
    """The kind of a page stands in its header, which has no checksum; readers pass over kinds that they do not know."""
    path = tmp_path / "r.parquet"
    table_writer.write_table(path, "ranks", ranks(9))
    data = path.read_bytes()
    for place in range(4, len(data) - 8 - int.from_bytes(data[-8:-4], "little")):
        for bit in (1, 16):
            path.write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
            try:
                assert files.read_table(path, "ranks").height == 9, place
            except DataError:
                continue
