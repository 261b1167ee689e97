"""What two machines do in one folder: pids repeat, and a lock's holder may be elsewhere."""

import os
import socket
from pathlib import Path

import pytest

from prefdata.errors import DataError
from prefdata.tables import atomic, locks


def test_two_processes_of_one_pid_write_two_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 7)
    path = tmp_path / "t.parquet"
    one, other = atomic.beside(path), atomic.beside(path)
    assert one != other
    assert one.parent == path.parent
    one.write_text("of a killed writer")
    atomic.sweep(path)
    assert not one.exists()


def test_a_lock_names_the_machine_of_its_holder_where_it_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    with locks.lock(path), pytest.raises(DataError, match=rf"in use by process {os.getpid()}; wait"):
        locks.take_lock(path, wait_s=0)
    monkeypatch.setattr(socket, "gethostname", lambda: "a-machine-of-a-long-name.some.where")
    with locks.lock(path):
        monkeypatch.setattr(socket, "gethostname", lambda: "n2")
        with pytest.raises(DataError, match=rf"in use by process {os.getpid()} on a-machine-of-a-long-name\.some\.where; wait"):
            locks.take_lock(path, wait_s=0)
