"""Small published sets, and the real clients pointed at the stand-in."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hub import foreign
from hub.foreign import Foreign
from hub.standin import Hub, Server

from prefdata.draws import hex_id
from prefdata.output.card import card_header
from prefdata.output.card.card_merge import BEGIN, END
from prefdata.output.hub.commit import Outcome, Wanted, publish
from prefdata.output.hub.hub import Hub as HubTarget
from prefdata.output.published_files import Built
from prefdata.recipe.settings.output import PublishSettings

REPO, SECRET = "owner/set", "hf_w"
CONFIGS = ("preference", "sets")
OTHERS = b"rows of somebody"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A stand-in and the real clients pointed at it."""
    state = Hub()
    with Server(state) as url:
        point_at(monkeypatch, url, tmp_path / "hub-cache")
        yield state


@pytest.fixture(params=["ours", "another maker's"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub | Foreign]:
    """Each of both stand-ins in turn."""
    if request.param != "ours" and not foreign.is_there():
        pytest.skip("no second stand-in here")
    state = Hub() if request.param == "ours" else Foreign()
    with Server(state) as url:
        point_at(monkeypatch, url, tmp_path / "hub-cache")
        yield state


def point_at(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    """Let both clients ask this server, and nobody else; they read the environment when they are imported."""
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    place = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", place)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", url)
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
    monkeypatch.setattr(datasets.config, "USE_PARQUET_EXPORT", False)
    datasets.disable_progress_bars()


def make(folder: Path, rows: Mapping[str, Sequence[str]] | Sequence[str], shards: int = 1, **header: Any) -> Wanted:
    """A set of one row a text in both configs, of a split or more, in this many files each; a file without rows is not made."""
    by_split = rows if isinstance(rows, Mapping) else {"train": rows}
    shutil.rmtree(folder, ignore_errors=True)
    files: dict[str, Built] = {}
    for config in CONFIGS:
        for split, texts in by_split.items():
            for shard in range(shards):
                if mine := list(texts[shard::shards]):
                    name = f"data/{config}/{split}-{shard:05d}-of-{shards:05d}.parquet"
                    table = pa.table({"text": mine, "config": [config] * len(mine)})
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    pq.write_table(table, folder / name)
                    files[name] = Built(hex_id(name, *mine), len(mine), table.nbytes, (folder / name).stat().st_size)
    listed = [
        {"config_name": c, "data_files": [{"split": s, "path": f"data/{c}/{s}-*.parquet"} for s in by_split]} for c in CONFIGS
    ]
    known = {"pretty_name": "A set", "license": "mit", "language": ["en"], "tags": ["preference"], **header, "configs": listed}
    facts = hex_id(*(f.digest for f in files.values()))
    text = card_header.with_files(f"---\n{yaml.safe_dump(known)}---\n{BEGIN}\n# A set\nfacts {facts}\n{END}\n", files)
    return Wanted(folder, {n: f.digest for n, f in files.items()}, text, {"seed": 0, "origins": [], "references": []})


def target(**keys: Any) -> HubTarget:
    return HubTarget(PublishSettings(**{"repo_id": REPO, "timeout_s": 20.0, **keys}))


def push(wanted: Wanted, attempts: int = 4, **keys: Any) -> Outcome:
    return publish(target(**keys), wanted, attempts, pause_s=0.01)


def commits(hub: Hub, ref: str = "main") -> int:
    """Commits since the repository was made."""
    return len(hub.log(REPO, ref)) - 1


def header(hub: Hub, ref: str = "main") -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(hub.head(REPO, ref).files["README.md"].decode().split("---\n")[1])
    return loaded


def loaded(cache: Path, config: str | None = "sets", revision: str = "main") -> dict[str, list[str]]:
    """The texts of every split as `datasets` gives them."""
    found = datasets.load_dataset(REPO, config, revision=revision, cache_dir=str(cache), token=SECRET)
    return {split: sorted(rows["text"]) for split, rows in found.items()}


def read(revision: str = "main") -> dict[str, dict[str, list[str]]]:
    """The texts of every split of every config that a revision lists, read without a copy on the disk."""
    found = {}
    for config in datasets.get_dataset_config_names(REPO, revision=revision, token=SECRET):
        splits = datasets.load_dataset(REPO, config, revision=revision, streaming=True, token=SECRET)
        found[config] = {split: sorted(row["text"] for row in rows) for split, rows in splits.items()}
    return found


def left_over(hub: Hub | Foreign) -> list[str]:
    """Staging branches that are still there."""
    return [b for b in hub.branches.get(REPO, {}) if b.startswith("prefdata-staging-")]
