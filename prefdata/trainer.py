"""The trainer, found for `from prefdata import fit` whatever else is called `train` in the user's folder.

prefdata's own modules never import the trainer, which builds on them: it is looked up by its place beside this package.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import prefdata

PLACE = Path(prefdata.__file__).parents[1] / "train" / "__init__.py"


def fit() -> Callable[..., Any]:
    """`train.in_memory.fit`."""
    found = find_spec("train")
    if found is not None and found.origin is not None and Path(found.origin).resolve() == PLACE.resolve():
        return import_module("train.in_memory").fit  # type: ignore[no-any-return]
    with _ours():
        return import_module("train.in_memory").fit  # type: ignore[no-any-return]


@contextmanager
def _ours() -> Iterator[None]:
    """Within: `train` is the trainer, all of whose modules are loaded. Afterwards `train` is the user's own again, and what
    was loaded goes on working, for its modules find each other by their full names."""
    theirs = sys.modules.pop("train", None)
    spec = spec_from_file_location("train", PLACE, submodule_search_locations=[str(PLACE.parent)])
    assert spec is not None
    assert spec.loader is not None
    ours = sys.modules["train"] = module_from_spec(spec)
    try:
        spec.loader.exec_module(ours)
        _load_all("train", PLACE.parent)
        yield
    finally:
        del sys.modules["train"]
        if theirs is not None:
            sys.modules["train"] = theirs


def _load_all(package: str, folder: Path) -> None:
    for found in iter_modules([str(folder)]):
        import_module(f"{package}.{found.name}")
        if found.ispkg:
            _load_all(f"{package}.{found.name}", folder / found.name)
