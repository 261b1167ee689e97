"""`prefdata show`, `prefdata stats` and `prefdata diff` on the command line."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from prefdata.errors import ConfigError
from prefdata.kinds import End, SplitName, Template
from prefdata.models.tokens import load_encoder
from prefdata.output.looking import counts, difference, listing, one_prompt, pages, token_view
from prefdata.output.looking.opened import Opened, open_set

WHERE = "a folder that prefdata published, a recipe's results/<name>, or owner/name[@commit] on the Hub"
SetName = Annotated[str, typer.Argument(metavar="SET", help=WHERE)]
Revision = Annotated[str | None, typer.Option("--revision", help="commit hash, for a set on the Hub")]
AsJson = Annotated[bool, typer.Option("--json", help="print it as JSON")]


class Sort(StrEnum):
    """By what `prefdata show` sorts prompts."""

    margin = "margin"
    length = "length"
    candidates = "candidates"


def add(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("show")(show)
    app.command("stats")(stats)
    app.command("diff")(diff)


def show(
    name: SetName,
    prompt_id: Annotated[str | None, typer.Argument(help="one prompt, by its id or a beginning that no other has")] = None,
    limit: Annotated[int, typer.Option(min=1, help="how many prompts are listed")] = 20,
    split: Annotated[SplitName | None, typer.Option(help="of this split")] = None,
    source: Annotated[str | None, typer.Option(help="of this source, with or without its @revision")] = None,
    sort: Annotated[Sort | None, typer.Option(help="the largest first; default: by prompt_id")] = None,
    least: Annotated[bool, typer.Option("--least", help="with --sort: the least first")] = False,
    tokens: Annotated[
        str | None, typer.Option("--tokens", metavar="MODEL", help="also the tokens of this folder or Hub id")
    ] = None,
    tokens_revision: Annotated[str | None, typer.Option("--tokens-revision", help="its commit hash, for a Hub id")] = None,
    template: Annotated[Template, typer.Option(help="with --tokens: how the prompt is rendered")] = "chat",
    end: Annotated[End, typer.Option(help="with --tokens: whether the end token is scored")] = "eos",
    revision: Revision = None,
    as_json: AsJson = False,
) -> None:
    """Show the prompts of a set, or one of them with all its candidates and the tokens that are trained on.

    \b
    prefdata show results/demo                                      its first prompts
    prefdata show results/demo --sort margin --least --split train   where the references like the chosen answer least
    prefdata show results/demo 3f0a                                  the prompt whose id begins so
    prefdata show results/demo 3f0a --tokens MODEL                   and what its tokens are, those with the loss marked
    """
    _require_effect(prompt_id, {"--split": split, "--source": source, "--sort": sort, "--least": least}, {"--tokens": tokens})
    if tokens is None and tokens_revision is not None:
        raise ConfigError("has no effect without --tokens", "--tokens-revision", "leave it out")
    opened = open_set(name, revision, candidates=prompt_id is not None)
    if prompt_id is not None:
        _one(opened, prompt_id, (tokens, tokens_revision, template, end), as_json)
        return
    found = listing.listing(opened, limit, split, source, None if sort is None else sort.value, least)
    _print(found, [] if as_json else listing.render(found, opened.prompts()), as_json)


def _require_effect(prompt_id: str | None, of_list: dict[str, Any], of_prompt: dict[str, Any]) -> None:
    """Refuse options of the list with a prompt, and of a prompt without one."""
    idle = [key for key, value in (of_list if prompt_id is not None else of_prompt).items() if value]
    if idle:
        raise ConfigError(f"has no effect {'on' if prompt_id is not None else 'without'} one prompt", idle[0], "leave it out")


def _one(opened: Opened, prompt_id: str, tokens: tuple[str | None, str | None, Template, End], as_json: bool) -> None:
    """A prompt with its candidates. `tokens`: model, its revision, template, end."""
    row = opened.find(prompt_id)
    found = one_prompt.facts(row, opened.made_with(row["prompt_id"]))
    page = one_prompt.render(found)
    model, model_revision, template, end = tokens
    if model is not None:
        seen = token_view.facts(row, found["candidates"], load_encoder(place_of(model), model_revision, template, end))
        found, page = {**found, "tokens": seen}, [*page, *token_view.render(seen)]
    _print(found, page, as_json)


def place_of(model: str) -> str:
    """A model as load_encoder takes it."""
    return str(Path(model).expanduser()) if model.startswith("~") else model


def _print(facts: Any, page: Sequence[Any], as_json: bool) -> None:
    if as_json:
        typer.echo(pages.as_json(facts))
    else:
        pages.show(page)


def stats(name: SetName, revision: Revision = None, as_json: AsJson = False) -> None:
    """Count what a set holds: prompts, candidates, lengths, ties, margins, repeated texts; of a results folder also what was
    dropped."""
    found = counts.counted(open_set(name, revision))
    _print(found, counts.render(found), as_json)


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help=WHERE)],
    b: Annotated[str, typer.Argument(metavar="B", help="another one")],
    limit: Annotated[int, typer.Option(min=0, help="examples of each kind of difference")] = 5,
    tolerance: Annotated[float, typer.Option(min=0, help="nats that a log-prob may differ by")] = difference.TOLERANCE,
    revision: Annotated[
        str | None, typer.Option("--revision", help="commit hash, for names on the Hub without @commit")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two sets, or two states of one: prompts and candidates added and removed, answers chosen, ranked, judged or
    scored otherwise. Exit code 0 where they are equal, 1 where they differ, 2 on errors.

    \b
    prefdata diff old/publish/mine results/mine/publish/mine
    prefdata diff owner/name@COMMIT results/mine
    """
    pinned = [n for n in (a, b) if "@" not in n and not Path(n).expanduser().is_dir()]
    if revision is not None and not pinned:
        raise ConfigError("no name here needs it", "--revision", "leave it out")
    one, other = (open_set(n, revision if n in pinned else None) for n in (a, b))
    found = difference.difference(one, other, limit, tolerance)
    _print(found.facts(), difference.render(found, a, b), as_json)
    if not found.equal:
        raise typer.Exit(1)
