"""The header of a data set card, and how a card is merged into one that is on the target.

The computed part of a card lies between two markers; what stands outside them on the target is kept.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from prefdata.draws import hex_id
from prefdata.errors import PublishError
from prefdata.output.published_files import CONFIGS, OF_LABELS, ONLINE, OURS, Built, names
from prefdata.recipe.settings.whole import Settings

BEGIN, END = "<!-- prefdata:begin -->", "<!-- prefdata:end -->"
Facts = dict[str, Any]


def header(settings: Settings, splits: list[str], shared: str, of_labels: Sequence[str] = ()) -> str:
    """The YAML header that the Hub and `datasets` read. `shared`: the licence where the settings name none; `of_labels`: the
    splits of labelled answers, whose prompts need no pair."""
    known = {
        "license": settings.card.license or shared,
        "language": [settings.card.language],
        "tags": ["preference", "dpo", *settings.card.tags],
        "configs": [
            {
                "config_name": config,
                "data_files": [
                    {"split": s, "path": f"data/{config}/{s}-*.parquet"}
                    for s in (of_labels if config in OF_LABELS else ["train"] if config.startswith(ONLINE) else splits)
                ],
                **({"default": True} if config == next(iter(CONFIGS)) else {}),
            }
            for config in names(settings)
        ],
    }
    return yaml.safe_dump(known, sort_keys=False, allow_unicode=False)


def merge(card: str, existing: str | None) -> str:
    """The card for a target that may have one: its own text, header keys and configs survive.

    Our part goes between the markers; where there are none, after the text. Raises PublishError where ours could not be loaded
    beside theirs.
    """
    if existing is None:
        return card
    (ours, body), (theirs, text) = _parts(card), _parts(existing)
    block = body[body.index(BEGIN) : body.index(END) + len(END)]
    start = text.find(BEGIN)
    stop = text.find(END, start)
    kept = f"{text[:start]}{block}{text[stop + len(END) :]}" if 0 <= start < stop else f"{text.rstrip()}\n\n{block}\n"
    _require_parquet_first(theirs)
    if any(c.get("default") or c["config_name"] == "default" for c in _foreign(theirs, "configs")):
        ours["configs"] = [{k: v for k, v in c.items() if k != "default"} for c in _named(ours, "configs")]
    keys = {**theirs, **ours}
    for key in ("configs", "dataset_info"):
        # a config of ours that has no files any more is not theirs to keep
        named = {c["config_name"]: c for c in [*_foreign(theirs, key), *_named(ours, key)]}
        keys |= {key: list(named.values())} if named else {}
    return f"---\n{yaml.safe_dump(keys, sort_keys=False, allow_unicode=False)}---\n{kept.lstrip()}"


def facts_of(card: str) -> str | None:
    """The computed part of a card, without the version of the program that made it."""
    found = re.search(f"{re.escape(BEGIN)}(.*){re.escape(END)}", card, re.S)
    return re.sub(r"\nMade by prefdata .*", "", found[1]) if found else None


def _parts(card: str) -> tuple[Facts, str]:
    """Header keys and body."""
    match = re.match(r"---\r?\n(.*?)---\r?\n", card, re.S)
    return (_yaml(match[1]), card[match.end() :]) if match else ({}, card)


def _named(header: Facts, key: str) -> list[Facts]:
    """The entries of a list of configs; a lone entry, as the Hub writes for sets of one config, is one too."""
    listed = header.get(key)
    return [c for c in (listed if isinstance(listed, list) else [listed]) if isinstance(c, dict) and "config_name" in c]


def _foreign(header: Facts, key: str) -> list[Facts]:
    """The configs of a target that are not ours."""
    return [c for c in _named(header, key) if not re.fullmatch(OURS, str(c["config_name"]))]


def _require_parquet_first(theirs: Facts) -> None:
    """Raise PublishError where `datasets` would read ours as something else: it reads all configs of a repository in the format
    of the first, which is the target's own."""
    for config in _foreign(theirs, "configs")[:1]:
        paths = list(_paths(config.get("data_files")))
        formats = {Path(p).suffix.lower() for p in paths if re.fullmatch(r"\.[A-Za-z]\w*", Path(p).suffix)}
        if formats and ".parquet" not in formats:
            raise PublishError(
                f"the target's config {config['config_name']} reads {paths[0]}, and `datasets` reads every config of a "
                "repository in the format of the first: ours, which are Parquet, would not load",
                "README.md",
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


def with_files(card: str, files: Mapping[str, Built]) -> str:
    """The card with what its files are: only configs and splits that have some, their rows, bytes and a hash of the content.

    The hash makes the header of every set its own: `datasets` finds its cached copy of a local folder by the header.
    """
    header, body = _parts(card)
    made: dict[str, dict[str, list[tuple[str, Built]]]] = {}
    for path, file in sorted(files.items()):
        _, config, name = path.split("/")
        made.setdefault(config, {}).setdefault(name.partition("-")[0], []).append((path, file))
    configs = [_with_splits(c, made[c["config_name"]]) for c in _named(header, "configs") if c["config_name"] in made]
    if configs and not any(c.get("default") for c in configs):
        configs[0] = {**configs[0], "default": True}
    header["configs"] = configs
    header["dataset_info"] = [_info(name, splits) for name, splits in made.items()]
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=False)}---\n{body}"


def _with_splits(config: Facts, splits: Mapping[str, Sequence[tuple[str, Built]]]) -> Facts:
    digest = hex_id(*(f"{path} {file.digest}" for some in splits.values() for path, file in some))
    kept = [f for f in config["data_files"] if f["split"] in splits]
    return {**config, "data_files": kept, "description": f"content {digest}"}


def _info(name: str, splits: Mapping[str, Sequence[tuple[str, Built]]]) -> Facts:
    """Rows and bytes as `datasets` writes them itself."""
    listed = [
        {"name": split, "num_bytes": sum(f.in_memory for _, f in some), "num_examples": sum(f.rows for _, f in some)}
        for split, some in splits.items()
    ]
    return {
        "config_name": name,
        "splits": listed,
        "download_size": sum(f.stored for some in splits.values() for _, f in some),
        "dataset_size": sum(f.in_memory for some in splits.values() for _, f in some),
    }


def _yaml(text: str) -> Facts:
    try:
        loaded = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise PublishError("the card on the target has a broken YAML header", "README.md", "mend it there") from error
    return loaded if isinstance(loaded, dict) else {}
