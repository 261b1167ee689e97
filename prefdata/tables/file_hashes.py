"""What identifies a user's file: its content. Times tell nothing: a file may be replaced by an older one, or touched."""

import hashlib
import json
from pathlib import Path
from typing import Any

from prefdata.tables import atomic
from prefdata.tables.locks import lock

Stamps = list[int]


def stamps(path: Path) -> Stamps:
    """What cannot all stay the same when a file's content changes: size, times, inode."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def digest(path: Path) -> str:
    """Hash of a file's bytes. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


class FileHashes:
    """Hashes of files, kept beside the results for as long as size, times and inode stay: a large file is read once."""

    def __init__(self, kept: Path) -> None:
        self._path = kept
        self._known: dict[str, Any] = {}
        if kept.exists():
            self._known = json.loads(kept.read_text(encoding="utf-8"))

    def of(self, paths: list[Path]) -> list[str]:
        """The hashes, in order; "missing" for what is not there. They are kept where there are results already."""
        before = json.dumps(self._known, sort_keys=True)
        made = [self._one(p) for p in paths]
        now = json.dumps(self._known, sort_keys=True)
        if now != before and self._path.parent.is_dir():
            with lock(self._path.with_suffix(".lock")):
                atomic.atomic_text(self._path, now)
        return made

    def _one(self, path: Path) -> str:
        try:
            now = stamps(path)
            known = self._known.get(str(path))
            if known is None or known["stamps"] != now:
                known = self._known[str(path)] = {"stamps": now, "digest": digest(path)}
            return str(known["digest"])
        except OSError:
            return "missing"
