"""A repository on the Hub, of a data set or of a model, as a target: a branch, or a pull request.

A change is first committed to a staging branch and read back there (staged.py); only then is it one commit on the target, with
the head that was read as its parent. Readers of the target see the old set or the new one.
"""

import os
import sys
import uuid
from pathlib import Path
from typing import Any

from prefdata.errors import PublishError
from prefdata.output.hub.hub_calls import Calls, hub_token, no_token
from prefdata.output.hub.manifest import CARD, DATASET, MANIFEST, Kind, Stored
from prefdata.output.hub.staged import Staged, require_readable
from prefdata.output.hub.targets import Busy, Change, Head, decode, head_of
from prefdata.recipe.settings.output import PublishSettings

STAGING = "prefdata-staging-"
"""Staging branches are called so; one that a killed push left is removed by the next."""
MAIN = "main"


class Hub:
    """One repository through huggingface_hub; HF_ENDPOINT and HF_TOKEN are read from the environment. Raises PublishError."""

    def __init__(self, settings: PublishSettings, kind: Kind = DATASET) -> None:
        from huggingface_hub import HfApi

        assert settings.repo_id is not None
        self.repo_id, self.settings, self.kind, self.repo_type = settings.repo_id, settings, kind, kind.repo_type
        if (token := hub_token()) is None:
            raise PublishError(no_token(), self.repo_id, "set HF_TOKEN to a token that may write there")
        self.api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
        self.calls = Calls(self.repo_id, token, settings.timeout_s)
        self.branch = settings.revision or MAIN
        self._pull: int | None = None
        """The open pull request that an earlier push made."""
        self._proposed: tuple[Head, Change] | None = None
        """What was sent there and not read back yet, whether or not its answer came."""
        self._told = False

    def prepare(self) -> None:
        """Make the repository where there is none, and remove what a killed push left."""
        if (info := self.info()) is None:
            if self.settings.pull_request:
                raise PublishError("no such repository to make a pull request to", self.repo_id, "check publish.repo_id")
            private = self.settings.private
            self.calls(lambda: self.api.create_repo(self.repo_id, repo_type=self.repo_type, private=private, exist_ok=True))
        elif info.private != self.settings.private and not self._told:
            self._told, are = True, "private" if info.private else "public"
            print(f"warning: {self.repo_id} is {are}, whatever publish.private says; change it there", file=sys.stderr)
        for left in self._refs().branches:
            if left.name.startswith(STAGING) and not self.settings.pull_request:
                self._remove_branch(left.name)

    def head(self) -> Head:
        if (info := self.info()) is None:
            return Head(None, {}, None)
        revision = str(info.sha)
        if self.settings.pull_request:
            self._pull = self._open_pull()
            if self._pull is not None:
                revision = str(self.info(f"refs/pr/{self._pull}").sha)
        elif self.branch != MAIN:
            revision = self._targets("branches").get(self.branch, revision)
        return self._head_at(revision)

    def _head_at(self, revision: str) -> Head:
        present = self.files(revision)
        manifest, card = (self._text(name, revision) if name in present else None for name in (MANIFEST, CARD))
        return head_of(revision, present, (manifest, card), self.repo_id, self.kind)

    def files(self, revision: str) -> dict[str, Stored | None]:
        """Every file of a revision with the server's hash of it."""
        tree = self.calls(
            lambda: list(self.api.list_repo_tree(self.repo_id, recursive=True, revision=revision, repo_type=self.repo_type))
        )
        return {f.path: _stored(f) for f in tree if hasattr(f, "blob_id")}

    def commit(self, parent: Head, change: Change) -> str:
        if self.settings.tag is not None and self.settings.tag in self._targets("tags"):
            raise PublishError(
                f"the tag {self.settings.tag} is there already, on another set", self.repo_id, "choose another publish.tag"
            )
        if self.settings.pull_request:
            return self._propose(parent, change)
        assert parent.revision is not None
        staging = f"{STAGING}{uuid.uuid4().hex[:8]}"
        try:
            self._make_branch(staging, parent.revision)
            self._require_readable(self._send(change, parent.revision, staging), parent, change)
            self._make_branch(self.branch, parent.revision)
            return self._send(change, parent.revision, self.branch)
        finally:
            self._remove_branch(staging)

    def _propose(self, parent: Head, change: Change) -> str:
        """A commit on our open pull request, or on a new one."""
        self._proposed = (parent, change)
        revision = self._send(change, parent.revision, None if self._pull is None else f"refs/pr/{self._pull}")
        self._pull = self._open_pull()
        return revision

    def _send(self, change: Change, parent: str | None, branch: str | None) -> str:
        """One commit; on a new pull request where there is no branch."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        operations: list[CommitOperationAdd | CommitOperationDelete] = []
        operations += [CommitOperationAdd(n, str(p)) for n, p in sorted(change.puts.items())]
        operations += [CommitOperationDelete(n) for n in sorted(change.deletes)]
        done = self.calls(
            lambda: self.api.create_commit(
                self.repo_id,
                operations,
                repo_type=self.repo_type,
                commit_message=self._title() if branch is None else change.message,
                revision=branch,
                parent_commit=parent,
                create_pr=branch is None,
            ),
            size=sum(p.stat().st_size for p in change.puts.values()),
        )
        return str(done.oid)

    def _require_readable(self, revision: str, parent: Head, change: Change) -> None:
        """Raise PublishError where what lies there is not what was sent, or does not load."""
        staged = Staged(self.kind, self.repo_id, revision, parent.revision, str(self.api.endpoint), str(self.api.token))
        require_readable(staged, self.calls, self.files(revision), change, self._text(CARD, revision))

    def finish(self, revision: str) -> None:
        if self.settings.pull_request:
            if self._proposed is not None:  # a pull request is its own staging branch
                self._require_readable(revision, *self._proposed)
            return
        if self.branch != MAIN and self.branch not in self._targets("branches"):
            self._make_branch(self.branch, revision)
        if (tag := self.settings.tag) is not None:
            if (there := self._targets("tags").get(tag)) not in (None, revision):
                raise PublishError(f"the tag {tag} is there already, on {there}", self.repo_id, "choose another publish.tag")
            self.calls(
                lambda: self.api.create_tag(self.repo_id, tag=tag, revision=revision, repo_type=self.repo_type, exist_ok=True)
            )

    def url(self, revision: str) -> str:
        place = f"{self.api.endpoint}/{self.kind.prefix}{self.repo_id}"
        return f"{place}/discussions/{self._pull}" if self._pull is not None else f"{place}/tree/{revision}"

    # ---- single requests ----

    def _title(self) -> str:
        return f"prefdata: {self.repo_id.partition('/')[2]}"

    def _open_pull(self) -> int | None:
        """The number of our open pull request: whether one was made is asked, never remembered, for an answer may be lost."""
        found = self.calls(
            lambda: list(self.api.get_repo_discussions(self.repo_id, repo_type=self.repo_type, discussion_type="pull_request"))
        )
        me = self.calls(lambda: self.api.whoami(cache=True))["name"]
        mine = [d.num for d in found if (d.title, d.author) == (self._title(), me) and d.status in ("open", "draft")]
        return max(mine, default=None)

    def info(self, revision: str | None = None) -> Any:
        """What the Hub knows of the repository; None where there is none."""
        from huggingface_hub.errors import RepositoryNotFoundError

        def ask() -> Any:
            try:
                return self.api.repo_info(self.repo_id, revision=revision, repo_type=self.repo_type)
            except RepositoryNotFoundError as error:
                if error.response.status_code != 404:  # a token that is none is told so
                    raise
                return None

        return self.calls(ask)

    def _refs(self) -> Any:
        return self.calls(lambda: self.api.list_repo_refs(self.repo_id, repo_type=self.repo_type))

    def _targets(self, kind: str) -> dict[str, str]:
        """The commits of branches or tags by name."""
        return {ref.name: ref.target_commit for ref in getattr(self._refs(), kind)}

    def _text(self, name: str, revision: str) -> str:
        """A file that is there. A client that cannot reach the Hub says that there is none: that is no answer."""
        from huggingface_hub.errors import LocalEntryNotFoundError

        def read() -> bytes:
            try:
                path = self.api.hf_hub_download(self.repo_id, name, repo_type=self.repo_type, revision=revision)
            except LocalEntryNotFoundError as error:
                raise self.calls.meaning(error.__cause__ or error) or Busy(f"{name} cannot be read") from error
            return Path(path).read_bytes()

        return decode(self.calls(read), f"{self.repo_id}/{name}")

    def _make_branch(self, name: str, revision: str) -> None:
        if name != MAIN:
            self.calls(
                lambda: self.api.create_branch(
                    self.repo_id, branch=name, revision=revision, repo_type=self.repo_type, exist_ok=True
                )
            )

    def _remove_branch(self, name: str) -> None:
        """A staging branch that stays is no harm: the next push removes it."""
        from huggingface_hub.errors import HfHubHTTPError

        def remove() -> None:
            try:
                self.api.delete_branch(self.repo_id, branch=name, repo_type=self.repo_type)
            except HfHubHTTPError as error:
                if error.response.status_code != 404:
                    raise

        try:
            self.calls(remove)
        except (Busy, PublishError) as error:
            print(f"publish: the branch {name} of {self.repo_id} stays for now ({error})", file=sys.stderr)


def _stored(file: Any) -> Stored:
    """The server's hash of a file: of an LFS file the blob is a pointer, whose hash says nothing of ours."""
    return Stored(blob=file.blob_id) if file.lfs is None else Stored(sha256=file.lfs.sha256)
