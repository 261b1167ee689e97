"""What Snakemake is told of one job."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefdata.models.size import of_name
from prefdata.recipe.settings.whole import Settings
from prefdata.tables.file_hashes import FileHashes

MB = 10**6
BESIDE_MB = 4_000
"""Memory of a job beside its models: libraries, a shard's rows."""
ROWS_MIN, MODEL_MIN = 240, 1_440
"""Time limits in minutes. A job that meets one goes on where it was, by the same command."""


def with_contents(trigger: str, outside: Sequence[str], hashes: FileHashes) -> str:
    """The trigger with what the user's files hold."""
    return json.dumps({**json.loads(trigger), "contents": hashes.of([Path(p) for p in outside])}) if outside else trigger


@dataclass(frozen=True)
class Needs:
    """What a job asks of a machine: GPUs, threads, memory of the host in MB, minutes. One machine counts the first two;
    a scheduler is told all, and holds the job to them. `--set-resources RULE:mem_mb=N` asks for another amount."""

    gpus: int = 0
    threads: int = 1
    mem_mb: int = BESIDE_MB
    runtime: int = ROWS_MIN


def of_models(settings: Settings, models: Iterable[str], gpus: int, copies: int = 1, processes: int = 1) -> Needs:
    """Of a job that loads models. `copies`: how often the host's memory may hold each at once, in fp32."""
    held = sum(_fp32_mb(settings, ref) for ref in models)
    return Needs(gpus, settings.threads * processes, BESIDE_MB * processes + held * copies, MODEL_MIN)


def _fp32_mb(settings: Settings, ref: str) -> int:
    """A model's weights in fp32, those of a trained one as what it starts from; 0 where neither its files nor its name say."""
    seen = set[str]()
    while ref.startswith("run:") and ref not in seen:
        seen.add(ref)
        ref = _start(settings, ref.removeprefix("run:"))
    folder = Path(ref).expanduser()
    if folder.is_dir():
        return 2 * sum(p.stat().st_size for p in folder.glob("*.safetensors")) // MB  # they are bf16 where they are large
    return int(4 * (of_name(ref) or 0)) // MB


def _start(settings: Settings, run: str) -> str:
    given = settings.runs.get(run, {})
    if given.get("continue_from"):
        return f"run:{given['continue_from']}"
    primary = [] if given.get("init") else [r.model for r in settings.score.references]
    return next(iter([m for m in (given.get("model"), *primary) if m]), "")


@dataclass(frozen=True)
class Rule:
    """Files are paths as Snakemake names them; `outside`: inputs that are the user's, whose times do not count; another
    `trigger`, which has the hashes of these, runs the job again; `command` is what follows `prefdata`, less --log. What the job
    `needs` runs nothing again."""

    name: str
    inputs: list[str]
    outputs: list[str]
    log: str
    trigger: str
    command: str
    needs: Needs = Needs()
    outside: tuple[str, ...] = ()
