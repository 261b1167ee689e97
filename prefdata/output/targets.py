"""Where a set is published: a folder, or a data set repository on the Hub. Both know a head and one commit."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from prefdata.errors import PublishError
from prefdata.output.published_files import OURS as OUR_CONFIGS
from prefdata.tables import atomic

PAGE = "explore.html"
OURS = re.compile(rf"data/({OUR_CONFIGS})/[\w.-]+\.parquet|{re.escape(PAGE)}")
"""The only files that publishing removes: what else a manifest may name is nobody's business of ours."""
T = TypeVar("T")
MANIFEST, CARD = "manifest.json", "README.md"


@dataclass(frozen=True)
class Head:
    """What is published now: its revision (None: nothing), the files' content hashes and the card."""

    revision: str | None
    files: dict[str, str]
    card: str | None


class Busy(Exception):
    """The target could not take the commit this time: read the head again, then try again."""


class Target(Protocol):
    """A place to publish to."""

    def head(self) -> Head: ...

    def commit(self, parent: Head, puts: dict[str, Path], deletes: list[str], message: str) -> str: ...


def parse_manifest(text: str, where: str) -> dict[str, str]:
    """The files of a manifest.json, which may hold anything. Raises PublishError."""
    try:
        listed = json.loads(text)["files"]
        if not all(isinstance(k, str) and isinstance(v, str) for k, v in listed.items()):
            raise TypeError("not text")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise PublishError("not a manifest of ours", where, "publish to another place, or remove that file") from error
    return {name: value for name, value in listed.items() if OURS.fullmatch(name)}


def decode(data: bytes, where: str) -> str:
    """A text of the target, which may hold anything. Raises PublishError."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PublishError("not utf-8", where, "mend or remove that file") from error


class Folder:
    """A folder. Its manifest goes first and comes back last: a kill between leaves files that nothing vouches for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def head(self) -> Head:
        manifest, card = (self._text(name) for name in (MANIFEST, CARD))
        listed = {} if manifest is None else parse_manifest(manifest, str(self.path / MANIFEST))
        files = [*self.path.glob("data/*/*.parquet"), *self.path.glob(PAGE)]
        found = [str(p.relative_to(self.path)) for p in files if not p.name.startswith(".")]
        present = {n: listed.get(n, "unlisted") if self._whole(n) else "damaged" for n in found if OURS.fullmatch(n)}
        return Head(None if manifest is None else "folder", present, card)

    def _whole(self, name: str) -> bool:
        """Whether a file ends as Parquet or a page does; the manifest's word alone does not tell."""
        if name == PAGE:
            return (self.path / name).read_bytes().endswith(b"</html>\n")
        try:
            pq.read_metadata(self.path / name)
        except (pa.ArrowException, OSError):
            return False
        return True

    def _text(self, name: str) -> str | None:
        path = self.path / name
        return decode(path.read_bytes(), str(path)) if path.exists() else None

    def commit(self, parent: Head, puts: dict[str, Path], deletes: list[str], message: str) -> str:
        (self.path / MANIFEST).unlink(missing_ok=True)
        for name in sorted(set(puts) - {CARD, MANIFEST}):
            atomic.atomic_write(self.path / name, partial(shutil.copyfile, puts[name]))
        for name in deletes:
            (self.path / name).unlink(missing_ok=True)
        for name in (CARD, MANIFEST):
            if name in puts:
                atomic.atomic_write(self.path / name, partial(shutil.copyfile, puts[name]))
        return "folder"


class Hub:
    """A data set repository through huggingface_hub; HF_ENDPOINT and HF_TOKEN are read from the environment."""

    def __init__(self, repo_id: str, private: bool) -> None:
        from huggingface_hub import HfApi

        self.repo_id, self.private = repo_id, private
        self.api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=os.environ.get("HF_TOKEN"))

    def head(self) -> Head:
        def read() -> Head:
            self.api.create_repo(self.repo_id, repo_type="dataset", private=self.private, exist_ok=True)
            info = self.api.dataset_info(self.repo_id)
            sha, present = info.sha, {s.rfilename for s in info.siblings or []}
            assert sha is not None
            manifest, card = (self._text(name, sha) for name in (MANIFEST, CARD))
            listed = {} if manifest is None else parse_manifest(manifest, f"{self.repo_id}/{MANIFEST}")
            return Head(sha, {k: v for k, v in listed.items() if k in present}, card)

        return self._answered(read)

    def _text(self, name: str, revision: str) -> str | None:
        from huggingface_hub.errors import EntryNotFoundError

        try:
            path = self.api.hf_hub_download(self.repo_id, name, repo_type="dataset", revision=revision)
        except EntryNotFoundError:
            return None
        return decode(Path(path).read_bytes(), f"{self.repo_id}/{name}")

    def commit(self, parent: Head, puts: dict[str, Path], deletes: list[str], message: str) -> str:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        operations: list[CommitOperationAdd | CommitOperationDelete] = []
        operations += [CommitOperationAdd(n, str(p)) for n, p in sorted(puts.items())]
        operations += [CommitOperationDelete(n) for n in sorted(deletes)]

        def send() -> str:
            done = self.api.create_commit(
                self.repo_id, operations, repo_type="dataset", commit_message=message, parent_commit=parent.revision
            )
            return str(done.oid)

        return self._answered(send)

    def _answered(self, call: Callable[[], T]) -> T:
        """Sort the client's errors: what will not change is a PublishError, what may is Busy. No token is in either."""
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

        try:
            return call()
        except (LocalTokenNotFoundError, HFValidationError) as error:
            said = str(error).splitlines()[0]
            raise PublishError(said, self.repo_id, "set HF_TOKEN and check publish.repo_id") from error
        except (HfHubHTTPError, httpx2.HTTPError, ConnectionError, TimeoutError, json.JSONDecodeError) as error:
            raise self._sorted(error) from error
        except RuntimeError as error:  # the client wraps what went wrong while a file was uploaded
            if not isinstance(error.__cause__, HfHubHTTPError | httpx2.HTTPError | OSError):
                raise
            raise self._sorted(error.__cause__) from error

    def _sorted(self, error: BaseException) -> Exception:
        response = getattr(error, "response", None)
        status = 0 if response is None else int(response.status_code)
        if status not in (400, 401, 403, 404):
            return Busy(f"status {status}" if status else type(error).__name__)
        meaning = {401: "no valid token", 403: "the token may not write here", 404: "no such repository, or no access"}
        return PublishError(
            f"the Hub says {status}: {meaning.get(status, 'the request was refused')}",
            self.repo_id,
            "set HF_TOKEN to a token that may write there, and check publish.repo_id",
        )
