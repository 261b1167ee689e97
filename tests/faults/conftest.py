"""The good run, made once a session, and a copy of it for each test."""

import copy
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from . import tiny
from .place import CANARIES, Place, chain, good_recipe, good_rows, written_by
from .zygote import Zygote


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """As a recipe's `threads` asks for, whatever tests before these have set: the last bits of a sum depend on it."""
    kept = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(kept)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The primary reference: one token a byte."""
    return tiny.save(tmp_path_factory.mktemp("models") / "own")


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Place:
    """The good run, published."""
    place = Place(tmp_path_factory.mktemp("good"), good_rows(), good_recipe(model))
    place.write()
    said = place.run(*chain())
    assert said.code == 0, said.err
    return place


@pytest.fixture(scope="session")
def changed(tmp_path_factory: pytest.TempPathFactory, good: Place) -> Place:
    """The same run of slightly other rows: an answer less, and a best answer of which no noise can be made."""
    rows = copy.deepcopy(good.rows)
    rows[0]["answers"] = rows[0]["answers"][:2]
    rows[1]["answers"][0]["answer"] = "aaaa"
    place = Place(tmp_path_factory.mktemp("changed"), rows, copy.deepcopy(good.recipe))
    place.write()
    said = place.run(*chain())
    assert said.code == 0, said.err
    return place


@pytest.fixture
def before_stage(good: Place, changed: Place, tmp_path: Path) -> Callable[[str], Place]:
    """A copy of the changed run in which one stage's output is still the good run's: that stage has work to do."""

    def make(stage: str) -> Place:
        place = Place(tmp_path / "before", copy.deepcopy(changed.rows), copy.deepcopy(changed.recipe))
        shutil.copytree(changed.folder, place.folder)
        for name in filter(lambda n: written_by(n, stage), place.snapshot()):
            (place.root / name).unlink()
        for name, data in good.snapshot().items():
            if written_by(name, stage):
                (place.root / name).write_bytes(data)
        for store in (place.root / "chunks").rglob("*.sqlite*"):
            store.unlink()
        return place

    return make


@pytest.fixture
def place(good: Place, tmp_path: Path) -> Place:
    """A copy of the good run, deep enough that names such as ../../x stay inside the test's folder."""
    folder = tmp_path / "a" / "b" / "c"
    shutil.copytree(good.folder, folder)
    return Place(folder, copy.deepcopy(good.rows), copy.deepcopy(good.recipe))


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """A process whose children may die."""
    with Zygote(**CANARIES) as started:
        yield started
