"""Before the first job of a recipe with repo_id: licence, token, name, rights and visibility; what was not checked is said."""

from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from hub.sets import REPO, hub, make, push
from hub.standin import Fault, Hub

from prefdata.output.hub.hub_preflight import Preflight, preflight
from prefdata.workflow import snakefile

__all__ = ["hub"]


@pytest.fixture
def check(make_run):
    def check(repo: str = REPO, card: dict[str, Any] | None = None, **publish: Any) -> Preflight:
        keys = {"publish": {"repo_id": repo, "timeout_s": 5.0, **publish}, "card": card or {}}
        return preflight(make_run(sources={"sources": [{"name": "s", "path": "x"}]}, **keys).settings)

    return check


def test_a_sound_recipe_is_silent_and_nothing_is_made(hub: Hub, check) -> None:
    assert check() == Preflight()
    assert check("owner-team/set") == Preflight(), "an organization of theirs"
    assert hub.repos == {}
    assert all(r.startswith("GET") for r in hub.requests)


def test_a_licence_that_the_hub_does_not_know_is_told(hub: Hub, check) -> None:
    found = check(card={"license": "CC BY-NC-ND 4.0, all rights reserved"})
    assert found.problems == [
        "card.license: the Hub does not know the licence 'CC BY-NC-ND 4.0, all rights reserved'; "
        "choose an identifier of its list, or other"
    ]
    assert "did you mean 'cc-by-4.0'?" in check(card={"license": "cc-by4.0"}).problems[0]
    assert check(card={"license": "cc-by-nc-4.0"}).problems == []


@pytest.mark.parametrize(
    ("token", "repo", "keys", "said"),
    [
        ("hf_nobody", REPO, {}, "owner/set: the Hub says 401: no valid token"),
        ("", REPO, {}, "owner/set: HF_TOKEN is empty: that is no token; set HF_TOKEN"),
        ("hf_w\n", REPO, {}, "HF_TOKEN: HF_TOKEN holds a space or a line break"),
        ("hf_w", "other/set", {}, "other/set: there is no such repository, and the token of owner may not make one for other"),
        ("hf_w", "owner/a..b", {}, "owner/a..b: Cannot have -- or .. in repo_id"),
        ("hf_r", "reader/set", {}, "reader/set: the token may only read; set HF_TOKEN"),
    ],
)
def test_who_may_not_write_is_told(
    hub: Hub, check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, token: str, repo: str, keys: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setenv("HF_TOKEN", token)
    (problem,) = check(repo, **keys).problems
    assert problem.startswith(said)


def test_the_right_to_write_an_existing_repository_is_asked(
    hub: Hub, check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(make(tmp_path / "built", ["a"]))
    assert check() == Preflight()
    assert check(private=False).notes == ["owner/set is private, whatever publish.private says; change it there"]
    monkeypatch.setenv("HF_TOKEN", "hf_r")
    (problem,) = check().problems
    assert problem.startswith("owner/set: the Hub says 403: the token may not write here")
    assert check(pull_request=True).problems == [], "anybody may propose"


def test_what_was_not_checked_is_said(hub: Hub, check, monkeypatch: pytest.MonkeyPatch) -> None:
    rest = "whose token it is, the right to write, and whether the repository is private"
    hub.faults.append(Fault("whoami", 503))
    assert check().notes == [f"owner/set: not checked (status 503: fault): {rest}"]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert check().notes == [f"owner/set: not checked (offline mode is on; unset HF_HUB_OFFLINE before the push): {rest}"]
    assert check(card={"license": "none"}).problems, "what needs no network is checked"


def test_the_workflow_asks_before_its_first_job_and_in_a_dry_run(
    hub: Hub, make_run, write_rows, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_rows([{"prompt": "\n\nHuman: x\n\nAssistant: ", "answers": []}])
    run = make_run(sources={"sources": [{"name": "s", "path": path}]}, publish={"repo_id": "other/set"})
    with pytest.raises(SystemExit, match="error: other/set: there is no such repository"):
        snakefile.begin(run, None)
    assert not run.root.exists()
    config = run.settings.model_dump(mode="json")
    monkeypatch.setattr(snakefile.sys, "argv", ["snakemake", "-n"])
    with pytest.raises(SystemExit, match="error: other/set: there is no such repository"):
        snakefile.load(config, lambda settings: None)
    hub.requests.clear()
    monkeypatch.setattr(snakefile.sys, "argv", ["snakemake", "--cores", "2"])
    snakefile.load(config, lambda settings: None)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("words", "dry"),
    [
        ("-n", True),
        ("-np", True),
        ("--dry-run", True),
        ("--dryrun", True),
        ("--cores 1", False),
        ("-call", False),
        ("-snake", False),
    ],
)
def test_a_dry_run_is_known_by_its_option(words: str, dry: bool) -> None:
    assert snakefile.is_dry(["snakemake", *words.split()]) is dry
