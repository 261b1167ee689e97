"""Messages as published: role, content, and a column for every other key that a message of the set has.

Texts (reasoning_content, name) are texts; anything else (tool_calls) is JSON, written in Arrow's JSON type, which `datasets`
gives back as the objects that chat templates expect. The columns are those of the whole set, so that all files have one schema.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from prefdata.tables.messages import answer, as_json, prompt_of

Keys = dict[str, bool]
"""The other keys of a set's messages; whether each is a text everywhere."""


def holds(path: Path, name: str) -> bool:
    """Whether a table may hold a value in a column whose name ends so, by the counts of nulls in its footer."""
    meta = pq.read_metadata(path)
    for group in range(meta.num_row_groups):
        for place in range(meta.num_columns):
            column = meta.row_group(group).column(place)
            if column.path_in_schema.endswith(name):
                stats = column.statistics
                if stats is None or not stats.has_null_count or stats.null_count < column.num_values:
                    return True
    return False


def keys_of(frames: Iterable[pl.DataFrame]) -> Keys:
    """The other keys that messages of these rows of `sets` have."""
    found: Keys = {}
    for rows in frames:
        answers = rows["candidates"].explode().struct.field("extras")
        for text in pl.concat([rows["prompt_extras"], answers]).drop_nulls():
            said = json.loads(text)
            for message in said if isinstance(said, list) else [said]:
                for key in message.keys() - {"content"}:
                    found[key] = found.get(key, True) and isinstance(message[key], str)
    return dict(sorted(found.items()))


def column(name: str, listed: Sequence[Sequence[Mapping[str, Any]]], keys: Keys) -> pl.Series:
    """A column of message lists; a value that is no text is JSON."""
    fields = {"role": pl.String, "content": pl.String, **dict.fromkeys(keys, pl.String)}
    rows = [[{k: _text(m.get(k), keys.get(k, True)) for k in fields} for m in messages] for messages in listed]
    return pl.Series(name, rows, dtype=pl.List(pl.Struct(fields)))


def prompts(rows: pl.DataFrame, keys: Keys) -> pl.Series:
    """The column `prompt` of rows of `sets`, with what the messages say beside role and content."""
    if not keys:
        return rows["prompt"]
    return column("prompt", [prompt_of(row) for row in rows.select("prompt", "prompt_extras").iter_rows(named=True)], keys)


def answers(name: str, texts: pl.Series, extras: pl.Series, keys: Keys) -> pl.Series:
    """A column of answers, each a list of one message."""
    if keys:
        return column(name, [[answer(text, extra)] for text, extra in zip(texts, extras, strict=True)], keys)
    said = pl.concat_list(pl.struct(pl.lit("assistant").alias("role"), pl.col("content"))).alias(name)
    return texts.alias("content").to_frame().select(said).to_series()


def _text(value: Any, plain: bool) -> str | None:
    return value if value is None or plain else as_json(value)
