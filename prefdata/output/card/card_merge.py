"""How a card is merged into one that is on the target: what is somebody else's is kept, or refused by name.

The computed part of a card lies between two markers; what stands outside them on the target is kept. Of the header, configs
and keys that we did not write are kept, lists are joined, and two licences are an error.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from fsspec.utils import glob_translate

from prefdata.errors import PublishError, snippet
from prefdata.output.hub.manifest import CARD
from prefdata.output.published_configs import OURS

BEGIN, END = "<!-- prefdata:begin -->", "<!-- prefdata:end -->"
OF_FILES = ("configs", "dataset_info")
"""Keys that say what files a set has; each of our entries replaces the target's of that name."""
DATA = {".parquet", ".arrow", ".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".zip", ".gz", ".zst", ".tar"}
NO_DATA = {"dataset_infos.json", "dataset_dict.json", "state.json"}
Facts = dict[str, Any]


def merge(card: str, existing: str | None, written: Mapping[str, Any] | None = None, others: Sequence[str] = ()) -> str:
    """The card for a target that may have one: its own text, header keys and configs survive.

    `written`: the header as we last wrote it there, so that what we changed since is no conflict; `others`: the target's
    files that are not ours. Our part goes between the markers; where there are none, after the text. Raises PublishError
    where two licences are stated or one of the two could not be loaded beside the other.
    """
    (ours, body), (theirs, text) = parts(card), parts(existing or "")
    _require_theirs_readable(theirs, ours, others)
    if existing is None:
        return card
    block = body[body.index(BEGIN) : body.index(END) + len(END)]
    start = text.find(BEGIN)
    stop = text.find(END, start)
    kept = f"{text[:start]}{block}{text[stop + len(END) :]}" if 0 <= start < stop else f"{text.rstrip()}\n\n{block}\n"
    if any(c.get("default") or c["config_name"] == "default" for c in _foreign(theirs, "configs")):
        ours["configs"] = [{k: v for k, v in c.items() if k != "default"} for c in named(ours, "configs")]
    keys = _keys(ours, theirs, written or {})
    for key in OF_FILES:
        # a config of ours that has no files any more is not theirs to keep
        entries = {c["config_name"]: c for c in [*_foreign(theirs, key), *named(ours, key)]}
        keys |= {key: list(entries.values())} if entries else {}
    return f"---\n{yaml.safe_dump(keys, sort_keys=False, allow_unicode=False)}---\n{kept.lstrip()}"


def _keys(ours: Facts, theirs: Facts, written: Mapping[str, Any]) -> Facts:
    """Header keys: theirs; ours, where they are ours to say; no more what we wrote once and say no longer."""
    gone = {k for k, v in written.items() if k not in ours and theirs.get(k) == v}
    keys = {k: v for k, v in theirs.items() if k not in gone and k not in OF_FILES}
    for key, value in ours.items():
        there, last = theirs.get(key), written.get(key)
        if key in OF_FILES:
            continue
        if key == "license":
            keys[key] = _licence(value, there, last)
        elif isinstance(value, list):
            kept = [x for x in _listed(there) if x not in _listed(last) or x in value]
            keys[key] = [*kept, *(x for x in value if x not in kept)]
        elif there is None or there == last:
            keys[key] = value
    return keys


def _licence(ours: Any, theirs: Any, written: Any) -> Any:
    if not theirs or theirs in (ours, [ours]) or (written is not None and theirs in (written, [written])):
        return ours
    raise PublishError(
        f"the target's card says license {snippet(theirs)}, this recipe {snippet(ours)}",
        f"{CARD}:license",
        "set card.license to the target's, or change it there",
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def changed(new: str, existing: str | None) -> bool:
    """Whether a merged card says something else than the one on the target: the header, or the facts. Bytes in memory and on
    the disk are no facts: another version of the writer makes others of the same rows."""
    return existing is None or facts_of(new) != facts_of(existing) or _said(new) != _said(existing)


def _said(card: str) -> Facts:
    header, _ = parts(card)
    sizes = ("download_size", "dataset_size")
    infos = [{k: v for k, v in info.items() if k not in sizes} for info in named(header, "dataset_info")]
    for info in infos:
        splits = [s for s in _listed(info.get("splits")) if isinstance(s, Mapping)]
        info["splits"] = [{k: v for k, v in s.items() if k != "num_bytes"} for s in splits]
    return {**header, "dataset_info": infos}


def facts_of(card: str) -> str | None:
    """The computed part of a card, without the version of the program that made it."""
    found = re.search(f"{re.escape(BEGIN)}(.*){re.escape(END)}", card, re.S)
    return re.sub(r"\nMade by prefdata .*", "", found[1]) if found else None


def parts(card: str) -> tuple[Facts, str]:
    """Header keys and body. As the Hub reads it, blank lines may precede the header. Raises PublishError where it is none."""
    match = re.match(r"\ufeff?\s*---[ \t]*\r?\n(.*?)(?<=[\r\n])---[ \t]*(?:\r?\n|$)", card, re.S)
    return (_yaml(match[1]), card[match.end() :]) if match else ({}, card)


def named(header: Facts, key: str) -> list[Facts]:
    """The entries of a list of configs; a lone entry, as the Hub writes for sets of one config, is one too, and one without a
    name is called default."""
    listed = [c for c in _listed(header.get(key)) if isinstance(c, dict)]
    return [c if "config_name" in c else {"config_name": "default", **c} for c in listed]


def is_ours(config: Facts) -> bool:
    """Whether a config has a name that only we publish."""
    return re.fullmatch(OURS, str(config["config_name"])) is not None


def _foreign(header: Facts, key: str) -> list[Facts]:
    """The configs of a target that are not ours."""
    return [c for c in named(header, key) if not is_ours(c)]


def _require_theirs_readable(theirs: Facts, ours: Facts, others: Sequence[str]) -> None:
    """Raise PublishError where the target's own data or ours would be read as something else, or no more."""
    configs = named(theirs, "configs")
    foreign = [c for c in configs if not is_ours(c)]
    _require_parquet_first(foreign)
    for config in (c for c in configs if is_ours(c)):
        if outside := [p for p in _paths(config.get("data_files")) if not p.startswith(f"data/{config['config_name']}/")]:
            raise PublishError(
                f"the target has a config {config['config_name']} of its own, which reads {snippet(outside[0])}: ours has "
                "the same name",
                CARD,
                "rename it there, or publish to another place",
            )
    made = [f"data/{c['config_name']}/train-00000-of-00001.parquet" for c in named(ours, "configs")]
    for config in foreign:
        patterns = [*_paths(config.get("data_files")), *([f"{config['data_dir']}/**"] if config.get("data_dir") else [])]
        if wide := [p for p in patterns if any(re.match(glob_translate(p.removeprefix("./")), name) for name in made)]:
            raise PublishError(
                f"the target's config {config['config_name']} reads {snippet(wide[0])}, which takes our files in too",
                CARD,
                "name its files more closely there, or publish to another place",
            )
    data = [p for p in others if PurePosixPath(p).suffix.lower() in DATA and PurePosixPath(p).name not in NO_DATA]
    if data and not foreign and not any(is_ours(c) for c in configs):
        raise PublishError(
            f"the target has data without a config, {snippet(data[0])} for one: beside ours `datasets` would not find it",
            CARD,
            "list it under configs in the header there, or publish to another place",
        )


def _require_parquet_first(foreign: Sequence[Facts]) -> None:
    """Raise PublishError where `datasets` would read ours as something else: it reads all configs of a repository in the format
    of the first, which is the target's own."""
    for config in foreign[:1]:
        paths = list(_paths(config.get("data_files")))
        formats = {Path(p).suffix.lower() for p in paths if re.fullmatch(r"\.[A-Za-z]\w*", Path(p).suffix)}
        if formats and ".parquet" not in formats:
            raise PublishError(
                f"the target's config {config['config_name']} reads {paths[0]}, and `datasets` reads every config of a "
                "repository in the format of the first: ours, which are Parquet, would not load",
                CARD,
                "write those files as Parquet there, or publish to another place",
            )


def _paths(value: Any) -> Iterator[str]:
    """The patterns of a config's data_files: a text, a list, or a list of {split, path}."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _paths(value.get("path"))
    elif isinstance(value, list):
        for one in value:
            yield from _paths(one)


def _yaml(text: str) -> Facts:
    try:
        loaded = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise PublishError("the card on the target has a broken YAML header", CARD, "mend it there") from error
    if not isinstance(loaded, dict):
        raise PublishError("the YAML header of the card on the target has no keys", CARD, "mend it there")
    return loaded
