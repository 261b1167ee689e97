"""Figures of a benchmark: one JSON line each on stdout, with its target and whether it holds; and fair turns."""

import json
import os
import platform
import re
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

ROUNDS = 11


def line(name: str, value: float | None, unit: str, target: str) -> None:
    """One figure; a target is ">= x", "<= x", "a..b" or "" (printed only). None: it was not run, and does not hold."""
    shown = None if value is None else float(f"{value:.5g}")
    kept = holds(value, target) if value is not None else (False if target else None)
    made = {"name": name, "value": shown, "unit": unit, "target": target, "holds": kept}
    print(json.dumps(made), flush=True)


def machine(command: str) -> None:
    """The line that tells what machine the figures below are of, when and how they were made."""
    import torch

    where = f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    print(json.dumps({"machine": where, "date": str(date.today()), "command": command}), flush=True)


def processor() -> str:
    """The processor by its own name, with what makes products fast."""
    told = Path("/proc/cpuinfo").read_text()
    name = re.search(r"model name\s*: (.*)", told)
    flags = (re.search(r"flags\s*: (.*)", told) or [None, ""])[1].split()
    widest = [shown for flag, shown in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags][:1]
    fast = widest + (["AMX"] if "amx_tile" in flags else [])
    return f"{name[1] if name else platform.machine()} ({', '.join(fast)})"


def holds(value: float, target: str) -> bool | None:
    if not target:
        return None
    if ".." in target:
        low, _, high = target.partition("..")
        return float(low) <= value <= float(high)
    sign, _, bound = target.partition(" ")
    return value >= float(bound) if sign == ">=" else value <= float(bound)


def interleaved(calls: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Seconds of each call in ROUNDS rounds that take turns, after one that does not count. A call that gives a float has timed
    itself."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(ROUNDS + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            given = call()
            taken = given if isinstance(given, float) else time.perf_counter() - started
            if round_:
                seconds[name].append(taken)
    return seconds
