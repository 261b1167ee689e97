"""What must hold before anything is pushed: licences that allow it, no secrets, no addresses, no local paths.

All of it is looked at in the very files that would be pushed, before the first byte leaves. For a folder it is said and not
refused: the folder is where one looks at what was found.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefdata.errors import PublishError, did_you_mean
from prefdata.models.identity import is_path
from prefdata.output import sensitive
from prefdata.output.redistribution import UNKNOWN, forbids
from prefdata.output.sensitive import LOCAL_PATH, NAMES, Found
from prefdata.recipe.settings.whole import Settings

SHOWN = 3
"""Rows named for a pattern."""


def check(
    settings: Settings, sources: Sequence[Mapping[str, Any]], built: Path, texts: Mapping[str, str], places: Sequence[Path]
) -> None:
    """Look at what is about to be published. `sources`: source, license and prompts each; `built`: the folder of the data
    files; `texts`: the other files, such as the card; `places`: folders of this machine whose names are nobody's business.

    Raises PublishError where it would be pushed; else it is a warning.
    """
    own = settings.publish
    found = [] if own.delta else licences(sources)
    found += contents(built, texts, own.allow, local_paths(settings, places))
    if found and own.repo_id is not None:
        raise PublishError(found, "publish.repo_id")
    for problem in found:
        print(f"warning: publish: {problem} (a push would be refused)", file=sys.stderr)


def licences(sources: Sequence[Mapping[str, Any]]) -> list[str]:
    """What forbids to push the rows of these sources, each with its count of prompts where it has one."""
    found = []
    if unknown := [_counted(s["source"], s) for s in sources if s["license"] == UNKNOWN]:
        found.append(f"no licence is stated for {', '.join(unknown)}; state it in sources.sources[].license")
    by_why: dict[str, list[str]] = {}
    for source in sources:
        if why := forbids(source["license"]):
            by_why.setdefault(why, []).append(_counted(source["source"], source, source["license"]))
    return found + [
        f"the licence does not let {', '.join(named)} be pushed: {why}; leave the source out, or set publish.delta: true to "
        "push ids, ranks and scores without its texts"
        for why, named in by_why.items()
    ]


def _counted(name: str, source: Mapping[str, Any], *said: str) -> str:
    counted = [*said, *([f"{source['prompts']} prompts"] if "prompts" in source else [])]
    return f"{name} ({', '.join(counted)})" if counted else name


def stated(settings: Settings) -> list[str]:
    """What the recipe's own words forbid to push, before any job."""
    own = settings.publish
    if own.repo_id is None or own.delta:
        return []
    sources = [{"source": s.revisioned, "license": s.license} for s in settings.sources.sources]
    return [f"publish.repo_id: {problem}" for problem in licences(sources)]


def contents(built: Path, texts: Mapping[str, str], allowed: Sequence[str], local: Sequence[str]) -> list[str]:
    """One line a pattern that was found: how many rows, some of them by prompt and column, and how to allow it."""
    hits: dict[str, list[Found]] = {}
    for one in sensitive.in_files(sorted(built.rglob("*.parquet")), local):
        hits.setdefault(one.pattern, []).append(one)
    for name, text in texts.items():
        for one in sensitive.in_text(text, name, local):
            hits.setdefault(one.pattern, []).append(one)
    return [_line(pattern, hits[pattern]) for pattern in NAMES if pattern in hits and pattern not in allowed]


def _line(pattern: str, hits: Sequence[Found]) -> str:
    rows: dict[str, Found] = {}
    for one in hits:
        rows.setdefault(one.prompt_id or one.where, one)
    named = ", ".join(f"{one.where} of {row}" if one.prompt_id else row for row, one in list(rows.items())[:SHOWN])
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    what = "a path of this machine" if pattern == LOCAL_PATH else f"what looks like {pattern}"
    return f"{what} in {len(rows)} rows or files: {named}{more}; remove it, or publish.allow: [{pattern}] if it may be read"


def local_paths(settings: Settings, places: Sequence[Path]) -> list[str]:
    """Paths that only this machine has: these folders, and what the recipe names by its whole path.

    One of a single name (/root) is left out: texts about computers are full of it.
    """
    files = [s.path if isinstance(s.path, list) else [s.path] for s in settings.sources.sources if s.path is not None]
    models = [r.model for r in settings.score.references] + [m.id for m in settings.generate.models]
    named = [*(path for paths in files for path in paths), *models, *(j.model.id for j in settings.judge if j.model)]
    whole = {str(Path(path).expanduser()) for path in named if is_path(path)} | {str(p.resolve()) for p in places}
    return sorted(path for path in whole if path.startswith("/") and path.strip("/").count("/"))


def problems(settings: Settings) -> list[str]:
    """What is wrong with publish.allow."""
    return [f"publish.allow: {n!r} is no pattern{did_you_mean(n, NAMES)}" for n in settings.publish.allow if n not in NAMES]
