"""What Snakemake is told of one job."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """Files are paths as Snakemake names them; another `trigger` runs the job again; `command` is what follows
    `prefdata`, less --log."""

    name: str
    inputs: list[str]
    outputs: list[str]
    log: str
    trigger: str
    command: str
    gpus: int = 0
