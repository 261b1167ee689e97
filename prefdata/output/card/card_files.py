"""What only the published files can tell: how many rows each config has, and its columns. Publishing fills it into the card."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq

from prefdata.output.card import columns
from prefdata.output.markdown import table
from prefdata.output.published_configs import OF_CANDIDATES, ONLINE
from prefdata.output.published_files import Built

CONFIGS_HERE, COLUMNS_HERE = (
    "<!-- rows of every config: filled in by publishing -->",
    "<!-- columns: filled in by publishing -->",
)
"""Where it goes. Values of data and settings are escaped, so that none can be one of these lines."""
UNKNOWN = "(no description)"


def filled(card: str, folder: Path, made: Mapping[str, Built]) -> str:
    """The card with both tables. `made`: the files by their paths in `folder`, data/<config>/<split>-<shard>.parquet."""
    by_config: dict[str, list[str]] = {}
    for path in sorted(made):
        by_config.setdefault(path.split("/")[1], []).append(path)
    rows = {config: _rows(paths, made) for config, paths in by_config.items()}
    found = {config: tuple(columns.fields(pq.read_schema(folder / paths[0]))) for config, paths in by_config.items()}
    return card.replace(CONFIGS_HERE, _configs(rows)).replace(COLUMNS_HERE, _columns(found))


def _rows(paths: list[str], made: Mapping[str, Built]) -> dict[str, int]:
    """Rows of each split of a config."""
    counts: dict[str, int] = {}
    for path in paths:
        split = Path(path).name.partition("-")[0]
        counts[split] = counts.get(split, 0) + made[path].rows
    return counts


def _configs(rows: Mapping[str, Mapping[str, int]]) -> str:
    splits = sorted({split for counts in rows.values() for split in counts}, key=_order)
    said = [
        (config, columns.config_rows(config, ONLINE, OF_CANDIDATES), *(counts.get(split, 0) for split in splits))
        for config, counts in rows.items()
    ]
    return table(("config", "one row is", *splits), said)


def _order(split: str) -> tuple[bool, str]:
    """train, then the others by name."""
    return split != "train", split


def _columns(found: Mapping[str, tuple[tuple[str, str], ...]]) -> str:
    """One table for all configs with the same columns and meanings."""
    groups: dict[tuple[tuple[str, str, str], ...], list[str]] = {}
    for config, fields in found.items():
        kind = ("candidates" if config.endswith(OF_CANDIDATES) else "sets") if config.startswith(ONLINE) else config
        listed = tuple((path, dtype, columns.meaning(kind, path) or UNKNOWN) for path, dtype in fields)
        groups.setdefault(listed, []).append(config)
    parts = [
        f"`{'`, `'.join(configs)}`:\n\n{table(('column', 'type', 'what it is'), rows)}" for rows, configs in groups.items()
    ]
    return "\n\n".join(parts)
