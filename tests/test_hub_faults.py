"""Faults of the Hub: what may pass is tried again within bounds, what will not is said in the server's own words, and a commit whose
answer was lost is not made twice."""

import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from hub.sets import REPO, commits, hub, left_over, make, push
from hub.standin import Fault, Hub

from prefdata.errors import PublishError
from prefdata.output.hub import commit, hub_calls
from prefdata.recipe.settings.output import PublishSettings

__all__ = ["hub"]
COMMIT = r"POST .*/commit/main"
STAGED = r"POST .*/commit/prefdata-staging"


@pytest.fixture
def built(tmp_path: Path) -> Path:
    return tmp_path / "built"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long publishing would have waited."""
    waited: list[float] = []
    monkeypatch.setattr(commit.time, "sleep", waited.append)
    return waited


@pytest.mark.parametrize("match", [COMMIT, STAGED], ids=["main", "staging"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("status", [409, 412, 429, 500, 503])
def test_faults_at_the_commit_never_make_a_second_one(hub: Hub, built: Path, status: int, after: bool, match: str) -> None:
    """`after`: the commit took effect and its answer was lost."""
    hub.faults.append(Fault(match, status, after=after))
    done = push(make(built, ["a"]))
    assert (commits(hub), hub.head(REPO).sha, len(done.put), left_over(hub)) == (1, done.revision, 2, [])


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_connection_that_is_cut_at_the_commit(hub: Hub, built: Path, after: bool) -> None:
    hub.faults.append(Fault(COMMIT, after=after, cut=True))
    push(make(built, ["a"]))
    assert (commits(hub), left_over(hub)) == (1, [])


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_server_that_hangs_on_the_commit_is_given_up(
    hub: Hub, built: Path, after: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.faults.append(Fault(COMMIT, after=after, hang=True))
    done = push(make(built, ["a"]), timeout_s=1.0)
    assert (commits(hub), hub.head(REPO).sha) == (1, done.revision)
    assert "try 1 of 4 failed" in capsys.readouterr().err


def test_a_server_that_trickles_is_given_up_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every byte comes in time, the answer never does."""
    calls = hub_calls.Calls(REPO, None, 0.2)

    def trickle() -> None:
        while True:
            time.sleep(0.01)
            hub_calls._require_wanted(None)

    with pytest.raises(hub_calls.Busy, match="no answer in 0 s"):
        calls(trickle)
    assert calls(lambda: 3, size=2**30) == 3


@pytest.mark.parametrize(
    "match", [r"PUT /__lfs", r"/preupload/", r"objects/batch", r"GET /api/datasets", r"/branch/", r"/refs", r"/tree/"]
)
def test_faults_on_the_way_are_tried_again(hub: Hub, built: Path, match: str) -> None:
    hub.faults.append(Fault(match, 503, times=2))
    push(make(built, ["a"]))
    assert commits(hub) == 1


@pytest.mark.parametrize(
    "match", [r"GET .*/resolve/.*README", r"GET .*/resolve/.*parquet", r"GET .*__blob", r"POST .*/paths-info"]
)
def test_faults_while_the_staging_branch_is_read_are_tried_again(hub: Hub, built: Path, match: str) -> None:
    hub.faults.append(Fault(match, 503, times=1))
    push(make(built, ["a"]))
    assert (commits(hub), left_over(hub)) == (1, [])


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("name", ["README.md", "manifest.json"])
def test_a_text_that_cannot_be_read_is_not_taken_for_none(hub: Hub, built: Path, name: str, status: int) -> None:
    """Else the owner's words would be overwritten, or every file sent again."""
    push(make(built, ["a"]))
    hub.push(REPO, {"README.md": hub.head(REPO).files["README.md"] + b"\nMy own words\n"})
    hub.faults.append(Fault(rf" /datasets/owner/set/resolve/.*{name}", status, times=2))
    done = push(make(built, ["a"], language=["de"]))
    assert (done.put, commits(hub)) == ([], 3)
    assert b"My own words" in hub.head(REPO).files["README.md"]


def test_tries_are_bounded(hub: Hub, built: Path, pauses: list[float]) -> None:
    hub.faults.append(Fault(COMMIT, 412, times=99, words="A commit has happened since"))
    with pytest.raises(PublishError, match=r"gave up after 3 tries \(status 412: A commit has happened since\)"):
        push(make(built, ["a"]), attempts=3)
    assert sum("/commit/main" in r for r in hub.requests) == 3
    assert (commits(hub), left_over(hub)) == (0, [])
    assert pauses == [0.01, 0.02]


@pytest.mark.parametrize(
    ("headers", "least"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"RateLimit": '"api";r=0;t=9'}, 9.0),
        ({"Retry-After": formatdate(time.time() + 5000)}, None),
    ],
    ids=["seconds", "rate limit", "far away"],
)
def test_a_pause_that_the_server_asks_for_is_kept(
    hub: Hub, built: Path, pauses: list[float], headers: dict[str, str], least: float | None
) -> None:
    hub.faults.append(Fault(COMMIT, 429, headers=headers, words="slow down"))
    if least is None:
        with pytest.raises(
            PublishError, match=r"the Hub says 429 and asks to wait \d{4} s \(slow down\); run the same command"
        ):
            push(make(built, ["a"]))
        assert pauses == []
    else:
        push(make(built, ["a"]))
        assert pauses == [least]


@pytest.mark.parametrize(
    ("status", "words", "do"),
    [
        (400, "files larger than 10 MiB must be stored by LFS", "mend what the Hub names"),
        (402, "Private storage limit reached", "free storage or change the plan there"),
        (403, "main is protected", "set HF_TOKEN"),
        (404, "no such thing", "set HF_TOKEN"),
        (422, "odd", "mend what the Hub names"),
    ],
)
def test_what_will_not_change_is_said_in_the_servers_words_at_once(
    hub: Hub, built: Path, pauses: list[float], status: int, words: str, do: str
) -> None:
    hub.faults.append(Fault(COMMIT, status, times=99, words=f"{words} (hf_abcdefghij, hf_w)"))
    with pytest.raises(PublishError, match=rf"owner/set: the Hub says {status}: .*\({words} \(\*\*\*, \*\*\*\)\); {do}"):
        push(make(built, ["a"]))
    assert (sum("/commit/main" in r for r in hub.requests), pauses, left_over(hub)) == (1, [], [])


def test_a_protected_branch_is_told_and_the_staging_branch_removed(hub: Hub, built: Path) -> None:
    hub.protected.add("main")
    with pytest.raises(PublishError, match="the branch main is protected"):
        push(make(built, ["a"]))
    assert (commits(hub), left_over(hub)) == (0, [])
    push(make(built, ["a"]), revision="next")


def test_a_card_that_the_hub_will_not_take_is_no_traceback(hub: Hub, built: Path) -> None:
    with pytest.raises(
        PublishError, match=r'owner/set/README.md: Invalid metadata .*"license" must be one of.*correct the settings'
    ):
        push(make(built, ["a"], license="a licence of our own"))
    assert not any("lfs" in r for r in hub.requests), "before any upload"


@pytest.mark.parametrize(
    ("token", "said"), [("hf_nobody", "401: no valid token"), ("hf_r", "403: the token may not write here")]
)
def test_tokens_that_may_not_are_refused_before_any_upload(
    hub: Hub, built: Path, monkeypatch: pytest.MonkeyPatch, token: str, said: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(PublishError, match=said) as error:
        push(make(built, ["a"]))
    assert not any("lfs" in r or "commit" in r for r in hub.requests)
    assert token not in str(error.value)


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("", "owner/set: HF_TOKEN is empty: that is no token; set HF_TOKEN"),
        ("hf_w\n", "HF_TOKEN: HF_TOKEN holds a space or a line break: that is no token; set it without"),
        (None, "owner/set: no token to publish with; set HF_TOKEN"),
    ],
)
def test_a_token_that_is_none_is_told_and_nothing_is_asked(
    hub: Hub, built: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, token: str | None, said: str
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setenv("HF_TOKEN", token) if token is not None else monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PublishError, match=f"^{said}"):
        push(make(built, ["a"]))
    assert hub.requests == []


def test_offline_mode_is_told_at_once(hub: Hub, built: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PublishError, match="owner/set: offline mode is on, so nothing is sent; unset HF_HUB_OFFLINE"):
        push(make(built, ["a"]))
    assert (pauses, hub.requests) == ([], [])


def test_a_server_that_is_not_there_is_tried_again_and_told(
    built: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PublishError, match=r"gave up after 2 tries \(ConnectError"):
        push(make(built, ["a"]), attempts=2)
    assert pauses == [0.01]


def test_a_name_that_is_none_is_refused(hub: Hub, built: Path) -> None:
    with pytest.raises(PublishError, match=r"check publish\.repo_id"):
        push(make(built, ["a"]), repo_id="owner/a--b")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"pull_request": True, "tag": "v1"}, "leave revision and tag out"),
        ({"pull_request": True, "revision": "next"}, "leave revision and tag out"),
        ({"revision": "refs/pr/1"}, "no branch to publish to"),
        ({"revision": "prefdata-staging-1"}, "no branch to publish to"),
        ({"revision": "../main"}, "pattern"),
        ({"tag": "a b"}, "pattern"),
        ({"timeout_s": 0}, "greater than 0"),
    ],
)
def test_targets_that_cannot_be_are_mistakes_of_the_recipe(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PublishSettings(repo_id=REPO, **keys)
