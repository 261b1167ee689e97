"""Which keys of its section of a run's settings (loss, negatives, references) a part of an objective reads."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Key:
    """A key that is read where `holds` is true of its section, in words `where` (always where there are none)."""

    name: str
    where: str = ""
    holds: Callable[[Any], bool] = lambda section: True


def keys(*names: str) -> tuple[Key, ...]:
    """Keys that are always read."""
    return tuple(Key(name) for name in names)


def read_of(declared: Iterable[Key], section: Any) -> set[str]:
    """The names of those that are read with the section's values."""
    return {key.name for key in declared if key.holds(section)}
