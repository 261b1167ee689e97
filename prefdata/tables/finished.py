"""The store of finished work of an engine stage: one sqlite file a unit, keyed by item.

An item's key is a hash of everything that can change its result (model revision, sampling, template, stage version,
request). A kill, another grouping or one edited source row then repeats only what is missing. One `put` is one commit.
"""

import hashlib
import json
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from prefdata.errors import DataError
from prefdata.progress import in_batch_system
from prefdata.tables.locks import lock

Value = dict[str, Any]


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """sqlite's errors as ours: what to do depends on whether the file is damaged or the disk is."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise DataError(
            f"cannot use the chunk store ({error})", str(path), "free space or stop other users, run again"
        ) from error
    except sqlite3.DatabaseError as error:
        raise DataError(f"not a chunk store ({error})", str(path), "delete it and run again") from error


def _checksum(key: str, value: str) -> str:
    """Of an item, its key included: a value under another key is damage too."""
    return hashlib.blake2b(f"{key}\0{value}".encode(errors="surrogatepass"), digest_size=8).hexdigest()


class ChunkStore:
    """A key-value store; several jobs of one unit may use it at once, on several machines under a batch system."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.hits, self.misses, self._damaged = path, 0, 0, set[str]()
        # switching a fresh file to WAL ignores sqlite's own timeout, so opening is serialised
        with _named_errors(path), lock(path.with_suffix(".lock"), wait_s=60):
            self._connection = sqlite3.connect(path, timeout=60, isolation_level=None)
            # WAL is shared memory: on one machine a commit costs no wait for the disk, between machines it loses them
            self._connection.execute(f"PRAGMA journal_mode={'DELETE' if in_batch_system() else 'WAL'}")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS items (key TEXT PRIMARY KEY, value TEXT NOT NULL, checksum TEXT)"
            )
            self._add_checksums()

    def _add_checksums(self) -> None:
        """Stores from before there were checksums get them once."""
        if "checksum" in [row[1] for row in self._connection.execute("PRAGMA table_info(items)")]:
            return
        self._connection.execute("ALTER TABLE items ADD COLUMN checksum TEXT")
        rows = self._connection.execute("SELECT key, value FROM items").fetchall()
        self._connection.executemany("UPDATE items SET checksum = ? WHERE key = ?", [(_checksum(k, v), k) for k, v in rows])

    def get(self, keys: Sequence[str]) -> dict[str, Value]:
        """The stored values of those keys that are stored. A damaged one is none: it is said once, and made again."""
        found: dict[str, Value] = {}
        for start in range(0, len(keys), 500):
            some = list(keys[start : start + 500])
            marks = ",".join("?" * len(some))
            with _named_errors(self.path):
                query = f"SELECT key, value, checksum FROM items WHERE key IN ({marks})"
                rows = self._connection.execute(query, some).fetchall()
            for key, value, checksum in rows:
                if checksum == _checksum(key, value):
                    found[key] = json.loads(value)
                elif key not in self._damaged:
                    self._damaged.add(key)
                    print(f"{self.path}: the finished item {key} is damaged, and is made again", file=sys.stderr)
        return found

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Those keys that are not stored, in order, or whose failure may be gone (`transient`); counts hits and misses for
        the log."""
        found = {k: v for k, v in self.get(keys).items() if not v.get("transient")}
        absent = [k for k in dict.fromkeys(keys) if k not in found]
        self.hits += len(found)
        self.misses += len(absent)
        return absent

    def total(self, field: str) -> float:
        """The sum of a number over all stored values; null counts 0."""
        query = "SELECT SUM(json_extract(value, ?)) FROM items WHERE json_valid(value)"
        with _named_errors(self.path):
            (found,) = self._connection.execute(query, (f"$.{field}",)).fetchone()
        return float(found or 0)

    def put(self, values: Mapping[str, Value]) -> None:
        """Commit finished items together; a kill loses all of them or none."""
        texts = {k: json.dumps(v, ensure_ascii=True) for k, v in values.items()}
        rows = [(k, text, _checksum(k, text)) for k, text in texts.items()]
        with _named_errors(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT OR REPLACE INTO items VALUES (?, ?, ?)", rows)
            self._connection.execute("COMMIT")

    def __enter__(self) -> "ChunkStore":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._connection.close()
