"""Publishing: one commit of what changed, cards that keep what is not ours, sets that `datasets` loads."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from conftest import nectar, run_stages
from hub.sets import make

from prefdata.draws import hex_id
from prefdata.errors import PublishError
from prefdata.output.card import card_merge
from prefdata.output.hub import commit
from prefdata.output.hub.targets import Busy, Change, Folder, Head
from prefdata.recipe.job import Job
from prefdata.recipe.results import Results
from prefdata.recipe.settings.output import CardSettings
from prefdata.stages import publish
from prefdata.tables import atomic, schema, views

ROWS = [
    nectar(f"S{a}b", [("a", 1), ("b", 2), ("c", 3)], split=s)
    for a, s in zip("abcdefgh", ["train"] * 5 + ["test"] * 3, strict=True)
]


def published(make_run, path: str, license: str = "mit", **keys: Any) -> Results:
    run = make_run(sources={"sources": [{"name": "s", "path": path, "license": license}]}, prune={"drop_ranks": []}, **keys)
    run_stages(run, "sources", "split", "prune", "rank:source", "noise", "sets", "report", "card")
    publish.run(Job(run, "publish"))
    return run


@pytest.fixture
def set_path(make_run, write_rows) -> Path:
    return published(make_run, write_rows(ROWS), num_shards=2).root / "publish" / "t"


@pytest.mark.parametrize("config", ["preference", "sets", "candidates"])
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
            "prompt_id",
            "chosen_id",
            "rejected_id",
            "source",
            "chosen_model",
            "rejected_model",
            "score_chosen",
            "score_rejected",
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


def test_the_same_again_writes_nothing_and_a_change_only_what_changed(
    make_run, write_rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = published(make_run, write_rows(ROWS), num_shards=2)
    folder = run.root / "publish" / "t"
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    monkeypatch.setattr("prefdata.output.card.card.__version__", "9.9")
    published(make_run, write_rows(ROWS), num_shards=2)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == before, "another version alone is no change"
    changed = [nectar("Sab", [("a", 1), ("b", 2), ("x", 3)], split="train"), *ROWS[1:]]
    published(make_run, write_rows(changed), num_shards=2)
    after = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    touched = {str(p.relative_to(folder)) for p in after if after[p] != before.get(p)}
    assert {"manifest.json", "README.md"} < touched
    assert all("test-" not in t for t in touched), "the test split did not change"


def test_what_the_recipe_corrects_reaches_the_card_though_the_data_is_unchanged(make_run, write_rows) -> None:
    path = write_rows(ROWS)
    run = published(make_run, path, card={"title": "One", "tags": ["old"]})
    folder = run.root / "publish" / "t"
    data = {p: p.stat().st_mtime_ns for p in folder.rglob("*.parquet")}
    card_ = {"title": "Two", "description": "Said anew.", "license": "cc-by-4.0", "language": "de", "tags": ["new"]}
    published(make_run, path, card=card_)
    text = (folder / "README.md").read_text()
    header = yaml.safe_load(text.split("---\n")[1])
    assert (header["pretty_name"], header["license"], header["language"]) == ("Two", "cc-by-4.0", ["de"])
    assert header["tags"] == ["preference", "dpo", "new"]
    assert "# Two\n\nSaid anew." in text
    assert "One" not in text
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.parquet")} == data


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
    manifest = json.loads((set_path / "manifest.json").read_text())
    (set_path / "manifest.json").write_text(
        json.dumps({**manifest, "files": {**manifest["files"], "data/theirs/y.parquet": "1"}})
    )
    assert set(target.head().files) == set(manifest["files"])
    (set_path / "manifest.json").write_text(json.dumps({**manifest, **hostile}))
    with pytest.raises(PublishError, match="not a manifest of ours"):
        target.head()
    (set_path / "manifest.json").write_bytes(b"\xff\xfe")
    with pytest.raises(PublishError, match="not utf-8"):
        target.head()
    (set_path / "manifest.json").write_text('{"files": [1]}')
    with pytest.raises(PublishError, match="not a manifest of ours"):
        target.head()


# ---- cards ----


def test_what_is_outside_the_markers_survives() -> None:
    new = f"---\nlicense: mit\n---\n# T\n{card_merge.BEGIN}\nnew\n{card_merge.END}\n"
    old = f"---\nlicense: mit\nlanguage: de\npretty_name: Mine\n---\nMy words\n{card_merge.BEGIN}\nold\n{card_merge.END}\nMy end\n"
    merged = card_merge.merge(new, old)
    assert "My words" in merged
    assert "My end" in merged
    assert "new" in merged
    assert "old" not in merged
    assert yaml.safe_load(merged.split("---\n")[1]) == {"license": "mit", "language": "de", "pretty_name": "Mine"}
    assert card_merge.merge(merged, merged) == merged
    with pytest.raises(PublishError, match="broken YAML header"):
        card_merge.merge(new, old.replace("pretty_name: Mine", "a: ["))


def test_card_settings_have_defaults() -> None:
    assert CardSettings().title


# ---- folders ----


def test_busy_is_not_shown_as_a_traceback() -> None:
    class Never(Folder):
        def head(self) -> Head:
            raise Busy("status 503")

    with pytest.raises(PublishError, match=r"gave up after 2 tries \(status 503\)"):
        commit.publish(Never(Path()), commit.Wanted(Path(), {}, "", {}), 2, 0.0)


def test_a_kill_before_the_manifest_leaves_no_rows_twice(make_run, write_rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the data files of another number of shards were put: the same command ends in the new files alone."""
    path = write_rows(ROWS)
    run = published(make_run, path, num_shards=1)
    folder = run.root / "publish" / "t"

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    real = Folder.commit

    def half(self: Folder, parent: Head, change: Change) -> str:
        data = {k: v for k, v in change.puts.items() if k.startswith("data/")}
        return real(self, parent, Change(data, [], change.stored, change.message)) or killed()

    monkeypatch.setattr(Folder, "commit", half)
    published(make_run, path, num_shards=2)
    monkeypatch.setattr(Folder, "commit", real)
    assert len(list((folder / "data" / "sets").iterdir())) > 2
    published(make_run, path, num_shards=2)
    assert all("-of-00002" in p.name for p in (folder / "data" / "sets").iterdir())


def test_a_card_without_our_markers_and_other_configs_survive() -> None:
    new = f"---\nlicense: mit\nconfigs:\n- config_name: sets\n---\n# T\n{card_merge.BEGIN}\nnew\n{card_merge.END}\n"
    merged = card_merge.merge(new, "---\nconfigs:\n- config_name: theirs\n---\n# Their own words\n")
    assert "# Their own words" in merged
    assert f"{card_merge.BEGIN}\nnew\n{card_merge.END}" in merged
    assert [c["config_name"] for c in yaml.safe_load(merged.split("---\n")[1])["configs"]] == ["theirs", "sets"]
    assert card_merge.merge(new, merged) == merged
    odd = f"---\ntitle: '{card_merge.BEGIN} {card_merge.END}'\n---\nwords {card_merge.END} more"
    assert "words" in card_merge.merge(new, odd)


def test_a_half_made_folder_is_never_taken_for_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after a file was replaced, then asked for the old set again: the file is put again."""
    built, target = tmp_path / "built", Folder(tmp_path / "target")
    commit.publish(target, make(built, ["a"]), 1)
    real = atomic.atomic_write

    def killed(path: Path, write: Any) -> None:
        if path.name == "README.md":
            raise KeyboardInterrupt
        real(path, write)

    monkeypatch.setattr(atomic, "atomic_write", killed)
    with pytest.raises(KeyboardInterrupt):
        commit.publish(target, make(built, ["b"]), 1)
    monkeypatch.setattr(atomic, "atomic_write", real)
    assert len(commit.publish(target, make(built, ["a"]), 1).put) == 2
    assert pl.read_parquet(tmp_path / "target/data/sets/*.parquet")["text"].to_list() == ["a"]


def test_a_file_that_was_tampered_with_is_put_again(tmp_path: Path) -> None:
    """Its footer is whole; its rows are others."""
    built, target = tmp_path / "built", Folder(tmp_path / "target")
    wanted = make(built, ["a"])
    commit.publish(target, wanted, 1)
    (name,) = [n for n in wanted.hashes if "sets" in n]
    pl.DataFrame({"text": ["x"], "config": ["sets"]}).write_parquet(target.path / name)
    assert commit.publish(target, make(built, ["a"]), 1).put == [name]
    assert commit.publish(target, make(built, ["a"]), 1).said() == "nothing changed"


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
