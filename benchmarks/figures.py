"""Figures of a benchmark: one JSON line each on stdout, with its target and whether it holds; and fair turns."""

import json
import time
from collections.abc import Callable
from typing import Any

ROUNDS = 11


def line(name: str, value: float | None, unit: str, target: str) -> None:
    """One figure; a target is ">= x", "<= x", "a..b" or "" (printed only). None: it was not run, and does not hold."""
    shown = None if value is None else float(f"{value:.5g}")
    kept = holds(value, target) if value is not None else (False if target else None)
    made = {"name": name, "value": shown, "unit": unit, "target": target, "holds": kept}
    print(json.dumps(made), flush=True)


def holds(value: float, target: str) -> bool | None:
    if not target:
        return None
    if ".." in target:
        low, _, high = target.partition("..")
        return float(low) <= value <= float(high)
    sign, _, bound = target.partition(" ")
    return value >= float(bound) if sign == ">=" else value <= float(bound)


def interleaved(calls: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Seconds of each call in ROUNDS rounds that take turns, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(ROUNDS + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if round_:
                seconds[name].append(time.perf_counter() - started)
    return seconds
