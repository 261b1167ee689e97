"""Processes that do not outlive the one that started them."""

import ctypes
import os
import signal
import sys


def die_with(parent: int) -> None:
    """Be killed when the parent is (PR_SET_PDEATHSIG), and stop at once if it is gone already.

    Linux means the thread that started this process: it must not end before the process is to.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(f"the process {parent} that started this one is gone")
