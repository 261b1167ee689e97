"""Devices of one's own, with devices that are only names: real processes, kills, orphans, requests that cross."""

import itertools
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from prefdata.errors import ConfigError
from prefdata.workflow import devices, lease

WAIT_S = 30
HOLD = """
import os, sys, time
from prefdata.workflow.lease import lease
taken = lease(int(sys.argv[1]))
assert not {"torch", "transformers"} & set(sys.modules)
print(*taken, os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
"""
UNTIL_TOLD = HOLD + "os.read(int(sys.argv[2]), 1)\n"
Start = Callable[..., "Holder"]


class Holder:
    """A process that takes devices, says which, and has them until it is told or killed."""

    def __init__(self, count: int, visible: str, folder: Path, code: str = UNTIL_TOLD) -> None:
        self.count, (theirs, self._ours) = count, os.pipe()
        environment = {**os.environ, devices.VISIBLE: visible, lease.FOLDER: str(folder)}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, str(count), str(theirs)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=environment,
            pass_fds=[theirs],
        )
        os.close(theirs)

    def taken(self) -> list[str]:
        """The devices, once it has them; all that CUDA would see."""
        *names, seen = self.line().split()
        assert len(names) == self.count
        assert seen == ",".join(names)
        return names

    def waits(self) -> str:
        """What it says while it waits."""
        said = self.line(self.process.stderr)
        assert said.startswith("waiting for"), said
        return said

    def line(self, stream: IO[bytes] | None = None) -> str:
        """What it says next, on stdout by default."""
        stream, said = stream or self.process.stdout, b""
        assert stream is not None
        while not said.endswith(b"\n"):
            assert select.select([stream], [], [], WAIT_S)[0], "it says nothing"
            more = stream.read(1)
            assert more, said
            said += more
        return said.decode()

    def ends(self) -> None:
        os.write(self._ours, b"!")
        assert self.process.wait(WAIT_S) == 0

    def is_killed(self) -> None:
        self.process.kill()
        self.process.wait(WAIT_S)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self._ours)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start(count, visible="a,b") -> Holder"""
    made: list[Holder] = []

    def begin(count: int, visible: str = "a,b", code: str = UNTIL_TOLD) -> Holder:
        made.append(Holder(count, visible, tmp_path / "leases", code))
        return made[-1]

    yield begin
    for holder in made:
        holder.close()


def test_each_has_its_own_and_a_freed_one_is_taken_again(start: Start) -> None:
    one, other = start(1), start(1)
    assert sorted(one.taken() + other.taken()) == ["a", "b"]
    third = start(1)
    said = third.waits()
    assert f"process {one.process.pid} " in said
    assert f"process {other.process.pid} " in said
    other.ends()
    assert third.taken() in (["a"], ["b"])


def test_a_killed_process_leaves_its_devices(start: Start) -> None:
    holder = start(2)
    holder.taken()
    waiter = start(2)
    waiter.waits()
    holder.is_killed()
    assert waiter.taken() == ["a", "b"]


def test_all_or_none(start: Start) -> None:
    """Who waits for two holds none of them: the one that is free is there for whoever asked before."""
    one = start(1)
    (taken,) = one.taken()
    both = start(2)
    both.waits()
    both.is_killed()
    another = start(1)
    assert another.taken() == [{"a": "b", "b": "a"}[taken]]


def test_who_asks_for_many_is_not_passed_by_who_asks_for_one(start: Start) -> None:
    one = start(1)
    one.taken()
    both = start(2)
    both.waits()
    later = start(1)
    assert f"process {both.process.pid} " in later.waits()
    elsewhere = start(1, "c,d")
    assert elsewhere.taken() == ["c"], "other devices are no matter of theirs"
    one.ends()
    assert both.taken() == ["a", "b"]
    both.ends()
    later.taken()


@pytest.mark.parametrize("how", ["Popen", "shell", "spawn"])
def test_an_orphan_keeps_the_device_until_it_is_dead(start: Start, how: str) -> None:
    """An engine that a killed job started by Popen, in the background of a shell, or by multiprocessing."""
    starts = {
        "Popen": "child = subprocess.Popen(['sleep', '600'])\nprint(child.pid, flush=True)",
        "shell": "print(subprocess.run('sleep 600 > /dev/null 2>&1 & echo $!', shell=True, close_fds=False, "
        "capture_output=True, text=True).stdout, flush=True)",
        "spawn": "child = multiprocessing.get_context('spawn').Process(target=time.sleep, args=(600,))\nchild.start()\n"
        "print(child.pid, flush=True)",
    }
    job = start(1, "a", f"{HOLD}\nimport multiprocessing, subprocess\n{starts[how]}\ntime.sleep(600)")
    job.taken()
    orphan = int(job.line())
    try:
        job.is_killed()
        next_ = start(1, "a")
        assert f"process {job.process.pid} " in next_.waits()
    finally:
        os.kill(orphan, signal.SIGKILL)
    assert next_.taken() == ["a"]


CROSSING = """
import json, os, random, sys, time
from prefdata.workflow.lease import lease
began = time.monotonic()
names, draw = lease(int(sys.argv[1])), random.Random(int(sys.argv[3]))
print(json.dumps([time.monotonic(), names]), flush=True)
time.sleep(draw.random() / 10)
if draw.random() < 0.3:
    os.kill(os.getpid(), 9)
print(json.dumps([time.monotonic(), names]), flush=True)
"""


def test_requests_that_cross_all_end_and_no_device_is_two_processes(tmp_path: Path) -> None:
    """Each sees a part of the devices in its own order; a third of them kill themselves."""
    seen = ["a,b,c", "c,b,a", "b,c,d", "d,a", "a,b,c,d"]
    counts = [2, 3, 1, 2, 4]
    environment = {**os.environ, lease.FOLDER: str(tmp_path / "leases")}
    jobs = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", CROSSING, str(counts[i % 5]), "", str(i)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**environment, devices.VISIBLE: seen[i % 5]},
        )
        for i in range(15)
    ]
    held: list[tuple[str, float, float]] = []
    try:
        for i, job in enumerate(jobs):
            said = [json.loads(line) for line in job.communicate(timeout=WAIT_S)[0].splitlines()]
            assert len(set(said[0][1])) == counts[i % 5]
            assert set(said[0][1]) <= set(seen[i % 5].split(","))
            held += [(name, said[0][0], said[-1][0]) for name in said[0][1]]  # of a killed one: until it said so, at least
    finally:
        for job in jobs:
            job.kill()
            job.wait()
    assert {job.returncode for job in jobs} == {0, -9}
    for one, other in itertools.combinations(held, 2):
        assert one[0] != other[0] or one[2] <= other[1] or other[2] <= one[1], (one, other)
    assert not list((tmp_path / "leases").glob("ticket-*")), "who was served left no ticket"


def test_two_that_come_at_once_take_different_devices(start: Start) -> None:
    """One is slow between reading the clock and having its ticket, the other between finding free devices and holding them."""
    own = "import time\nfrom prefdata.workflow import lease as own\n"
    clock = "now = time.time_ns\ndef slow():\n    read = now()\n    print('clock', flush=True)\n    time.sleep(1)\n    return read\n"
    one = start(1, code=f"{own}{clock}time.time_ns = slow\n{UNTIL_TOLD}")
    assert one.line() == "clock\n"
    hold = "hold = own._hold\nown._hold = lambda *given: time.sleep(2) or hold(*given)\n"
    other = start(1, code=f"{own}{hold}{UNTIL_TOLD}")
    assert sorted(one.taken() + other.taken()) == ["a", "b"]


def test_a_killed_waiter_holds_nobody_up(start: Start) -> None:
    one = start(2)
    one.taken()
    killed = start(2)
    killed.waits()
    killed.is_killed()
    next_ = start(1)
    said = next_.waits()
    assert "came before" not in said
    one.ends()
    assert next_.taken() == ["a"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv(lease.FOLDER, str(tmp_path / "leases"))
    monkeypatch.delenv(lease.LEASED, raising=False)
    monkeypatch.setenv(devices.VISIBLE, "a,b")
    return monkeypatch


def test_more_than_there_are_is_refused_at_once(here: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES: the job needs 3 devices, 2 are visible; ask for fewer"):
        lease.lease(3)


def test_a_device_with_two_names_is_one(here: pytest.MonkeyPatch) -> None:
    here.setattr(devices, "identities", lambda names: ["GPU-x"] * len(names))
    with pytest.raises(ConfigError, match="the job needs 2 devices, 1 are visible"):
        lease.lease(2)


def test_nothing_is_taken_where_nothing_is_to_take(here: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert lease.lease(0) == []
    here.setenv(lease.LEASED, "b")
    assert lease.lease(1) == [], "who started this process has a lease"
    here.delenv(lease.LEASED)
    here.setenv(devices.VISIBLE, "")
    assert lease.lease(1) == [], "models run on processors here"
    assert not (tmp_path / "leases").exists()


def test_the_lease_is_standard_input_at_its_end(start: Start) -> None:
    code = f"{HOLD}\nprint(repr(sys.stdin.read()), os.path.samefile('/dev/stdin', os.environ['{lease.FOLDER}'] + '/device-a'))"
    job = start(1, "a", code)
    job.taken()
    assert job.line() == "'' True\n"
