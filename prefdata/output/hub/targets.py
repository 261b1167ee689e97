"""Where a set is published: a folder, or a data set repository on the Hub (hub.py). Both know a head and one commit."""

import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from prefdata.errors import PublishError
from prefdata.output.card.card_merge import BEGIN
from prefdata.output.hub.manifest import CARD, DATASET, MANIFEST, MODEL, Kind, Stored, parse_manifest, stored_of
from prefdata.tables import atomic


@dataclass(frozen=True)
class Head:
    """What is published now.

    `revision`: None where nothing is; `files`: our files' content hashes, "unlisted" or "damaged" where nothing vouches for
    one; `stored`: their hashes as they lie there, of those that are as listed; `header`: what we last wrote into the card's
    header; `others`: of a data set, files that are not ours.
    """

    revision: str | None
    files: dict[str, str]
    card: str | None
    stored: dict[str, Stored] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Change:
    """One commit: files to put by their path on the target, files to remove, and what our data files then are there."""

    puts: dict[str, Path]
    deletes: list[str]
    stored: dict[str, Stored]
    message: str


class Busy(Exception):
    """The target could not take the commit this time: read the head again, then try again, after `wait_s` at the least."""

    def __init__(self, what: str, wait_s: float = 0.0) -> None:
        super().__init__(what)
        self.wait_s = wait_s


class Target(Protocol):
    """A place to publish to. All but `url` raise Busy and PublishError."""

    def prepare(self) -> None:
        """Make what a head needs: a repository, say."""

    def head(self) -> Head:
        """What is published; only reads."""

    def commit(self, parent: Head, change: Change) -> str:
        """Make the change on this head; the revision that has it."""

    def finish(self, revision: str) -> None:
        """What follows once a revision holds the set: a tag, say; again the same where it was done."""

    def url(self, revision: str) -> str:
        """Where people find it."""


def decode(data: bytes, where: str) -> str:
    """A text of the target, which may hold anything. Raises PublishError."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PublishError("not utf-8", where, "mend or remove that file") from error


def head_of(
    revision: str | None,
    present: dict[str, Stored | None],
    texts: tuple[str | None, str | None],
    where: str,
    kind: Kind = DATASET,
) -> Head:
    """The head of a target. `present`: each file with its hash as stored, None where it is not whole or not ours; `texts`:
    manifest and card. Raises PublishError where the manifest, or the model, is somebody else's."""
    manifest, card = texts
    listed = parse_manifest(manifest, f"{where}/{MANIFEST}", kind)
    files, stored = {}, {}
    for name in filter(kind, present):
        found, said = present[name], listed.stored.get(name)
        if name not in listed.files:
            files[name] = "unlisted"
        elif found is None or said is None or not found.same(said):
            files[name] = "damaged"
        else:
            files[name], stored[name] = listed.files[name], said
    if kind is MODEL and files and manifest is None and BEGIN not in (card or ""):
        raise PublishError(
            f"there is a model that we did not push ({min(files)} for one), and it would be replaced",
            where,
            "publish to another place",
        )
    # beside a model other files do no harm
    others = () if kind is MODEL else tuple(sorted(n for n in present if n not in files and n not in (MANIFEST, CARD)))
    return Head(revision, files, card, stored, listed.header, others)


class Folder:
    """A folder. Its manifest goes first and comes back last: a kill between leaves files that nothing vouches for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self) -> None:
        """A folder is made when it is written."""

    def head(self) -> Head:
        manifest, card = (self._text(name) for name in (MANIFEST, CARD))
        found = [p for p in self.path.rglob("*") if p.is_file() and not p.name.startswith(".")]
        present = {str(p.relative_to(self.path)): self._whole(p) for p in found}
        return head_of(None if manifest is None else "folder", present, (manifest, card), str(self.path))

    def _whole(self, path: Path) -> Stored | None:
        """The hash of a file of ours that, where it is Parquet, ends as Parquet does."""
        if not DATASET(str(path.relative_to(self.path))):
            return None
        try:
            if path.suffix == ".parquet":
                pq.read_metadata(path)
        except (pa.ArrowException, OSError):
            return None
        return stored_of(path)

    def _text(self, name: str) -> str | None:
        path = self.path / name
        return decode(path.read_bytes(), str(path)) if path.exists() else None

    def commit(self, parent: Head, change: Change) -> str:
        (self.path / MANIFEST).unlink(missing_ok=True)
        for name in sorted(set(change.puts) - {CARD, MANIFEST}):
            atomic.atomic_write(self.path / name, partial(shutil.copyfile, change.puts[name]))
        for name in change.deletes:
            (self.path / name).unlink(missing_ok=True)
        for name in (CARD, MANIFEST):
            if name in change.puts:
                atomic.atomic_write(self.path / name, partial(shutil.copyfile, change.puts[name]))
        return "folder"

    def finish(self, revision: str) -> None:
        """There is nothing left to do."""

    def url(self, revision: str) -> str:
        return str(self.path)
