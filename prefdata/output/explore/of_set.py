"""The page of a set that was opened, for `prefdata explore`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefdata.models.tokens import Encoder
from prefdata.output.escape import visible
from prefdata.output.explore import document
from prefdata.output.explore.columns import Columns
from prefdata.output.explore.frames import frames_of, keyed, sample
from prefdata.output.explore.gathered import Gathered, gather
from prefdata.output.looking.opened import Opened

Facts = dict[str, Any]


def write(opened: Opened, path: Path, encoder: Encoder | None, limit: int) -> Gathered:
    """Write the page to `path`; at most `limit` prompts of the set, by a keyed sample. Raises DataError."""
    of = opened.prompts()
    kept = sample(opened.ids(), limit) if of > limit else None
    made = gather(frames_of(opened, kept), Columns(keyed(opened)), encoder)
    document.write(path, visible(Path(opened.name).name or opened.name), made, said(of, opened.dropped()))
    return made


def said(of: int, drops: Sequence[Facts]) -> Facts:
    """What the page says of the whole set: its prompts, and what was dropped (stage, unit, reason, rows)."""
    return {"of": of, "drops": [{k: visible(v) if isinstance(v, str) else v for k, v in d.items()} for d in drops]}
