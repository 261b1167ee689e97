"""What Snakemake is told of one job."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prefdata.tables.file_hashes import FileHashes


def with_contents(trigger: str, outside: Sequence[str], hashes: FileHashes) -> str:
    """The trigger with what the user's files hold."""
    return json.dumps({**json.loads(trigger), "contents": hashes.of([Path(p) for p in outside])}) if outside else trigger


@dataclass(frozen=True)
class Rule:
    """Files are paths as Snakemake names them; `outside`: inputs that are the user's, whose times do not count; another
    `trigger`, which has the hashes of these, runs the job again; `command` is what follows `prefdata`, less --log."""

    name: str
    inputs: list[str]
    outputs: list[str]
    log: str
    trigger: str
    command: str
    gpus: int = 0
    outside: tuple[str, ...] = ()
