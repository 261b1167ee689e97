"""Processes that have loaded once what jobs need, and fork for each job of a workflow: one has torch and transformers, the
other what the data stages need.

Loading costs some three seconds of a processor, or nearly one without models: more than a small job's own work. The workflow
starts these processes; the command of a job finds the socket of the one that serves it, hands over its words, environment and
standard files, and waits for the exit code. Where there is none (another machine, a batch system, not Linux) the command runs
by itself: nothing else differs.

No forked job outlives this process, nor this process the workflow (PR_SET_PDEATHSIG); a job whose command is gone is killed.
"""

import contextlib
import json
import os
import secrets
import selectors
import signal
import socket
import struct
import subprocess
import sys
import warnings
from collections.abc import Collection, Sequence
from importlib import import_module
from typing import Any

from prefdata.children import die_with
from prefdata.progress import in_batch_system

SOCKETS = "PREFDATA_WARM"
"""Who serves which command: command=name of a socket, with spaces between."""
DATA = ("prefdata.workflow.cli", "pyarrow.parquet")
MODELS = (
    *("torch", "transformers.models.llama.modeling_llama", "transformers.models.auto.modeling_auto", *DATA),
    *("prefdata.models.forward.logprob", "prefdata.models.engines.transformers", "train.run"),
)
"""What each of the two loads."""
CODE = struct.Struct("!i")
PASSED_ON = (signal.SIGTERM, signal.SIGINT)
PATIENCE_S = 10.0
"""How long a command that has called may take to say what it wants; the others wait meanwhile."""


# ---- the workflow's side ----


def start(commands: Collection[str], threads: int, modules: Sequence[str] = MODELS) -> "subprocess.Popen[bytes] | None":
    """Start a process that serves these commands and tell the jobs of it by the environment, beside those that were started
    before; None where there are no commands, or the system has not what it needs."""
    if not commands or not sys.platform.startswith("linux") or not hasattr(os, "pidfd_open") or in_batch_system():
        return None
    here, name = os.getpid(), f"prefdata-{os.getpid()}-{secrets.token_hex(8)}"
    # before torch is loaded; a process that has asked the driver itself could fork no job that uses a device
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"\0{name}")  # a name without a file: nothing is left behind
        listening.listen(64)  # a job that comes while libraries are loaded waits
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "prefdata.workflow.warm", str(listening.fileno()), str(here), *modules],
            stdin=subprocess.DEVNULL,
            env=environment,
            pass_fds=[listening.fileno()],
            start_new_session=True,
        )
    os.environ[SOCKETS] = " ".join([*os.environ.get(SOCKETS, "").split(), *(f"{command}={name}" for command in commands)])
    return process


# ---- a job's side ----


def call(words: list[str]) -> int | None:
    """The exit code of `prefdata WORDS` in a fork of the workflow's process; None where this process must run it itself."""
    names = dict(pair.split("=") for pair in os.environ.get(SOCKETS, "").split())
    if not words or words[0] not in names or in_batch_system():
        return None
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(f"\0{names[words[0]]}")
            if _user(connection) != os.getuid():  # such a name is open to everybody on the machine
                return None
            task = json.dumps({"words": words, "environment": dict(os.environ), "folder": os.getcwd()}).encode()
            signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)  # until there is a job to pass one on to
            socket.send_fds(connection, [CODE.pack(len(task))], [0, 1, 2])
            connection.sendall(task)
            begun = _received(connection, 1)
        except OSError:
            begun = b""
        for number in PASSED_ON if begun else ():
            signal.signal(number, lambda received, _: connection.sendall(bytes([received])))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        if not begun:  # nobody listens, or it ended before it had a job of ours
            return None
        answer = _received(connection, CODE.size)
    if len(answer) < CODE.size:
        print("error: the process that this job ran in is gone; run the same command again", file=sys.stderr)
        return 1
    (code,) = CODE.unpack(answer)
    return int(code)


def _user(connection: socket.socket) -> int:
    """Who is at the other end."""
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(user)


def _received(connection: socket.socket, count: int) -> bytes:
    """So many bytes, or those that came before the other side closed."""
    data = b""
    while len(data) < count:
        try:
            part = connection.recv(count - len(data))
        except ConnectionError:
            break
        if not part:
            break
        data += part
    return data


# ---- the process itself ----


def main(listening_file: int, parent: int, modules: Sequence[str]) -> None:
    """Load, and fork for whoever calls until the workflow ends."""
    die_with(parent)
    with socket.socket(fileno=listening_file) as listening, selectors.DefaultSelector() as selector:
        for name in modules:
            import_module(name)
        selector.register(listening, selectors.EVENT_READ)
        jobs: dict[int, tuple[socket.socket, int]] = {}
        while True:
            for key, _ in selector.select():
                if key.fileobj is listening:
                    _begin(listening, selector, jobs)
                elif isinstance(key.fileobj, socket.socket):
                    _forward(key.fileobj, selector, key.data)
                else:
                    _end(int(key.fd), selector, jobs)


def _begin(listening: socket.socket, selector: selectors.BaseSelector, jobs: dict[int, tuple[socket.socket, int]]) -> None:
    """Take a job and fork for it."""
    try:
        connection, _ = listening.accept()
    except OSError:  # no descriptor is free now; the next one may be
        return
    task, files = _task(connection)
    if task is None:
        connection.close()
        return
    here = os.getpid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: those of polars, which a job does not need
        child = os.fork()
    if child == 0:
        listening.close()
        selector.close()
        for other, _ in jobs.values():
            other.close()
        connection.close()
        _become(task, files, here)
    _close(files)
    with contextlib.suppress(OSError):
        connection.sendall(b"!")  # it has begun
    watched = os.pidfd_open(child)
    jobs[watched] = (connection, child)
    selector.register(watched, selectors.EVENT_READ)
    selector.register(connection, selectors.EVENT_READ, child)


def _task(connection: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """What a command asks for, and its standard files; None where it is not ours, or gone, or silent for too long."""
    files: list[int] = []
    try:
        connection.settimeout(PATIENCE_S)
        if _user(connection) != os.getuid():
            return None, []
        header, files, _, _ = socket.recv_fds(connection, CODE.size, 3)
        if len(header) < CODE.size or len(files) < 3:
            raise ValueError("no task")
        task = json.loads(_received(connection, CODE.unpack(header)[0]))
        connection.settimeout(None)
        return task, files
    except (OSError, ValueError):
        _close(files)
        return None, []


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)


def _forward(connection: socket.socket, selector: selectors.BaseSelector, child: int) -> None:
    """Pass a signal on to the job; kill it where its command is gone."""
    if connection.fileno() < 0:  # the job ended at the same time
        return
    try:
        received = connection.recv(1)
    except OSError:
        received = b""
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, received[0] if received else signal.SIGKILL)
    if not received:
        selector.unregister(connection)


def _end(watched: int, selector: selectors.BaseSelector, jobs: dict[int, tuple[socket.socket, int]]) -> None:
    """Tell the command how its job ended: as a shell has it, 128 + the signal that killed it."""
    connection, child = jobs.pop(watched)
    selector.unregister(watched)
    os.close(watched)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    with contextlib.suppress(OSError):
        connection.sendall(CODE.pack(code if code >= 0 else 128 - code))
    with contextlib.suppress(KeyError, ValueError):
        selector.unregister(connection)
    connection.close()


def _become(task: dict[str, Any], files: list[int], parent: int) -> None:
    """In the fork: be the job. Never returns."""
    code = 1
    try:
        os.setsid()
        die_with(parent)
        for place, file in enumerate(files):
            os.dup2(file, place)
            os.close(file)
        sys.stdout, sys.stderr = (
            os.fdopen(place, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False) for place in (1, 2)
        )
        os.environ.clear()
        os.environ.update(task["environment"])
        os.chdir(task["folder"])
        sys.argv = ["prefdata", *task["words"]]
        import_module("prefdata.workflow.cli").run_command()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
