"""Figures of a benchmark: one JSON line each on stdout, with its target and whether it holds."""

import json


def line(name: str, value: float, unit: str, target: str) -> None:
    """One figure; a target is ">= x", "<= x", "a..b" or "" (printed only)."""
    made = {"name": name, "value": float(f"{value:.5g}"), "unit": unit, "target": target, "holds": holds(value, target)}
    print(json.dumps(made), flush=True)


def holds(value: float, target: str) -> bool | None:
    if not target:
        return None
    if ".." in target:
        low, _, high = target.partition("..")
        return float(low) <= value <= float(high)
    sign, _, bound = target.partition(" ")
    return value >= float(bound) if sign == ">=" else value <= float(bound)
