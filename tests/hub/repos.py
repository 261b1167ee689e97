"""What the stand-in for the Hub keeps: repositories with their commits, branches, tags and pull requests, and LFS objects."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

LFS = re.compile(r"\.(parquet|safetensors|bin|arrow)$")


@dataclass
class Commit:
    sha: str
    parent: str | None
    files: dict[str, bytes]
    title: str = ""


@dataclass
class Pull:
    num: int
    title: str
    author: str
    status: str = "open"


@dataclass
class Fault:
    """Requests whose path matches fail `times` times with `status`; `after`: the request takes effect first.

    `words`: what the server says; `cut`: the connection ends amid the answer; `hang`: no answer ever comes.
    """

    match: str
    status: int = 503
    times: int = 1
    after: bool = False
    words: str = "fault"
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    hang: bool = False


@dataclass
class Repos:
    """The state, open to tests. `repos`: main's commits; `branches`: those of other branches and of refs/pr/N."""

    repos: dict[str, list[Commit]] = field(default_factory=dict)
    branches: dict[str, dict[str, list[Commit]]] = field(default_factory=dict)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    pulls: dict[str, list[Pull]] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    """datasets where nothing is said."""
    private: dict[str, bool] = field(default_factory=dict)
    protected: set[str] = field(default_factory=set)
    blobs: dict[str, bytes] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    def head(self, repo: str, ref: str = "main") -> Commit:
        return self.log(repo, ref)[-1]

    def log(self, repo: str, ref: str) -> list[Commit]:
        """The commits of a branch. Raises KeyError."""
        return self.repos[repo] if ref == "main" else self.branches[repo][ref]

    def at(self, repo: str, revision: str) -> Commit | None:
        """The commit of a branch, a tag or a hash."""
        if revision == "main" or revision in self.branches.get(repo, {}):
            return self.head(repo, revision)
        return self.commits.get(self.tags.get(repo, {}).get(revision, revision))

    def push(self, repo: str, files: dict[str, bytes | None]) -> Commit:
        """Somebody else's commit; None removes a file."""
        merged = {**self.head(repo).files, **files}
        return self._commit(repo, {k: v for k, v in merged.items() if v is not None})

    def _commit(self, repo: str, files: dict[str, bytes], ref: str = "main", title: str = "") -> Commit:
        log = self.repos.setdefault(repo, []) if ref == "main" else self.log(repo, ref)
        parent = log[-1].sha if log else None
        digest = hashlib.sha1(
            repr((parent, len(self.commits), ref, sorted((k, blob_id(v)) for k, v in files.items()))).encode()
        )
        log.append(Commit(digest.hexdigest(), parent, files, title))
        self.commits[log[-1].sha] = log[-1]
        return log[-1]

    def branch(self, repo: str, name: str, start: Commit) -> None:
        self.branches.setdefault(repo, {})[name] = [start]

    def pull(self, repo: str, title: str, author: str, start: Commit) -> Pull:
        made = Pull(len(self.pulls.setdefault(repo, [])) + 1, title, author)
        self.pulls[repo].append(made)
        self.branch(repo, f"refs/pr/{made.num}", start)
        return made


def blob_id(data: bytes) -> str:
    """Git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def oid(path: str, data: bytes) -> str:
    """What a file is compared by before it is sent."""
    return hashlib.sha256(data).hexdigest() if LFS.search(path) else blob_id(data)


def entries(commit: Commit, folder: str, recursive: bool) -> Iterator[dict[str, object]]:
    """Files and folders below a folder, as the API lists them."""
    inside = f"{folder}/" if folder else ""
    seen = set()
    for path, data in sorted(commit.files.items()):
        if not path.startswith(inside):
            continue
        parents = path.removeprefix(inside).split("/")[:-1]
        for depth in range(len(parents)):
            name = inside + "/".join(parents[: depth + 1])
            if name not in seen and (recursive or depth == 0):
                seen.add(name)
                yield {"type": "directory", "path": name, "oid": hashlib.sha1(name.encode()).hexdigest(), "size": 0}
        if recursive or not parents:
            yield file_entry(path, data)


def file_entry(path: str, data: bytes) -> dict[str, object]:
    """A file as the API lists it: an LFS file's own hash is that of its pointer."""
    if not LFS.search(path):
        return {"type": "file", "path": path, "size": len(data), "oid": blob_id(data)}
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid(path, data)}\nsize {len(data)}\n".encode()
    lfs = {"oid": oid(path, data), "size": len(data), "pointerSize": len(pointer)}
    return {"type": "file", "path": path, "size": len(data), "oid": blob_id(pointer), "lfs": lfs}
