"""A stand-in for the Hub by another maker, where there is one: the same faults before another server.

It is a file of ../shared, and no part of this project: what needs it is skipped without it.
"""

import importlib.util
import types
from pathlib import Path
from typing import Any

from hub.repos import Commit, Fault
from hub.standin import Faulty

PLACE = Path(__file__).parents[3] / "shared" / "tools" / "minihub.py"


def is_there() -> bool:
    return PLACE.exists()


class Foreign(Faulty):
    """Its state as tests of ours look at it."""

    def __init__(self) -> None:
        self._made = _module()
        self._hub: Any = self._made.Hub({"hf_w": {"name": "owner", "ns": ["owner"], "role": "write"}})
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.closing = False

    def inner(self) -> Any:
        return self._made.make_app(self._hub)

    def _repo(self, name: str) -> Any:
        return self._hub.repos["datasets", name]

    def head(self, name: str) -> Commit:
        repo = self._repo(name)
        made = repo.commits[repo.branches["main"]]
        files = {path: file.data for path, file in made["files"].items()}
        return Commit(made["id"], made["parent"], files, made["title"])

    def push(self, name: str, files: dict[str, bytes]) -> None:
        """Somebody else's commit."""
        repo = self._repo(name)
        kept = repo.commits[repo.branches["main"]]["files"]
        new = {path: self._made.File(data, False) for path, data in files.items()}
        repo.commit("main", "by hand", "", {**kept, **new}, "owner")

    @property
    def branches(self) -> dict[str, dict[str, str]]:
        """Those beside main."""
        return {
            name: {b: sha for b, sha in repo.branches.items() if b != "main"} for (_, name), repo in self._hub.repos.items()
        }


def _module() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("foreign_hub", PLACE)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made
