"""A card merged into one that is on the target: what is somebody else's survives, is joined, or is refused by name."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from prefdata.errors import PublishError
from prefdata.output.card.card_merge import BEGIN, END, changed, merge, parts

CONFIG = {"config_name": "sets", "default": True, "data_files": [{"split": "train", "path": "data/sets/train-*.parquet"}]}
OURS: dict[str, Any] = {
    "pretty_name": "Ours",
    "license": "mit",
    "language": ["en"],
    "tags": ["preference"],
    "configs": [CONFIG],
}


def card(known: dict[str, Any], body: str = "") -> str:
    return f"---\n{yaml.safe_dump(known, sort_keys=False)}---\n{body}"


def ours(**keys: Any) -> str:
    return card({**OURS, **keys}, f"{BEGIN}\n# Ours\nfacts\n{END}\n")


def merged(known: dict[str, Any], written: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    """The header."""
    return parts(merge(ours(**keys), card(known), written))[0]


def test_lists_are_joined_and_the_owners_keys_survive() -> None:
    found = merged({"license": "mit", "language": "de", "tags": ["theirs", "preference"], "pretty_name": "Mine", "arxiv": 1})
    assert found["language"] == ["de", "en"]
    assert found["tags"] == ["theirs", "preference"]
    assert (found["pretty_name"], found["arxiv"], found["license"]) == ("Mine", 1, "mit")


def test_what_the_recipe_corrects_reaches_the_target() -> None:
    """`written`: as we last wrote it; what the owner added since stays."""
    there = {**OURS, "tags": ["preference", "old", "theirs"], "language": ["en", "fr"]}
    written = {**OURS, "tags": ["preference", "old"]}
    found = merged(there, written, pretty_name="New", license="cc-by-4.0", language=["de"], tags=["preference", "new"])
    assert found["tags"] == ["preference", "theirs", "new"]
    assert found["language"] == ["fr", "de"]
    assert (found["pretty_name"], found["license"]) == ("New", "cc-by-4.0")


def test_what_the_owner_corrected_stays_and_what_we_say_no_more_goes() -> None:
    there = {**OURS, "pretty_name": "Theirs", "license_name": "x", "source_datasets": ["kept"]}
    found = merged(there, {**OURS, "license_name": "x", "source_datasets": ["other"]})
    assert (found["pretty_name"], found["source_datasets"]) == ("Theirs", ["kept"])
    assert "license_name" not in found


@pytest.mark.parametrize(
    ("there", "written", "mine", "fine"),
    [
        ("mit", None, "mit", True),
        (["mit"], None, "mit", True),
        (None, None, "mit", True),
        ("mit", "mit", "gpl", True),
        ("gpl", None, "mit", False),
        ("gpl", "mit", "mit", False),
        (["mit", "gpl"], "mit", "mit", False),
    ],
)
def test_a_licence_is_ours_to_change_and_never_to_overwrite(there: Any, written: Any, mine: str, fine: bool) -> None:
    known = {} if there is None else {"license": there}
    last = {} if written is None else {"license": written}
    if fine:
        assert merged(known, last, license=mine)["license"] == mine
    else:
        with pytest.raises(
            PublishError, match=rf"^README.md:license: the target's card says license .*gpl.*, this recipe '{mine}'"
        ):
            merged(known, last, license=mine)


@pytest.mark.parametrize("before", ["", "\n", "\n  \n", "\ufeff", "\r\n"])
@pytest.mark.parametrize("line", ["\n", "\r\n"])
def test_a_header_with_a_blank_line_before_it_is_still_a_header(before: str, line: str) -> None:
    there = before + card({"license": "mit", "theirs": 1}, "My words\n").replace("\n", line)
    made = merge(ours(), there)
    assert parts(made)[0]["theirs"] == 1
    assert made.count("theirs") == 1
    assert "My words" in made


def test_a_line_of_dashes_in_the_text_is_no_header() -> None:
    header, body = parts("Words\n\n---\nlicense: mit\n---\n")
    assert (header, body) == ({}, "Words\n\n---\nlicense: mit\n---\n")
    assert parts(card({"a": "x ---\ny"}))[0] == {"a": "x ---\ny"}


def test_a_default_of_the_owners_stays_the_only_one() -> None:
    theirs = {"config_name": "mine", "default": True, "data_files": "mine.parquet"}
    found = merged({"configs": [theirs]})
    assert [(c["config_name"], c.get("default")) for c in found["configs"]] == [("mine", True), ("sets", None)]


def test_what_datasets_knew_of_our_configs_is_replaced_and_of_theirs_kept() -> None:
    """`dataset_info` without a name is that of the config default."""
    info = {"features": [{"name": "x", "dtype": "int64"}], "splits": []}
    new = [{"config_name": "sets", "splits": [{"name": "train", "num_examples": 2}]}]
    found = merged({"dataset_info": info, "configs": [{"config_name": "default", "data_files": "x.parquet"}]}, dataset_info=new)
    assert found["dataset_info"] == [{"config_name": "default", **info}, *new]
    stale = {"dataset_info": [{"config_name": "sets", **info}]}
    assert merged(stale, dataset_info=new)["dataset_info"] == new
    assert "dataset_info" not in merged(stale), "ours has none"


@pytest.mark.parametrize(
    ("configs", "others", "says"),
    [
        (
            [{"config_name": "sets", "data_files": "mine/*.parquet"}],
            [],
            "has a config sets of its own, which reads 'mine/*.parquet'",
        ),
        (
            [{"config_name": "x", "data_files": "data/**"}],
            [],
            "the target's config x reads 'data/**', which takes our files in too",
        ),
        (
            [{"config_name": "x", "data_files": {"split": "train", "path": ["./data/*/*.parquet"]}}],
            [],
            "takes our files in too",
        ),
        ([{"config_name": "x", "data_dir": "data"}], [], "the target's config x reads 'data/**'"),
        ([{"config_name": "x", "data_files": "a.csv"}], [], "config x reads a.csv, and `datasets` reads every config"),
        ([], ["mine.csv"], "data without a config, 'mine.csv' for one"),
        ([], ["data/train-0.parquet"], "data without a config"),
    ],
)
def test_what_would_hide_or_mix_data_is_refused(configs: list[Any], others: list[str], says: str) -> None:
    there = card({"configs": configs} if configs else {})
    for existing in [there, *([None] if not configs else [])]:
        with pytest.raises(PublishError) as error:
            merge(ours(), existing, {}, others)
        assert says in str(error.value)
        assert "publish to another place" in str(error.value)


@pytest.mark.parametrize("name", ["notes.md", "LICENSE.txt", "dataset_infos.json", "pictures/a.png", "script.py"])
def test_files_that_are_no_data_are_no_hindrance(name: str) -> None:
    assert merge(ours(), card({}), {}, [name])
    assert merge(ours(), card({"configs": [CONFIG]}), {}, ["theirs.csv"]), "beside configs of ours it was not found before"


@pytest.mark.parametrize("header", ["- a\n- b\n", "a: [\n", "text\n"])
def test_a_header_that_is_none_is_refused(header: str) -> None:
    with pytest.raises(PublishError, match="YAML header"):
        merge(ours(), f"---\n{header}---\n")


def test_sizes_alone_are_no_change() -> None:
    def with_info(**sizes: int) -> str:
        splits = [{"name": "train", "num_examples": sizes.pop("rows", 2), "num_bytes": sizes.pop("bytes", 1)}]
        return ours(dataset_info=[{"config_name": "sets", "splits": splits, **sizes}])

    there = merge(with_info(download_size=1, dataset_size=2), card({}))
    for same in (with_info(download_size=9, dataset_size=9, bytes=9), with_info()):
        assert not changed(merge(same, there), there)
    for other in (with_info(rows=3), ours(tags=["x"]), ours().replace("facts", "other facts")):
        assert changed(merge(other, there), there)
    assert changed(there, None)


VALUES = st.one_of(st.none(), st.text(max_size=5), st.integers(), st.lists(st.text(max_size=3), max_size=3))
HEADERS = st.dictionaries(st.sampled_from(["language", "tags", "pretty_name", "x", "size_categories"]), VALUES)


@given(HEADERS, HEADERS, HEADERS, st.text(max_size=30))
def test_merging_twice_is_merging_once(
    mine: dict[str, Any], theirs: dict[str, Any], written: dict[str, Any], body: str
) -> None:
    """So that a commit whose answer was lost is recognised."""
    new = ours(**mine)
    once = merge(new, card(theirs, body), written)
    assert merge(new, once, parts(new)[0]) == once
    assert not changed(merge(new, once, parts(new)[0]), once)
    kept = parts(once)[0]
    assert all(kept[k] == v for k, v in theirs.items() if k not in {**OURS, **mine, **written})
    lists = {k: v for k, v in parts(new)[0].items() if isinstance(v, list) and k != "configs"}
    assert all(x in kept[k] for k, v in lists.items() for x in v)
