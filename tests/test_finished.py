"""The store of finished items: what is damaged is made again, never believed."""

import json
import sqlite3
from pathlib import Path

import pytest

from prefdata.tables.finished import ChunkStore

GOOD = {"logp": -1.5, "num_tokens": 3}


@pytest.mark.parametrize(
    "damaged",
    ["xx", "null", '{"logp": NaN, "num_tokens": 184}', '{"logp": -2.5, "num_tokens": 3}', '{"logp": -1.', "", '{"cost": 1e9}'],
)
def test_a_damaged_item_is_missing_and_said(tmp_path: Path, damaged: str, capsys: pytest.CaptureFixture[str]) -> None:
    with ChunkStore(tmp_path / "s.sqlite") as store:
        store.put({"a": GOOD, "b": GOOD})
    with sqlite3.connect(tmp_path / "s.sqlite") as file:
        file.execute("UPDATE items SET value = ? WHERE key = 'a'", (damaged,))
    with ChunkStore(tmp_path / "s.sqlite") as store:
        assert store.missing(["a", "b"]) == ["a"]
        assert store.get(["a", "b"]) == {"b": GOOD}
        assert store.total("num_tokens") >= 0
        store.put({"a": GOOD})
        assert store.get(["a"]) == {"a": GOOD}
    assert capsys.readouterr().err.count("the finished item a is damaged, and is made again") == 1


def test_a_value_under_another_key_is_damage(tmp_path: Path) -> None:
    with ChunkStore(tmp_path / "s.sqlite") as store:
        store.put({"a": GOOD, "b": {"logp": -9.0}})
    with sqlite3.connect(tmp_path / "s.sqlite") as file:
        file.execute("DELETE FROM items WHERE key = 'a'")
        file.execute("UPDATE items SET key = 'a'")
    with ChunkStore(tmp_path / "s.sqlite") as store:
        assert store.get(["a"]) == {}


def test_a_store_from_before_checksums_is_kept(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "s.sqlite") as file:
        file.execute("CREATE TABLE items (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        file.execute("INSERT INTO items VALUES ('a', ?)", (json.dumps(GOOD),))
    with ChunkStore(tmp_path / "s.sqlite") as store:
        assert store.get(["a"]) == {"a": GOOD}


@pytest.mark.parametrize("batch", [False, True])
def test_under_a_batch_system_a_store_shares_no_memory(tmp_path: Path, batch: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of several machines may write it: what WAL keeps in shared memory one machine does not see of another."""
    path = tmp_path / "s.sqlite"
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with ChunkStore(path) as store:  # made by a run on one machine
        store.put({"a": GOOD})
    if batch:
        monkeypatch.setenv("SLURM_JOB_ID", "7")
    with ChunkStore(path) as one, ChunkStore(path) as other:
        one.put({"b": GOOD})
        other.put({"c": GOOD})
        assert (tmp_path / "s.sqlite-shm").exists() is not batch
        assert one.missing(["a", "b", "c", "d"]) == other.missing(["a", "b", "c", "d"]) == ["d"]
