"""`prefdata explore` on the command line."""

from pathlib import Path
from typing import Annotated

import typer

from prefdata.errors import ConfigError
from prefdata.kinds import End, Template
from prefdata.models.tokens import load_encoder
from prefdata.output.explore import of_set
from prefdata.output.explore.frames import MOST_PROMPTS
from prefdata.output.explore.gathered import MOST_TOKENS
from prefdata.output.looking.opened import open_set
from prefdata.workflow.look_commands import Revision, SetName, place_of

TOKENS_HELP = f"also the tokens of this folder or Hub id, {MOST_TOKENS:,} at most"


def explore(
    name: SetName,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="the page; default: explore.html here")] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=MOST_PROMPTS, help="prompts of the page; of a larger set a keyed sample")
    ] = MOST_PROMPTS,
    tokens: Annotated[str | None, typer.Option("--tokens", metavar="MODEL", help=TOKENS_HELP)] = None,
    tokens_revision: Annotated[str | None, typer.Option("--tokens-revision", help="its commit hash, for a Hub id")] = None,
    template: Annotated[Template, typer.Option(help="with --tokens: how the prompt is rendered")] = "chat",
    end: Annotated[End, typer.Option(help="with --tokens: whether the end token is scored")] = "eos",
    revision: Revision = None,
) -> None:
    """Write a page of a set to look around in: one HTML file that needs no network and no server.

    Prompts with problems come first. Each has its answers side by side with ranks, log-probs, margins, what the judges said and
    what was dropped, a comparison word by word, and how often MC-PO's kernel draws each answer, by sliders. Open it in a
    browser of 2023 or later; ? there lists the keys. A results folder tells more than a published one: verdicts and drops.

    \b
    prefdata explore results/demo                             explore.html
    prefdata explore results/demo --tokens MODEL -o demo.html  and the tokens that are trained on, each with its id
    prefdata explore owner/name@COMMIT                        a set on the Hub
    """
    if tokens is None and tokens_revision is not None:
        raise ConfigError("has no effect without --tokens", "--tokens-revision", "leave it out")
    path = Path("explore.html") if output is None else output
    if path.is_dir():
        raise ConfigError("a folder", str(path), "give the name of a file")
    opened = open_set(name, revision, candidates=True)
    encoder = None if tokens is None else load_encoder(place_of(tokens), tokens_revision, template, end)
    made = of_set.write(opened, path, encoder, limit)
    size = path.stat().st_size / 2**20
    shown = len(made.columns.prompts["id"])
    typer.echo(f"{path}: {shown} of {opened.prompts()} prompts, {size:.1f} MiB; open it in a browser")
