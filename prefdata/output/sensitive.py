"""Secrets, e-mail addresses and local paths in what is published: named patterns, each match with its row and column.

The patterns of secrets are those of detect-secrets that are about one issuer's tokens, with its own checks; its guesses (high
entropy, words such as `password`) are left out, for texts about programs are full of them. They run on polars' regular
expressions, whose time is linear in the text whatever it says; what is found is then given to the library's detector.
"""

import importlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from prefdata.output.escape import plain

DETECTORS = {
    "aws": "aws.AWSKeyDetector",
    "azure_storage": "azure_storage_key.AzureStorageKeyDetector",
    "basic_auth": "basic_auth.BasicAuthDetector",
    "discord": "discord.DiscordBotTokenDetector",
    "github": "github_token.GitHubTokenDetector",
    "gitlab": "gitlab_token.GitLabTokenDetector",
    "jwt": "jwt.JwtTokenDetector",
    "mailchimp": "mailchimp.MailchimpDetector",
    "npm": "npm.NpmDetector",
    "openai": "openai.OpenAIDetector",
    "private_key": "private_key.PrivateKeyDetector",
    "pypi": "pypi_token.PypiTokenDetector",
    "sendgrid": "sendgrid.SendGridDetector",
    "slack": "slack.SlackDetector",
    "square": "square_oauth.SquareOAuthDetector",
    "stripe": "stripe.StripeDetector",
    "telegram": "telegram_token.TelegramBotTokenDetector",
    "twilio": "twilio.TwilioKeyDetector",
}
"""The detectors of detect-secrets that are used, by our names."""
HUGGING_FACE, EMAIL, LOCAL_PATH = "hugging_face", "email", "local_path"
OWN = {
    HUGGING_FACE: r"\bhf_[A-Za-z0-9]{34}\b",
    EMAIL: r"(?i)\b[a-z0-9][a-z0-9._%+-]{0,63}@(?:[a-z0-9-]{1,63}\.)+[a-z]{2,24}\b",
}
"""What detect-secrets has no detector for."""
NAMES = (*DETECTORS, *OWN, LOCAL_PATH)
NOBODYS = re.compile(r"(?i)(?:@|\.)(?:example\.(?:com|net|org)|example|test|invalid|localhost)$")
"""Domains that are reserved for examples (RFC 2606): no address there is anybody's."""
BATCH_ROWS = 4096


@dataclass(frozen=True)
class Found:
    """A match: the pattern's name, the prompt (None: a text without one) and the column, or the file."""

    pattern: str
    prompt_id: str | None
    where: str


def in_files(paths: Iterable[Path], local: Sequence[str]) -> Iterator[Found]:
    """What is found in published Parquet files, `data/<config>/<split>-<shard>.parquet`. `local`: paths of this machine."""
    for path in paths:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                frame = pl.DataFrame(pl.from_arrow(pa.Table.from_batches([batch], file.schema_arrow)))
                texts = [
                    rows.with_columns(pl.lit(f"{path.parent.name}.{column}").alias("where")) for column, rows in _texts(frame)
                ]
                if texts:
                    yield from _found(pl.concat(texts), local)


def in_text(text: str, where: str, local: Sequence[str]) -> Iterator[Found]:
    """What is found in a file of text, such as the card, as its readers see it."""
    row = {"prompt_id": [None], "text": [plain(text)], "where": [where]}
    yield from _found(pl.DataFrame(row, schema=dict.fromkeys(row, pl.String)), local)


def _texts(frame: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """(column, its texts with the row's prompt_id) of all texts, however deep they lie."""
    for name in frame.columns:
        if name != "prompt_id":
            yield from _leaves(name, frame.select("prompt_id", pl.col(name).alias("text")))


def _leaves(name: str, rows: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    kind = rows.schema["text"]
    if isinstance(kind, pl.List):
        yield from _leaves(name, rows.explode("text"))
    elif isinstance(kind, pl.Struct):
        for field in kind.fields:
            yield from _leaves(
                f"{name}.{field.name}", rows.select("prompt_id", pl.col("text").struct.field(field.name).alias("text"))
            )
    elif isinstance(kind, pl.BaseExtension):  # JSON: its text
        yield from _leaves(name, rows.with_columns(pl.col("text").ext.storage()))
    elif kind == pl.String:
        yield name, rows.drop_nulls("text")


def _found(rows: pl.DataFrame, local: Sequence[str]) -> Iterator[Found]:
    """Each prompt once for a pattern and a column (`where`)."""
    tests = {pattern: pl.col("text").str.contains(pattern) for _, patterns, _ in _patterns() for pattern in patterns}
    there = rows.select(test.any().alias(pattern) for pattern, test in tests.items()).row(0, named=True)  # all at once
    for name, patterns, detector in _patterns():
        said = set[tuple[str | None, str]]()
        for pattern in (p for p in patterns if there[p]):
            hits = rows.filter(tests[pattern]).with_columns(pl.col("text").str.extract_all(pattern))
            for prompt_id, matches, where in hits.select("prompt_id", "text", "where").iter_rows():
                if (prompt_id, where) not in said and any(_is_one(name, detector, match) for match in matches):
                    said.add((prompt_id, where))
                    yield Found(name, prompt_id, where)
    if local:
        here = (
            rows.filter(pl.col("text").str.contains_any(list(local))).select("prompt_id", "where").unique(maintain_order=True)
        )
        yield from (Found(LOCAL_PATH, prompt_id, where) for prompt_id, where in here.iter_rows())


def _is_one(name: str, detector: Any, match: str) -> bool:
    if name == EMAIL:
        return NOBODYS.search(match) is None
    return detector is None or any(True for _ in detector.analyze_string(match))


@cache
def _patterns() -> list[tuple[str, list[str], Any]]:
    """(name, patterns for polars, the library's detector or None)."""
    made: list[tuple[str, list[str], Any]] = [(name, [pattern], None) for name, pattern in OWN.items()]
    for name, place in DETECTORS.items():
        module, _, kind = place.partition(".")
        detector = getattr(importlib.import_module(f"detect_secrets.plugins.{module}"), kind)()
        made.append((name, [_for_polars(pattern) for pattern in detector.denylist], detector))
    return made


AHEAD = r"(?!\w)"
"""How the library says that a token ends. Expressions of linear time cannot look ahead: a longer word counts too."""


def _for_polars(pattern: "re.Pattern[str]") -> str:
    flags = "".join(letter for letter, flag in (("i", re.I), ("x", re.X)) if pattern.flags & flag)
    return (f"(?{flags})" if flags else "") + pattern.pattern.replace(AHEAD, "")
