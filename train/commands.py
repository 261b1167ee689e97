"""What train adds to the command line of prefdata (the entry points prefdata.commands); torch is loaded when one is called."""

from typing import Annotated

import typer

from prefdata.errors import ConfigError, did_you_mean


def objectives(name: Annotated[str | None, typer.Argument(help="one of them; default: all")] = None) -> None:
    """List what python -m train can optimise: formula, negatives, references, needs, own defaults, paper."""
    from train.objectives.catalogue import text
    from train.objectives.registry import OBJECTIVES

    if name is not None and name not in OBJECTIVES:
        raise ConfigError(f"unknown objective{did_you_mean(name, OBJECTIVES)}", name)
    typer.echo("\n\n".join(text(each) for each in ([name] if name else OBJECTIVES)))
