"""Pushing to the Hub: a staging branch that is checked, one commit of what changed, targets, and what is said of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub.repos import blob_id
from hub.sets import REPO, SECRET, commits, header, hub, left_over, loaded, make, push
from hub.standin import Fault, Hub
from test_publish import ROWS, published

from prefdata.errors import PublishError
from prefdata.output.hub.hub import Hub as HubTarget
from prefdata.output.hub.manifest import Stored, stored_of
from prefdata.recipe.job import Job
from prefdata.recipe.results import Results
from prefdata.recipe.settings.output import PublishSettings
from prefdata.stages import publish
from prefdata.stages.registry import STAGES
from prefdata.workflow import cli

__all__ = ["hub"]
A, B, C = "data/sets/train-00000-of-00002.parquet", "data/sets/train-00001-of-00002.parquet", "README.md"


@pytest.fixture
def built(tmp_path: Path) -> Path:
    return tmp_path / "built"


def test_one_commit_then_none_then_only_the_difference(hub: Hub, built: Path, tmp_path: Path) -> None:
    first = push(make(built, ["a", "b"], shards=2))
    head = hub.head(REPO)
    assert (commits(hub), head.sha) == (1, first.revision)
    assert {A, B, C, "manifest.json"} < set(head.files)
    assert sum("PUT /__lfs" in r for r in hub.requests) == 4, "each file travels once, though it is committed twice"
    again = push(make(built, ["a", "b"], shards=2))
    assert (again.revision, again.put, again.said()) == (first.revision, [], "nothing changed")
    assert commits(hub) == 1
    hub.requests.clear()
    last = push(make(built, ["new", "b"], shards=2))
    assert sorted(last.put) == ["data/preference/train-00000-of-00002.parquet", A]
    assert sum("PUT /__lfs" in r for r in hub.requests) == 2, "only what differs travels"
    assert (commits(hub), hub.head(REPO).parent) == (2, head.sha)
    assert loaded(tmp_path / "cache") == {"train": ["b", "new"]}
    assert left_over(hub) == []


def test_an_existing_cards_own_words_survive(hub: Hub, built: Path) -> None:
    push(make(built, ["a"]))
    readme = hub.head(REPO).files[C].decode()
    hub.push(REPO, {C: (readme + "\nMy own words\n").encode(), "notes.md": b"x"})
    push(make(built, ["b"]))
    assert b"My own words" in hub.head(REPO).files[C]
    assert hub.head(REPO).files["notes.md"] == b"x"


def test_files_of_ours_that_no_manifest_lists_are_replaced(hub: Hub, built: Path, tmp_path: Path) -> None:
    """A lost manifest and another number of shards: no row twice; a foreign file of a name that ours could have goes too."""
    push(make(built, ["a", "b", "c"], shards=3))
    hub.push(REPO, {"manifest.json": None, "data/sets/train-extra.parquet": hub.head(REPO).files[A.replace("00002", "00003")]})
    push(make(built, ["a", "b", "c"], shards=2))
    assert loaded(tmp_path / "cache") == {"train": ["a", "b", "c"]}
    assert {n for n in hub.head(REPO).files if n.startswith("data/sets/")} == {A, B}


@pytest.mark.parametrize("content", [b"PAR1cutPAR1", None], ids=["tampered", "removed"])
def test_a_file_that_is_not_as_it_was_stored_is_put_again(hub: Hub, built: Path, content: bytes | None) -> None:
    push(make(built, ["a", "b"], shards=2))
    sound = hub.head(REPO).files[A]
    hub.push(REPO, {A: content})
    assert push(make(built, ["a", "b"], shards=2)).put == [A]
    assert hub.head(REPO).files[A] == sound


def test_a_manifest_of_an_older_version_vouches_for_nothing(hub: Hub, built: Path) -> None:
    push(make(built, ["a"]))
    manifest = json.loads(hub.head(REPO).files["manifest.json"])
    old = {k: v for k, v in manifest.items() if k not in ("stored", "header", "made_by")}
    hub.push(REPO, {"manifest.json": json.dumps(old).encode()})
    assert len(push(make(built, ["a"])).put) == 2
    assert push(make(built, ["a"])).put == []


def test_a_hash_vouches_only_where_both_know_it(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    both = stored_of(tmp_path / "x")
    assert both.blob == blob_id(b"x")
    assert all(both.same(one) for one in (both, Stored(sha256=both.sha256), Stored(blob=both.blob)))
    assert not Stored(sha256=both.sha256).same(Stored(blob=both.blob))
    assert not both.same(Stored(sha256=both.sha256, blob="0" * 40))


@pytest.mark.parametrize("text", ['{"files": {"a": "b"}}', '{"files": {}}', "[]", "{"])
def test_somebodys_manifest_is_not_overwritten(hub: Hub, built: Path, text: str) -> None:
    push(make(built, ["a"]))
    head = hub.push(REPO, {"manifest.json": text.encode()})
    with pytest.raises(PublishError, match=r"owner/set/manifest.json: not a manifest of ours, .*publish to another place"):
        push(make(built, ["b"]))
    assert hub.head(REPO).sha == head.sha


def test_a_commit_that_came_between_is_the_new_parent(hub: Hub, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push(make(built, ["a"]))
    real, raced = HubTarget.commit, []

    def racing(self: HubTarget, *arguments: Any) -> str:
        if not raced:
            extra = next(v for k, v in hub.head(REPO).files.items() if k.startswith("data/sets/"))
            raced.append(hub.push(REPO, {"theirs.md": b"x", "data/sets/train-extra.parquet": extra}))
        return real(self, *arguments)

    monkeypatch.setattr(HubTarget, "commit", racing)
    push(make(built, ["b"]))
    assert hub.head(REPO).parent == raced[0].sha
    assert hub.head(REPO).files["theirs.md"] == b"x"
    assert "data/sets/train-extra.parquet" not in hub.head(REPO).files, "the head was read again"


# ---- the staging branch ----


def test_what_a_killed_push_left_is_removed(hub: Hub, built: Path) -> None:
    push(make(built, ["a"]))
    hub.branch(REPO, "prefdata-staging-0a1b2c3d", hub.head(REPO))
    hub.branch(REPO, "theirs", hub.head(REPO))
    push(make(built, ["a"]))
    assert list(hub.branches[REPO]) == ["theirs"]


def test_main_is_not_touched_where_the_staged_files_are_not_those_that_were_sent(hub: Hub, built: Path) -> None:
    push(make(built, ["a"]))
    head = hub.head(REPO)
    real = hub._commit

    def other_bytes(repo: str, files: dict[str, bytes], ref: str = "main", title: str = "") -> Any:
        return real(repo, {k: v[::-1] if k.endswith("parquet") else v for k, v in files.items()}, ref, title)

    hub._commit = other_bytes  # type: ignore[method-assign]
    with pytest.raises(PublishError, match=r"owner/set/data/preference/.*: the Hub stores other bytes than were sent"):
        push(make(built, ["b"]))
    assert hub.head(REPO) is head
    assert left_over(hub) == []


def test_main_is_not_touched_where_a_config_would_not_load(hub: Hub, built: Path) -> None:
    """A config of the owner's whose files are gone breaks every config of the repository."""
    push(make(built, ["a"]))
    known = {**header(hub), "configs": [{"config_name": "theirs", "data_files": "gone-*.parquet"}]}
    head = hub.push(REPO, {C: f"---\n{yaml.safe_dump(known)}---\n".encode()})
    with pytest.raises(
        PublishError, match=r"the config preference would not load \(DataFilesNotFoundError: .*\), so nothing was changed"
    ):
        push(make(built, ["b"]))
    assert hub.head(REPO) is head
    assert left_over(hub) == []


def test_a_branch_that_cannot_be_removed_is_told_and_removed_next_time(
    hub: Hub, built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.faults.append(Fault(r"DELETE .*/branch/", 500, times=1))
    push(make(built, ["a"]))
    assert "stays for now (status 500: fault)" in capsys.readouterr().err
    assert len(left_over(hub)) == 1
    push(make(built, ["a"]))
    assert left_over(hub) == []


# ---- targets ----


def test_a_branch_of_ones_own(hub: Hub, built: Path, tmp_path: Path) -> None:
    push(make(built, ["a"]))
    done = push(make(built, ["b"]), revision="next")
    assert (commits(hub), hub.head(REPO, "next").sha) == (1, done.revision)
    assert loaded(tmp_path / "cache", revision="next") == {"train": ["b"]}
    assert push(make(built, ["b"]), revision="next").put == []
    push(make(built, ["a"]), revision="same")
    assert hub.head(REPO, "same").sha == hub.head(REPO).sha, "a branch is made though main has the set already"


def test_a_tag_is_on_the_revision_and_never_moved(hub: Hub, built: Path) -> None:
    done = push(make(built, ["a"]), tag="v1.0")
    assert hub.tags[REPO] == {"v1.0": done.revision}
    push(make(built, ["a"]), tag="v1.0")
    with pytest.raises(PublishError, match=r"the tag v1\.0 is there already, on another set; choose another publish\.tag"):
        push(make(built, ["b"]), tag="v1.0")
    assert (commits(hub), hub.tags[REPO]) == (1, {"v1.0": done.revision})
    assert push(make(built, ["a"]), tag="v1.1").put == []
    assert set(hub.tags[REPO].values()) == {done.revision}


def test_a_tag_whose_answer_was_lost_is_no_error(hub: Hub, built: Path) -> None:
    hub.faults.append(Fault(r"POST .*/tag/", 500, after=True))
    done = push(make(built, ["a"]), tag="v1.0")
    assert (commits(hub), hub.tags[REPO], len(done.put)) == (1, {"v1.0": done.revision}, 2)


def test_a_pull_request_is_made_once_and_gone_on_with(hub: Hub, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push(make(built, ["a"]))
    monkeypatch.setenv("HF_TOKEN", "hf_r")  # anybody may propose
    hub.faults.append(Fault(r"POST .*/commit/", 500, after=True))
    done = push(make(built, ["b"]), pull_request=True)
    assert [(p.num, p.title, p.author) for p in hub.pulls[REPO]] == [(1, "prefdata: set", "reader")]
    assert done.url.endswith("/datasets/owner/set/discussions/1")
    assert (commits(hub), hub.head(REPO, "refs/pr/1").sha) == (1, done.revision)
    assert push(make(built, ["b"]), pull_request=True).revision == done.revision
    more = push(make(built, ["c"]), pull_request=True)
    assert (len(hub.pulls[REPO]), hub.head(REPO, "refs/pr/1").sha) == (1, more.revision)
    hub.pulls[REPO][0].status = "merged"
    push(make(built, ["d"]), pull_request=True)
    assert len(hub.pulls[REPO]) == 2, "a merged one is not gone on with"


def test_a_pull_request_is_read_back_though_that_failed_at_first(hub: Hub, built: Path) -> None:
    """By the next try there is nothing to commit, and what was proposed does not load."""
    push(make(built, ["a"]))
    known = {**header(hub), "configs": [{"config_name": "theirs", "data_files": "gone-*.parquet"}]}
    hub.push(REPO, {C: f"---\n{yaml.safe_dump(known)}---\n".encode()})
    real = hub._commit

    def then_busy(*arguments: Any) -> Any:
        hub.faults.append(Fault(r" /datasets/owner/set/resolve/.*README", 503, times=1))
        return real(*arguments)

    hub._commit = then_busy  # type: ignore[method-assign]
    with pytest.raises(PublishError, match="the config preference would not load"):
        push(make(built, ["b"]), pull_request=True)
    assert len(hub.log(REPO, "refs/pr/1")) == 2, "the head and one commit"


def test_a_pull_request_to_no_repository_is_an_error(hub: Hub, built: Path) -> None:
    with pytest.raises(PublishError, match="no such repository to make a pull request to"):
        push(make(built, ["a"]), pull_request=True)


def test_another_visibility_is_told(hub: Hub, built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    push(make(built, ["a"]))
    assert hub.private[REPO]
    assert "warning" not in capsys.readouterr().err
    hub.private[REPO] = False
    push(make(built, ["a"]))
    assert "warning: owner/set is public, whatever publish.private says" in capsys.readouterr().err


# ---- the stage ----


def test_an_unknown_licence_is_not_pushed(hub: Hub, make_run, write_rows) -> None:
    path = write_rows(ROWS)
    with pytest.raises(PublishError, match=r"no licence is stated for s@local \(8 prompts\)"):
        published(make_run, path, license="unknown", publish={"repo_id": REPO})
    assert hub.requests == []


def test_the_whole_stage_pushes_what_the_folder_holds(
    hub: Hub, make_run, write_rows, capsys: pytest.CaptureFixture[str]
) -> None:
    run = published(make_run, write_rows(ROWS), publish={"repo_id": REPO})
    folder = run.root / "publish" / "t"
    remote = hub.head(REPO).files
    local = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert {k: v for k, v in remote.items() if k != ".gitattributes"} == local
    everything = b"".join(p.read_bytes() for p in run.root.rglob("*") if p.is_file())
    assert SECRET.encode() not in everything
    sha, said = hub.head(REPO).sha, capsys.readouterr().err
    assert f"/datasets/owner/set/tree/{sha} (6 files put, 0 removed, the card; revision {sha})" in said
    receipt = json.loads((run.root / "publish" / "receipt.json").read_text())
    assert receipt[REPO]["revision"] == sha
    assert receipt[REPO]["url"].endswith(sha)


def test_foretelling_says_what_would_change_and_writes_nothing(
    hub: Hub, make_run, write_rows, capsys: pytest.CaptureFixture[str]
) -> None:
    run = published(make_run, write_rows(ROWS), publish={"repo_id": REPO})
    head, before = hub.head(REPO), {p: p.read_bytes() for p in run.root.rglob("*") if p.is_file()}
    hub.requests.clear()
    publish.foretell(Job(run, "publish"))
    assert f"publish: owner/set at {head.sha}: nothing changed; nothing was written" in capsys.readouterr().out
    new = Results(run.settings.model_copy(update={"publish": PublishSettings(repo_id="owner/new")}), STAGES, run.root.parent)
    publish.foretell(Job(new, "publish"))
    said = capsys.readouterr().out
    assert "publish: owner/new at no revision: 6 files put, 0 removed, the card; nothing was written" in said
    assert "would put data/preference/train-00000-of-00001.parquet" in said
    assert "would put" not in said.partition("owner/new")[0], "the folder has them"
    assert all(r.startswith(("GET", "HEAD")) for r in hub.requests)
    assert (hub.head(REPO), list(hub.repos)) == (head, [REPO])
    assert {p: p.read_bytes() for p in run.root.rglob("*") if p.is_file()} == before


def test_the_command_says_what_would_change(
    make_run, write_rows, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = published(make_run, write_rows(ROWS))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(run.settings.model_dump(mode="json")))
    monkeypatch.chdir(tmp_path)
    (run.root / "publish/t/README.md").unlink()
    before = sorted(p.read_bytes() for p in (run.root / "publish").rglob("*") if p.is_file())
    cli.app(["publish", "--settings", str(recipe), "--dry-run"], standalone_mode=False)
    assert "publish: folder at folder: 0 files put, 0 removed, the card; nothing was written" in capsys.readouterr().out
    assert sorted(p.read_bytes() for p in (run.root / "publish").rglob("*") if p.is_file()) == before
