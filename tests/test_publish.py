"""Publishing: one commit of what changed, cards that keep what is not ours, sets that `datasets` loads."""

import json
import re
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import yaml
from conftest import nectar, run_stages
from hub.standin import Fault, Hub, Server

from prefdata.draws import hex_id
from prefdata.errors import PublishError
from prefdata.output import card, card_header, commit
from prefdata.output.targets import Busy, Folder, Head
from prefdata.output.targets import Hub as HubTarget
from prefdata.recipe.job import Job
from prefdata.recipe.results import Results
from prefdata.recipe.settings.output import CardSettings
from prefdata.stages import publish
from prefdata.tables import atomic, schema, views

ROWS = [
    nectar(f"S{a}b", [("a", 1), ("b", 2), ("c", 3)], split=s)
    for a, s in zip("abcdefgh", ["train"] * 5 + ["test"] * 3, strict=True)
]
SECRET = "hf_w"


def published(make_run, path: str, **keys: Any) -> Results:
    run = make_run(sources={"sources": [{"name": "s", "path": path, "license": "mit"}]}, prune={"drop_ranks": []}, **keys)
    run_stages(run, "sources", "split", "prune", "rank:source", "noise", "sets", "report", "card")
    publish.run(Job(run, "publish"))
    return run


@pytest.fixture
def set_path(make_run, write_rows) -> Path:
    return published(make_run, write_rows(ROWS), num_shards=2).root / "publish" / "t"


@pytest.mark.parametrize("config", card.CONFIGS)
def test_datasets_loads_every_config(set_path: Path, tmp_path: Path, config: str) -> None:
    import datasets

    loaded = datasets.load_dataset(str(set_path), config, cache_dir=str(tmp_path / "cache"))
    assert set(loaded) == {"train", "test"}
    rows = loaded["train"].to_list() + loaded["test"].to_list()
    assert len({r["prompt_id"] for r in rows}) == 8
    if config == "preference":
        assert all(r["chosen"] == [{"role": "assistant", "content": "a"}] for r in rows)
        assert {r["rejected"][0]["content"] for r in rows} == {"b", "c"}
        assert all(r["prompt"][-1]["role"] == "user" for r in rows)
        assert set(rows[0]) == {
            "prompt",
            "chosen",
            "rejected",
            "tools",
            "chat_template_kwargs",
            "prompt_id",
            "chosen_id",
            "rejected_id",
        }
    elif config == "sets":
        assert all([c["role"] for c in r["candidates"]] == ["chosen", "rejected", "rejected"] for r in rows)
    else:
        assert len(rows) == 24


def test_the_manifest_lists_every_data_file(set_path: Path) -> None:
    listed = json.loads((set_path / "manifest.json").read_text())
    present = {str(p.relative_to(set_path)) for p in set_path.rglob("*.parquet")}
    assert set(listed["files"]) == present
    assert listed["seed"] == 0


def test_the_same_again_writes_nothing_and_a_change_only_what_changed(make_run, write_rows) -> None:
    run = published(make_run, write_rows(ROWS), num_shards=2)
    folder = run.root / "publish" / "t"
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    published(make_run, write_rows(ROWS), num_shards=2, card={"description": "Another one"})
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == before, "card rendering alone is no change"
    changed = [nectar("Sab", [("a", 1), ("b", 2), ("x", 3)], split="train"), *ROWS[1:]]
    published(make_run, write_rows(changed), num_shards=2)
    after = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    touched = {str(p.relative_to(folder)) for p in after if after[p] != before.get(p)}
    assert {"manifest.json", "README.md"} < touched
    assert all("test-" not in t for t in touched), "the test split did not change"


def test_files_that_are_ours_no_more_are_removed_and_others_kept(make_run, write_rows) -> None:
    run = published(make_run, write_rows(ROWS), num_shards=2)
    folder = run.root / "publish" / "t"
    (folder / "mine.txt").write_text("kept")
    published(make_run, write_rows(ROWS), num_shards=1)
    assert sorted(p.name for p in (folder / "data" / "sets").iterdir()) == [
        "test-00000-of-00001.parquet",
        "train-00000-of-00001.parquet",
    ]
    assert (folder / "mine.txt").read_text() == "kept"


def test_a_hostile_manifest_cannot_reach_outside(set_path: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("x")
    target = Folder(set_path)
    hostile = {"files": {"../../../../victim": "1", str(victim): "2", "README.md": "3", "data/sets/../../mine": "4"}}
    (set_path / "manifest.json").write_text(json.dumps(hostile))
    head = target.head()
    assert head.files
    assert all(re.fullmatch(r"data/\w+/[\w.-]+", name) for name in head.files), "only what may be ours"
    (set_path / "manifest.json").write_bytes(b"\xff\xfe")
    with pytest.raises(PublishError, match="not utf-8"):
        target.head()
    (set_path / "manifest.json").write_text('{"files": [1]}')
    with pytest.raises(PublishError, match="not a manifest of ours"):
        target.head()


# ---- cards ----


def test_what_is_outside_the_markers_survives() -> None:
    new = f"---\nlicense: mit\n---\n# T\n{card_header.BEGIN}\nnew\n{card_header.END}\n"
    old = f"---\nlicense: other\npretty_name: Mine\n---\nMy words\n{card_header.BEGIN}\nold\n{card_header.END}\nMy end\n"
    merged = card_header.merge(new, old)
    assert "My words" in merged
    assert "My end" in merged
    assert "new" in merged
    assert "old" not in merged
    assert yaml.safe_load(merged.split("---\n")[1]) == {"license": "mit", "pretty_name": "Mine"}
    assert card_header.merge(merged, merged) == merged
    with pytest.raises(PublishError, match="broken YAML header"):
        card_header.merge(new, old.replace("pretty_name: Mine", "a: ["))


def test_card_settings_have_defaults() -> None:
    assert CardSettings().title


# ---- the Hub ----


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A stand-in and the real client pointed at it."""
    state = Hub()
    with Server(state) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setenv("HF_TOKEN", SECRET)
        yield state


def push(run_settings: Any, built: Path, hashes: dict[str, str], attempts: int = 4) -> str:
    text = f"---\nlicense: mit\n---\n{card_header.BEGIN}\nfacts {sorted(hashes.items())}\n{card_header.END}\n"
    return commit.publish(HubTarget("owner/set", True), built, hashes, text, {}, attempts, pause_s=0.01)


@pytest.fixture
def built(tmp_path: Path) -> Path:
    folder = tmp_path / "built"
    for name in ("a", "b"):
        (folder / "data" / "sets").mkdir(parents=True, exist_ok=True)
        (folder / "data" / "sets" / f"{name}.parquet").write_bytes(name.encode() * 1000)
    return folder


HASHES = {"data/sets/a.parquet": "1", "data/sets/b.parquet": "2"}


def commits(hub: Hub) -> int:
    return len(hub.repos["owner/set"]) - 1


def test_one_commit_then_none_then_only_the_difference(hub: Hub, built: Path) -> None:
    revision = push(None, built, HASHES)
    head = hub.head("owner/set")
    assert (commits(hub), head.sha) == (1, revision)
    assert {"data/sets/a.parquet", "data/sets/b.parquet", "README.md", "manifest.json"} < set(head.files)
    assert push(None, built, HASHES) == revision
    assert commits(hub) == 1
    (built / "data" / "sets" / "a.parquet").write_bytes(b"new")
    hub.requests.clear()
    push(None, built, {"data/sets/a.parquet": "3"})
    assert commits(hub) == 2
    assert "data/sets/b.parquet" not in hub.head("owner/set").files
    assert hub.head("owner/set").files["data/sets/a.parquet"] == b"new"
    assert sum("__lfs" in r for r in hub.requests) == 1, "only what differs travels"


def test_an_existing_cards_own_words_survive(hub: Hub, built: Path) -> None:
    push(None, built, HASHES)
    readme = hub.head("owner/set").files["README.md"].decode()
    hub.push("owner/set", {"README.md": (readme + "\nMy own words\n").encode(), "other/config.parquet": b"x"})
    (built / "data" / "sets" / "a.parquet").write_bytes(b"new")
    push(None, built, {**HASHES, "data/sets/a.parquet": "3"})
    head = hub.head("owner/set").files
    assert b"My own words" in head["README.md"]
    assert head["other/config.parquet"] == b"x"


@pytest.mark.parametrize("status", [409, 412, 429, 500, 503])
@pytest.mark.parametrize("after", [False, True])
def test_faults_at_the_commit_never_make_a_second_one(hub: Hub, built: Path, status: int, after: bool) -> None:
    """`after`: the commit took effect and its answer was lost."""
    hub.faults.append(Fault(r"POST .*/commit/", status, after=after))
    push(None, built, HASHES)
    assert commits(hub) == 1


@pytest.mark.parametrize("match", [r"PUT /__lfs", r"POST .*/preupload/", r"objects/batch", r"GET /api/datasets"])
def test_faults_on_the_way_are_tried_again(hub: Hub, built: Path, match: str) -> None:
    hub.faults.append(Fault(match, 503, times=2))
    push(None, built, HASHES)
    assert commits(hub) == 1


def test_a_commit_that_came_between_is_the_new_parent(hub: Hub, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push(None, built, HASHES)
    (built / "data" / "sets" / "a.parquet").write_bytes(b"new")
    real, raced = HubTarget.commit, []

    def racing(self: HubTarget, *arguments: Any) -> str:
        if not raced:
            raced.append(hub.push("owner/set", {"theirs.txt": b"x"}))
        return real(self, *arguments)

    monkeypatch.setattr(HubTarget, "commit", racing)
    push(None, built, {**HASHES, "data/sets/a.parquet": "3"})
    assert hub.head("owner/set").parent == raced[0].sha
    assert hub.head("owner/set").files["theirs.txt"] == b"x"


def test_tries_are_bounded(hub: Hub, built: Path) -> None:
    hub.faults.append(Fault(r"POST .*/commit/", 412, times=99))
    with pytest.raises(PublishError, match="gave up after 3 tries"):
        push(None, built, HASHES, attempts=3)
    assert sum("/commit/" in r for r in hub.requests) == 3


@pytest.mark.parametrize(
    ("token", "said"), [("hf_nobody", "401: no valid token"), ("hf_r", "403: the token may not write here")]
)
def test_tokens_that_may_not_are_refused_before_any_upload(hub: Hub, built: Path, monkeypatch, token: str, said: str) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(PublishError, match=said) as error:
        push(None, built, HASHES)
    assert not any("lfs" in r or "commit" in r for r in hub.requests)
    assert token not in str(error.value)


def test_a_name_that_is_none_is_refused(hub: Hub, built: Path) -> None:
    with pytest.raises(PublishError, match=r"check publish\.repo_id"):
        commit.publish(HubTarget("not a name", True), built, HASHES, "", {}, 2, 0.01)


def test_an_unknown_licence_is_not_pushed(make_run, write_rows) -> None:
    path = write_rows(ROWS)
    run = make_run(
        sources={"sources": [{"name": "s", "path": path}]}, publish={"repo_id": "owner/set"}, prune={"drop_ranks": []}
    )
    run_stages(run, "sources", "split", "prune", "rank:source", "noise", "sets", "report", "card")
    with pytest.raises(PublishError, match=r"no licence is stated for s@local \(8 prompts\)"):
        publish.run(Job(run, "publish"))


def test_the_whole_stage_pushes_what_the_folder_holds(hub: Hub, make_run, write_rows) -> None:
    run = published(make_run, write_rows(ROWS), publish={"repo_id": "owner/set"})
    folder = run.root / "publish" / "t"
    remote = hub.head("owner/set").files
    local = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert {k: v for k, v in remote.items() if k != ".gitattributes"} == local
    everything = b"".join(p.read_bytes() for p in run.root.rglob("*") if p.is_file())
    assert SECRET.encode() not in everything


def test_busy_is_not_shown_as_a_traceback() -> None:
    class Never:
        def head(self) -> Head:
            raise Busy("status 503")

        def commit(self, *arguments: Any) -> str:
            raise AssertionError

    with pytest.raises(PublishError, match=r"gave up after 2 tries \(status 503\)"):
        commit.publish(Never(), Path(), {}, "", {}, 2, 0.0)


def test_a_kill_before_the_manifest_leaves_no_rows_twice(make_run, write_rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the data files of another number of shards were put: the same command ends in the new files alone."""
    path = write_rows(ROWS)
    run = published(make_run, path, num_shards=1)
    folder = run.root / "publish" / "t"

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    real = Folder.commit

    def half(self: Folder, parent: Head, puts: dict[str, Path], deletes: list[str], message: str) -> str:
        return real(self, parent, {k: v for k, v in puts.items() if k.startswith("data/")}, [], message) or killed()

    monkeypatch.setattr(Folder, "commit", half)
    published(make_run, path, num_shards=2)
    monkeypatch.setattr(Folder, "commit", real)
    assert len(list((folder / "data" / "sets").iterdir())) > 2
    published(make_run, path, num_shards=2)
    assert all("-of-00002" in p.name for p in (folder / "data" / "sets").iterdir())


def test_a_card_without_our_markers_and_other_configs_survive() -> None:
    new = f"---\nlicense: mit\nconfigs:\n- config_name: sets\n---\n# T\n{card_header.BEGIN}\nnew\n{card_header.END}\n"
    merged = card_header.merge(new, "---\nconfigs:\n- config_name: theirs\n---\n# Their own words\n")
    assert "# Their own words" in merged
    assert f"{card_header.BEGIN}\nnew\n{card_header.END}" in merged
    assert [c["config_name"] for c in yaml.safe_load(merged.split("---\n")[1])["configs"]] == ["theirs", "sets"]
    assert card_header.merge(new, merged) == merged
    odd = f"---\ntitle: '{card_header.BEGIN} {card_header.END}'\n---\nwords {card_header.END} more"
    assert "words" in card_header.merge(new, odd)


def test_a_file_removed_by_hand_on_the_hub_is_put_again(hub: Hub, built: Path) -> None:
    push(None, built, HASHES)
    files_now = dict(hub.head("owner/set").files)
    del files_now["data/sets/a.parquet"]
    hub._commit("owner/set", files_now)
    push(None, built, HASHES)
    assert "data/sets/a.parquet" in hub.head("owner/set").files


def test_a_half_made_folder_is_never_taken_for_what_it_was(
    tmp_path: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after a file was replaced, then asked for the old set again: the file is put again."""
    target = Folder(tmp_path / "target")
    commit.publish(target, built, HASHES, f"{card_header.BEGIN}{card_header.END}", {}, 1)
    old = (built / "data" / "sets" / "a.parquet").read_bytes()
    (built / "data" / "sets" / "a.parquet").write_bytes(b"other")
    monkeypatch.setattr(card_header, "merge", lambda text, existing: text)
    real = atomic.atomic_write

    def killed(path: Path, write: Any) -> None:
        if path.name == "README.md":
            raise KeyboardInterrupt
        real(path, write)

    monkeypatch.setattr(atomic, "atomic_write", killed)
    with pytest.raises(KeyboardInterrupt):
        commit.publish(target, built, {**HASHES, "data/sets/a.parquet": "9"}, "", {}, 1)
    monkeypatch.setattr(atomic, "atomic_write", real)
    (built / "data" / "sets" / "a.parquet").write_bytes(old)
    commit.publish(target, built, HASHES, "", {}, 1)
    assert (tmp_path / "target" / "data" / "sets" / "a.parquet").read_bytes() == old


@pytest.mark.parametrize("origins", [["source"], ["source", "generated"], ["noise"], ["generated"]])
def test_pairs_of_a_frame_are_those_of_its_rows(origins: list[str]) -> None:
    """What is published at once is what training draws prompt by prompt."""
    kinds = [("chosen", "source"), ("other", "source"), ("rejected", "source"), ("rejected", "noise"), ("rejected", "source")]
    rows = []
    for p in range(20):
        candidates = [
            {"candidate_id": hex_id(p, i), "role": role, "response": f"t{i}", "rank": 1, "origin": origin, "producer": "m"}
            | {"finish": "stop", "copies": 1, "logps": []}
            for i, (role, origin) in enumerate(kinds[: 2 + p % 4])
        ]
        prompt = [{"role": "user", "content": "x"}]
        rows.append({"prompt_id": hex_id("p", p), "split": "train", "prompt": prompt, "candidates": candidates})
    frame = schema.frame("sets", rows)
    made = dict(views.fixed_pairs(frame, origins).select("prompt_id", "rejected_id").iter_rows())
    expected = {}
    for row in frame.to_dicts():
        if pair := views.fixed_pair(row["candidates"], origins):
            expected[row["prompt_id"]] = row["candidates"][pair[1]]["candidate_id"]
    assert made == expected
