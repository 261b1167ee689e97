"""Functions each in a process of its own, called in turns: none finds another's memory, threads or caches in its way."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any


class Turn:
    """One process, which runs `serve`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def __call__(self) -> float:
        """Seconds of a call there."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(file=self._process.stdin, flush=True)
        said = self._process.stdout.readline()
        if not said:
            raise RuntimeError(f"{self._process.args}: gone")  # its own error is on stderr
        return float(said)


@contextmanager
def turns(commands: Mapping[str, list[str]]) -> Iterator[dict[str, Turn]]:
    """By name a process of this interpreter with these arguments, for as long as the block lasts."""
    with ExitStack() as held:
        made = {}
        for name, arguments in commands.items():
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            process = held.enter_context(subprocess.Popen([sys.executable, *arguments], **pipes))
            assert process.stdin is not None
            held.callback(process.stdin.close)  # it ends, and is waited for
            made[name] = Turn(process)
        yield made


def serve(call: Callable[[], Any]) -> None:
    """Call it once a line, and answer how many seconds it took."""
    for _ in sys.stdin:
        started = time.perf_counter()
        call()
        print(time.perf_counter() - started, flush=True)
