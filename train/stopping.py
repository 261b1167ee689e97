"""A polite end: SIGTERM lets the step at hand finish and a checkpoint be written."""

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any


class Stopping:
    """`with Stopping() as stopping:` notes a SIGTERM in `requested`; in threads other than the main one it notes none."""

    def __init__(self) -> None:
        self.requested = False
        self._old: Any = None

    def __enter__(self) -> "Stopping":
        if threading.current_thread() is threading.main_thread():
            self._old = signal.signal(signal.SIGTERM, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def leave(self, said: str) -> None:
        """End the process as a SIGTERM does. Every rank calls it where any has noted one."""
        if self.requested:
            print(said, file=sys.stderr)
        raise SystemExit(128 + signal.SIGTERM)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._old is not None:
            signal.signal(signal.SIGTERM, self._old)
