"""manifest.json of what is published: what our files hold, how they are stored, and what we wrote into the card's header."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from prefdata.errors import PublishError
from prefdata.output.delta import SCRIPT
from prefdata.output.published_configs import OURS as OUR_CONFIGS

PAGE = "explore.html"
MANIFEST, CARD = "manifest.json", "README.md"
MADE_BY = "prefdata"


@dataclass(frozen=True)
class Kind:
    """What a repository holds. `ours`: the only files that publishing removes, whatever a manifest names; `listed`: names that
    some version of ours may have listed."""

    repo_type: str
    ours: re.Pattern[str]
    listed: re.Pattern[str]

    def __call__(self, name: str) -> bool:
        """Whether a file is one of ours."""
        return self.ours.fullmatch(name) is not None

    @property
    def prefix(self) -> str:
        """What stands before owner/name in addresses."""
        return "" if self.repo_type == "model" else f"{self.repo_type}s/"


DATASET = Kind(
    "dataset",
    re.compile(rf"data/({OUR_CONFIGS})/[\w.-]+\.parquet|{re.escape(SCRIPT)}|{re.escape(PAGE)}"),
    re.compile(rf"data/[\w.-]+/[\w.-]+\.parquet|{re.escape(SCRIPT)}|{re.escape(PAGE)}"),
)
_OF_MODELS = re.compile(
    r"(adapter_)?model(-\d+-of-\d+)?\.safetensors|(adapter_)?model\.safetensors\.index\.json|"
    r"(config|generation_config|adapter_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|train)\.json|"
    r"chat_template\.jinja|tokenizer\.model|merges\.txt|metrics\.(jsonl|html|png)"
)
MODEL = Kind("model", _OF_MODELS, _OF_MODELS)


class Stored(BaseModel, frozen=True):
    """What a Git server names a file's bytes by: LFS by their SHA-256, Git itself by the SHA-1 of a blob; hex digits. A server
    tells one of them."""

    sha256: str | None = None
    blob: str | None = None

    def same(self, other: "Stored") -> bool:
        """Whether the hashes that both know are there and equal."""
        pairs = [(self.sha256, other.sha256), (self.blob, other.blob)]
        known = [(a, b) for a, b in pairs if a is not None and b is not None]
        return bool(known) and all(a == b for a, b in known)


def stored_of(path: Path) -> Stored:
    """Both hashes of a local file. Raises OSError."""
    sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(2**20):
            sha256.update(block)
            blob.update(block)
    return Stored(sha256=sha256.hexdigest(), blob=blob.hexdigest())


class Manifest(BaseModel, frozen=True):
    """Ours, as read; `stored` is empty where an older version wrote it."""

    files: dict[str, str] = Field(default_factory=dict)
    stored: dict[str, Stored] = Field(default_factory=dict)
    header: dict[str, Any] = Field(default_factory=dict)


def parse_manifest(text: str | None, where: str, kind: Kind = DATASET) -> Manifest:
    """A manifest.json, which may hold anything; an empty one where there is none. Raises PublishError where it is not ours."""
    if text is None:
        return Manifest()
    try:
        loaded, read = json.loads(text), Manifest.model_validate_json(text, strict=True)
        if "files" not in loaded or not ours(loaded) or not all(map(kind.listed.fullmatch, read.files)):
            raise TypeError("of somebody else")
    except (ValueError, TypeError) as error:  # pydantic's error is a ValueError
        raise PublishError(
            "not a manifest of ours, and it would be overwritten", where, "publish to another place, or remove that file"
        ) from error
    return read


def ours(loaded: Mapping[str, Any]) -> bool:
    """Whether a manifest says that we made it; the first ones said what only ours have."""
    return loaded.get("made_by") == MADE_BY or {"seed", "origins", "references"} <= set(loaded)


def render(facts: Mapping[str, Any], files: Mapping[str, str], stored: Mapping[str, Stored], header: Mapping[str, Any]) -> str:
    """The text of a manifest."""
    listed = {name: stored[name].model_dump() for name in sorted(files)}
    said = {**facts, "made_by": MADE_BY, "files": dict(files), "stored": listed, "header": dict(header)}
    return json.dumps(said, indent=1, sort_keys=True)
