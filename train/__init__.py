"""Training of causal LMs on preference sets: named objectives, an exact shared-prefix step, exact resume."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from train.in_memory import fit as fit


def __getattr__(name: str) -> Any:
    """`fit`, loaded when it is asked for: torch comes with it."""
    if name != "fit":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return import_module("train.in_memory").fit
