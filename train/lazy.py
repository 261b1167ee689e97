"""torch, loaded when it is first used: the Snakefile and `prefdata train --keys` read the registries and compute nothing."""

from importlib import import_module
from typing import Any


class Lazy:
    """A module by name; its attributes load it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)


torch, functional = Lazy("torch"), Lazy("torch.nn.functional")
Tensor = Any
"""For aliases of types, which are made when a module is loaded."""
