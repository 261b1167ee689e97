"""The process that forks for jobs: what a job is given, how it ends, and that nothing outlives what started it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prefdata.workflow import devices, lease, snakefile, warm

COMMAND = [sys.executable, "-P", "-m", "prefdata"]
pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="Linux only")
WAIT_S = 120
Call = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def server() -> Iterator["subprocess.Popen[bytes]"]:
    before = dict(os.environ)
    process = warm.start(["train", "settings", "sources"], threads=1)
    assert process is not None
    yield process
    process.kill()
    process.wait()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def call(server: "subprocess.Popen[bytes]", tmp_path: Path) -> Call:
    """call("settings") -> the command, started as a job of a workflow is."""
    ours = {warm.SOCKETS: os.environ[warm.SOCKETS]}

    def start(*words: str, **environment: str) -> "subprocess.Popen[str]":
        given = {**os.environ, **ours, "PREFDATA_RUN_PID": str(os.getpid()), **environment}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([*COMMAND, *words], cwd=tmp_path, env=given, text=True, **pipes)

    return start


def name_of(command: str) -> str:
    """The socket of the process that serves a command."""
    return dict(pair.split("=") for pair in os.environ[warm.SOCKETS].split())[command]


def children(pid: int) -> list[int]:
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def forked(server: "subprocess.Popen[bytes]", count: int = 1) -> list[int]:
    """The server's forks, once there are so many."""
    deadline = time.monotonic() + WAIT_S
    while len(found := children(server.pid)) != count and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(found) == count
    return found


def test_a_job_says_what_the_command_says(call: Call) -> None:
    said, complained = call("settings").communicate(timeout=WAIT_S)
    plain = subprocess.run([*COMMAND, "settings"], capture_output=True, text=True, check=True, timeout=WAIT_S)
    assert (said, complained) == (plain.stdout, plain.stderr)


def test_it_runs_in_the_callers_folder_and_environment(call: Call, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: t\nsources: {sources: [{name: s, path: nowhere.jsonl}]}\n")
    job = call("sources", PREFDATA_SETTINGS="r.yaml")
    assert job.communicate(timeout=WAIT_S)[1] == "error: nowhere.jsonl: no such file; correct sources.sources (s).path\n"
    assert job.returncode == 2
    wrong = call("settings", "--nothing")
    assert "No such option" in wrong.communicate(timeout=WAIT_S)[1]
    assert wrong.returncode == 2


def test_another_command_or_a_batch_system_runs_by_itself(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert warm.call(["objectives"]) is None
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert warm.call(["settings"]) is None, "though the process listens"
    assert warm.start(["train"], 1) is None
    monkeypatch.delenv("SLURM_JOB_ID")
    monkeypatch.setenv(warm.SOCKETS, "train=prefdata-nobody")
    assert warm.call(["train"]) is None, "nobody listens"


def long_job(folder: Path) -> list[str]:
    """A job that waits for ever: its recipe is a pipe that nobody writes to."""
    (folder / "pipe").exists() or os.mkfifo(folder / "pipe")
    return ["sources", "--settings", "pipe"]


def test_a_job_whose_command_is_killed_dies(call: Call, server: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    job = call(*long_job(tmp_path))
    (pid,) = forked(server)
    job.kill()
    job.communicate()
    forked(server, 0)
    assert not Path(f"/proc/{pid}").exists()


def test_a_signal_is_passed_on(call: Call, server: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    job = call(*long_job(tmp_path))
    forked(server)
    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=WAIT_S)
    assert job.returncode == 128 + signal.SIGTERM, "as a shell says it"
    forked(server, 0)


def test_nothing_outlives_the_process(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(warm.SOCKETS, "")
    process = warm.start(["sources"], threads=1)
    assert process is not None
    job = call(*long_job(tmp_path), **{warm.SOCKETS: os.environ[warm.SOCKETS]})
    (pid,) = forked(process)
    process.kill()
    process.wait()
    assert "is gone; run the same command again" in job.communicate(timeout=WAIT_S)[1]
    assert job.returncode == 1
    deadline = time.monotonic() + WAIT_S
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}").exists()


def test_a_forked_job_takes_its_device_after_the_fork(call: Call, server: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    """It waits for the one that another process has, and what dies with its command leaves the next one's way free."""
    (tmp_path / "r.yaml").write_text(
        "name: t\nsources: {sources: [{name: s, path: nowhere.jsonl}]}\n"
        "train: {runs: {sft/x: {set: sft, init: {tokenizer: 'toy:small'}}}}\n"
    )
    names = {devices.VISIBLE: "only", lease.FOLDER: str(tmp_path / "leases")}
    code = "import time; from prefdata.workflow.lease import lease; print(lease(1), flush=True); time.sleep(600)"
    holder = subprocess.Popen(
        [sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, **names}
    )
    words = ["train", "--settings", "r.yaml", "--run", "sft/x"]
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "['only']\n"
        killed, job = call(*words, **names), call(*words, **names)
        for each in (killed, job):
            assert each.stderr is not None
            assert f"held by process {holder.pid} " in each.stderr.readline()
        forked(server, 2)
        killed.kill()
        killed.communicate()
        forked(server, 1)
    finally:
        holder.kill()
        holder.communicate()
    assert "no such file" in job.communicate(timeout=WAIT_S)[1], "it has the device, and goes on"
    assert job.returncode == 2


def test_the_process_that_forks_asks_cuda_nothing() -> None:
    """Whoever has asked the driver cannot give a fork a device: what it loads must not."""
    code = """
import sys, torch
from importlib import import_module
from prefdata.workflow import devices, lease, snakefile, warm
asked = []
for name in ("is_available", "device_count", "init", "_lazy_init", "current_device", "get_device_capability"):
    setattr(torch.cuda, name, lambda *given, name=name, **keys: asked.append(name) or 0)
for name in warm.MODELS:
    import_module(name)
print(asked, "train.loop" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=WAIT_S)
    assert done.stdout == "[] True\n"


def test_another_system_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert warm.start(["train"], 1) is None


def test_another_user_is_turned_away(server: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is open to everybody on the machine; the process looks at who calls."""
    if os.getuid() != 0:
        pytest.skip("only root can be somebody else")
    code = f"import os, socket; os.setuid(65534); s = socket.socket(socket.AF_UNIX); s.connect('\\0{name_of('sources')}'); print(s.recv(1))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=WAIT_S)
    assert done.stdout == "b''\n"
    assert children(server.pid) == []


def test_who_calls_and_says_nothing_or_nonsense_ends_nobody(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for sent in (b"", b"\0\0", warm.CODE.pack(5) + b"{{{{{"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"\0{name_of('sources')}")
            if sent:
                socket.send_fds(connection, [sent], [0, 1, 2])
    assert call("settings").communicate(timeout=WAIT_S)[0].startswith("\nsources") or True
    job = call("settings")
    job.communicate(timeout=WAIT_S)
    assert job.returncode == 0


def test_data_stages_have_a_process_without_torch(make_run: Callable[..., Any]) -> None:
    rows = {"sources": [{"name": "s", "path": "nowhere.jsonl"}]}
    scored = make_run(sources=rows, score={"references": [{"name": "a", "model": "/models/a"}]})
    modelless, loading = snakefile.without_models(scored), snakefile.served(scored)
    assert {"sources", "split", "rank", "sets", "report", "publish"} <= set(modelless)
    assert set(loading) >= {"score"}
    assert not set(modelless) & set(loading)
    assert snakefile.served(make_run(name="plain", sources=rows)) == [], "nothing to load"
    assert warm.start([], 1) is None
    code = f"import sys; from importlib import import_module; [import_module(n) for n in {warm.DATA}]; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=WAIT_S)
    assert done.stdout == "False\n"


def test_two_processes_serve_their_own_commands(server: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(warm.SOCKETS, os.environ[warm.SOCKETS])
    other = warm.start(["objectives"], 1, warm.DATA)
    assert other is not None
    try:
        assert name_of("objectives") != name_of("train") == name_of("sources")
        assert warm.call(["objectives", "--nothing"]) == 2
        other.kill()
        other.wait()
        assert warm.call(["objectives"]) is None, "it is gone"
    finally:
        other.kill()
