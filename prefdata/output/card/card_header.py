"""The YAML header of a data set card, which the Hub and `datasets` read: licence, language, tags, configs and their files."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from prefdata.draws import hex_id
from prefdata.errors import printable
from prefdata.output.card.card_merge import named, parts
from prefdata.output.licences import LICENCES
from prefdata.output.published_configs import CONFIGS, OF_LABELS, ONLINE, names
from prefdata.output.published_files import Built
from prefdata.recipe.settings.whole import Settings
from prefdata.tables.schema import READ_SPLITS

Facts = dict[str, Any]


def header(settings: Settings, splits: list[str], shared: str, of_labels: Sequence[str] = ()) -> str:
    """The YAML header that the Hub and `datasets` read. `shared`: the licence where the settings name none; `of_labels`: the
    splits of labelled answers, whose prompts need no pair."""
    known = {
        "pretty_name": printable(" ".join(settings.card.title.split())),
        "license": settings.card.license or (shared if shared in LICENCES else "other"),
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


def with_files(card: str, files: Mapping[str, Built]) -> str:
    """The card with what its files are: only configs and splits that have some, their rows, bytes and a hash of the content.

    The hash makes the header of every set its own: `datasets` finds its cached copy of a local folder by the header.
    """
    header, body = parts(card)
    made: dict[str, dict[str, list[tuple[str, Built]]]] = {}
    for path, file in sorted(files.items()):
        _, config, name = path.split("/")
        made.setdefault(config, {}).setdefault(name.partition("-")[0], []).append((path, file))
    configs = [_with_splits(c, made[c["config_name"]]) for c in named(header, "configs") if c["config_name"] in made]
    if configs and not any(c.get("default") for c in configs):
        configs[0] = {**configs[0], "default": True}
    header["configs"] = configs
    header["dataset_info"] = [_info(name, splits) for name, splits in made.items()]
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=False)}---\n{body}"


def _with_splits(config: Facts, splits: Mapping[str, Sequence[tuple[str, Built]]]) -> Facts:
    digest = hex_id(*(f"{path} {file.digest}" for some in splits.values() for path, file in some))
    listed = [{"split": s, "path": f"data/{config['config_name']}/{s}-*.parquet"} for s in READ_SPLITS if s in splits]
    return {**config, "data_files": listed, "description": f"content {digest}"}


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
