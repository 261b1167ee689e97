"""What a file holds counts, not its time; a file is read again only where something about it has changed."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from prefdata.tables import file_hashes
from prefdata.tables.file_hashes import FileHashes


def test_content_counts_and_times_do_not(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("a")
    other.write_text("b")
    for path in (one, other):
        os.utime(path, ns=(0, 0))
    kept = tmp_path / "hashes.json"
    first = FileHashes(kept).of([one, other])
    one.touch()
    assert FileHashes(kept).of([one, other]) == first
    other.rename(one)  # of the same size and time as what was hashed under this name at first
    assert FileHashes(kept).of([one, other]) == [first[1], "missing"]


def test_a_file_that_stays_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read = tmp_path / "f", list[Path]()
    path.write_text("a")
    digest = file_hashes.digest
    monkeypatch.setattr(file_hashes, "digest", lambda p: (read.append(p), digest(p))[1])
    for _ in range(3):
        FileHashes(tmp_path / "hashes.json").of([path])
    assert read == [path]


def test_several_jobs_may_keep_hashes_at_once(tmp_path: Path) -> None:
    paths = [tmp_path / str(i) for i in range(24)]
    for path in paths:
        path.write_text(path.name)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda p: FileHashes(tmp_path / "hashes.json").of([p])[0], paths))
    assert found == [file_hashes.digest(p) for p in paths]
