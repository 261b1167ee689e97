"""A server of a model that lives as long as a job: started by the recipe's command, waited for, stopped."""

import ctypes
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from prefdata.errors import EngineError
from prefdata.models.engines.server_settings import ServerSettings


@contextmanager
def served(path: str, settings: ServerSettings, log: Path) -> Iterator[str]:
    """The server's address; where a command is given, of a server that lives as long as the block."""
    if not settings.command:
        yield settings.url
        return
    port = free_port()
    holes = {"{port}": str(port), "{model}": path, "{python}": sys.executable}
    command = [re.sub(r"\{(port|model|python)\}", lambda hole: holes[hole[0]], word) for word in settings.command]
    url = settings.url.replace("{port}", str(port))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as said:
        process = subprocess.Popen(
            command,
            stdout=said,
            stderr=subprocess.STDOUT,
            close_fds=False,  # it keeps the job's devices until it is dead
            start_new_session=True,
            preexec_fn=_dying_with(os.getpid()),
        )
        try:
            _wait(process, url, settings.start_s, shlex.join(command), log)
            yield url
        finally:
            _stop(process)


def _dying_with(parent: int) -> Callable[[], None]:
    """What a child runs first: be killed when its parent is (PR_SET_PDEATHSIG), and stop if that has happened."""
    libc = ctypes.CDLL(None)

    def ask() -> None:
        if sys.platform.startswith("linux"):
            libc.prctl(1, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

    return ask


def free_port() -> int:
    """A port of this machine that nobody listens at now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait(process: "subprocess.Popen[bytes]", url: str, seconds: float, command: str, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise EngineError(f"the server ended with code {process.returncode} before it answered", command, f"read {log}")
        try:
            with urlopen(f"{url.rstrip('/')}/models", timeout=5) as reply:
                if reply.status == 200:
                    return
        except HTTPError as error:
            if error.code < 500:  # it answers, if only to ask for a key
                return
            time.sleep(0.5)
        except OSError:
            time.sleep(0.5)
    raise EngineError(f"the server did not answer within {seconds:.0f} s", command, f"read {log}, or raise server.start_s")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """The server and whatever it started: politely, then not."""
    for sign, patience in ((signal.SIGTERM, 15), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, sign)
            process.wait(patience)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
