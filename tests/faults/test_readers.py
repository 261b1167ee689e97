"""Every reader, fed with anything: rows, a drop with a reason, or an error of ours; never another exception."""

import copy
import datetime
import decimal
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefdata.errors import PrefdataError
from prefdata.sources import readers
from prefdata.sources.settings import SourceSettings

from .cases import HINT, require_error
from .place import Place, good_row

fuzzed = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
few = settings(fuzzed, max_examples=20)

scalars = st.none() | st.booleans() | st.integers(-(10**25), 10**25) | st.floats() | st.text(max_size=8)
scalars |= st.sampled_from(["\ud800", "\x00", "\u202e", "x" * 3000, "\n\nHuman: x", "", " ", 0, -1, 1e999, 10**400, 2**63])
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def read(path: Path) -> list[tuple[str, Any]] | None:
    """The rows, or None where an error of ours was raised."""
    try:
        return list(readers.rows(SourceSettings(name="s", path=str(path)), [path]))
    except PrefdataError as error:
        said = str(error)
    assert "\n" not in said
    return None


def finish(place: Place) -> int:
    """The whole stage on what the place holds: it ends well, or with one line."""
    place.write()
    said = place.run("sources")
    if said.code:
        require_error(said, r"^error: \S")
    return said.code


@fuzzed
@given(st.binary(max_size=200))
def test_arbitrary_bytes_as_json_lines(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(data)
    read(path)


@fuzzed
@given(st.lists(values, max_size=4))
def test_arbitrary_json_lines(tmp_path: Path, lines: list[Any]) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(v) + "\n" for v in lines), encoding="utf-8")
    rows = read(path)
    assert rows is None or all(isinstance(row, dict) for _, row in rows)


@fuzzed
@given(st.binary(max_size=200), st.booleans())
def test_arbitrary_bytes_as_parquet(tmp_path: Path, data: bytes, framed: bool) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1" + data + len(data).to_bytes(4, "little") + b"PAR1" if framed else data)
    assert read(path) is None


@fuzzed
@given(st.data())
def test_a_parquet_file_with_one_arbitrary_piece(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.Table.from_pylist([good_row("a"), good_row("b")]), path, write_page_checksum=True)
    whole = path.read_bytes()
    start = data.draw(st.integers(0, len(whole) - 1))
    piece = data.draw(st.binary(min_size=1, max_size=12))
    path.write_bytes(whole[:start] + piece + whole[start + len(piece) :])
    read(path)


@few
@given(values)
def test_an_arbitrary_json_value_as_a_line_of_a_source(place: Place, value: Any) -> None:
    place.text = json.dumps(value) + "\n"
    finish(place)


def places_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for k, v in inner for p in places_of(v, (*path, k)))]


def mutated(row: dict[str, Any], path: tuple[Any, ...], how: Callable[[Any, Any], None]) -> dict[str, Any]:
    row = copy.deepcopy(row)
    at: Any = row
    for step in path[:-1]:
        at = at[step]
    how(at, path[-1])
    return row


def put(value: Any) -> Callable[[Any, Any], None]:
    return lambda at, key: at.__setitem__(key, value)


def remove(at: Any, key: Any) -> None:
    del at[key]


def double(at: Any, key: Any) -> None:
    if isinstance(at, list):
        at.append(at[key])
    else:
        at[f"{key}{key}"] = at[key]


@settings(fuzzed, max_examples=30)
@given(st.data())
def test_a_good_row_with_one_mutation(place: Place, data: st.DataObject) -> None:
    """Anywhere in the row a value replaced by anything, removed or doubled."""
    row = good_row("mutated", [{"role": "user", "content": "what"}], num_responses=3)
    path = data.draw(st.sampled_from(places_of(row)[1:]))
    how = data.draw(st.one_of(values.map(put), st.sampled_from([remove, double])))
    place.rows = [good_row("good"), mutated(row, path, how)]
    finish(place)


NOT_READ = ("durations beyond all", "times beyond all", "times of a zone beyond all", "dates beyond all")
"""What Parquet holds and Python does not."""
COLUMNS = {
    "bytes": pa.array([b"\xff", b"a"]),
    "durations in ns": pa.array([1, 2], pa.duration("ns")),
    "durations beyond all": pa.array([2**62, 1], pa.duration("s")),
    "times in ns": pa.array([1, 2], pa.timestamp("ns")),
    "times beyond all": pa.array([2**62, -(2**62)], pa.timestamp("ms")),
    "times of a zone beyond all": pa.array([2**62, 1], pa.timestamp("us", tz="UTC")),
    "times of no zone": pa.array([1, 1], pa.timestamp("us", tz="Nowhere/At_All")),
    "dates beyond all": pa.array([10**8, -(10**8)], pa.date32()),
    "times of day": pa.array([datetime.time(1), None]),
    "NaN and infinity": pa.array([math.nan, math.inf]),
    "big integers": pa.array([2**64 - 1, 2], pa.uint64()),
    "maps with a key twice": pa.array([[("a", 1), ("a", 2)], []], pa.map_(pa.string(), pa.int64())),
    "dictionaries": pa.array(["x", None]).dictionary_encode(),
    "deep lists": pa.array([[[["deep"]]], None]),
    "nulls": pa.nulls(2),
    "decimals": pa.array([decimal.Decimal("1.5"), None]),
    "messages": pa.array([[{"role": "user", "content": "x"}], None]),
    "answers": pa.array([[{"answer": "x", "model": None, "rank": 1.0}], []]),
}


def with_column(place: Place, **columns: pa.Array) -> Path:
    """Two good rows as Parquet, with other columns."""
    table = pa.Table.from_pylist([good_row("a"), good_row("b")])
    for name, column in columns.items():
        table = table.drop([name] if name in table.column_names else []).append_column(name, column)
    path = place.folder / "x.parquet"
    pq.write_table(table, path)
    place.source["path"] = path.name
    return path


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_parquet_source_with_a_column_of_another_type(place: Place, kind: str) -> None:
    """As a column that nobody needs and as one that the shape reads."""
    read(with_column(place, extra=COLUMNS[kind]))
    for name in ("prompt", "answers", "id"):
        with_column(place, **{name: COLUMNS[kind]})
        finish(place)


def test_columns_that_nobody_needs_are_left_aside_whatever_their_types(place: Place) -> None:
    with_column(place, **{f"extra {k}": v for k, v in COLUMNS.items() if k not in (*NOT_READ, "times of no zone")})
    assert finish(place) == 0


def test_a_parquet_source_with_a_column_name_twice(place: Place) -> None:
    table = pa.Table.from_pylist([good_row("a")])
    pq.write_table(table.append_column("prompt", pa.array(["other"])), place.folder / "x.parquet")
    place.source["path"] = "x.parquet"
    place.write()
    require_error(place.run("sources"), r"x\.parquet.*prompt")


@pytest.mark.parametrize("depth", [100, 800, 900, 940, 970, 985, 995, 2000])
def test_nesting_of_any_depth_is_read_or_refused(place: Place, depth: int) -> None:
    """What the parser takes, what hashes the row must take too."""
    row = json.dumps(good_row("deep"))
    place.text = f'{row[:-1]}, "extra": {"[" * depth}{"]" * depth}}}\n'
    assert finish(place) == 0 or "nested too deeply" in place.run("sources").err


def test_errors_of_readers_say_what_to_do(tmp_path: Path) -> None:
    for name, data in (
        ("a.jsonl", b"{"),
        ("b.jsonl", b"\xff"),
        ("c.parquet", b"x"),
        ("d.jsonl", b""),
        ("e.jsonl", b"\n"),
        ("f.txt", b"x"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(PrefdataError) as error:
            list(readers.rows(SourceSettings(name="s", path=name), [tmp_path / name]))
        assert HINT.search(str(error.value))
