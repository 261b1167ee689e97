"""The command line, made from STAGES: `prefdata STAGE --settings recipe.yaml` reads, checks, calls, checks, writes.

Every rule of the Snakefile calls it and every stage runs without Snakemake too. Exit code 2 and one line on a mistake
of the input; a traceback only with --debug.
"""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer

from prefdata import __version__
from prefdata.errors import ConfigError, PrefdataError
from prefdata.progress import logged
from prefdata.recipe.job import Job
from prefdata.recipe.read import print_settings
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Stage
from prefdata.stages.registry import STAGES
from prefdata.tables import atomic
from prefdata.workflow import cost_command, explore_command, look_commands, run
from prefdata.workflow.execute import bring_up, execute, foretell, locked
from prefdata.workflow.lease import lease
from prefdata.workflow.old import leftovers
from prefdata.workflow.recipes import results_of

app = typer.Typer(
    help="Build preference candidate sets, score them under reference models and publish them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
SettingsFile = Annotated[Path, typer.Option("--settings", envvar="PREFDATA_SETTINGS", help="the recipe (YAML)")]
UnitName = Annotated[str | None, typer.Option("--unit", help="one model, judge, reference or method; default: each")]
LogFile = Annotated[Path | None, typer.Option("--log", help="also write what is said on stderr to this file")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="only say what would change there")]
ShardList = Annotated[str | None, typer.Option("--shards", help="comma-separated numbers; default: all")]


def run_stage(name: str, path: Path, unit: str | None, shards: str | None, work: Callable[[Job], None] = execute) -> None:
    """Run a stage, or another `work` with its jobs, for one unit or each, one shard or all."""
    results = results_of(path)
    os.environ["OMP_NUM_THREADS"] = str(results.settings.threads)  # before any stage imports torch
    chosen = None if shards is None else [shard_number(s) for s in shards.split(",")]
    known = results.units(name)
    units = known if unit is None else [unit]
    if not units:
        print(f"{name}: nothing to do, the recipe does not use this stage", file=sys.stderr)
    lease(max((results.stages[name].devices(results.settings, each) for each in units if each in known), default=0))
    made = []
    for each in units:
        job = Job(results, name, each, chosen)
        with locked(job):
            work(job)
        if rows := rows_of(job):
            made.append(f"{name} {each}: {rows}")
    for line in made:
        print(line, file=sys.stderr)


def rows_of(job: Job) -> str:
    """How many rows the job's tables now have."""
    return ", ".join(f"{n} {table}" for table, n in job.rows_made().items())


def shard_number(text: str) -> int:
    """3 and 00003-of-00008 are shard 3."""
    number = text.partition("-of-")[0]
    if not number.isdigit():
        raise ConfigError(f"{text!r} is no shard", "--shards", "give numbers such as 0,1,2")
    return int(number)


def _add(stage: Stage) -> None:
    if stage.foretell is not None:

        def command(
            path: SettingsFile = Path("config/demo.yaml"), unit: UnitName = None, log: LogFile = None, dry_run: DryRun = False
        ) -> None:
            with logged(log):
                run_stage(stage.name, path, unit, None, foretell if dry_run else execute)
    elif stage.per == "run":  # all shards together

        def command(  # type: ignore[misc]
            path: SettingsFile = Path("config/demo.yaml"), unit: UnitName = None, log: LogFile = None
        ) -> None:
            with logged(log):
                run_stage(stage.name, path, unit, None)
    else:

        def command(  # type: ignore[misc]
            path: SettingsFile = Path("config/demo.yaml"),
            unit: UnitName = None,
            shards: ShardList = None,
            log: LogFile = None,
        ) -> None:
            with logged(log):
                run_stage(stage.name, path, unit, shards)

    app.command(stage.name, help=stage.help)(command)


@app.command("run", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run_(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="a recipe (YAML), or the name of one that comes with prefdata, such as demo")],
) -> None:
    """Make everything that a recipe asks for, by Snakemake: the same call again makes what is missing or stale.

    What follows the recipe goes to Snakemake: a target (set, train_all, publish), -n to see what would be run,
    --cores 4, --resources gpu=2 (default: every GPU of this machine). Results land in results/ of the working folder.
    """
    run.run(recipe, context.args)


@app.command("init")
def init(
    name: Annotated[str, typer.Argument(help="the recipe's name: NAME.yaml is written, its results go to results/NAME")],
    like: Annotated[str, typer.Option("--like", help=f"what it does; one of {', '.join(run.STARTERS)}")] = "nectar",
) -> None:
    """Write a commented recipe to start from."""
    path = run.init(name, like)
    print(f"wrote {path}: edit it, then `prefdata run {path}`")


@app.command("settings")
def settings_() -> None:
    """Print every key of a recipe with its default and its reason (a training run's: prefdata train --keys)."""
    print_settings(Settings)


@app.command("judge-check")
def judge_check(
    pairs: Annotated[Path, typer.Argument(help="pairs judged by people: {prompt, a, b, human, judges} a line")],
    path: Annotated[Path | None, typer.Option("--settings", help="a recipe whose judge is run on the pairs too")] = None,
    judge: Annotated[list[str] | None, typer.Option("--judge", help="its name there; may be repeated; default: all")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
    seed: Annotated[int, typer.Option(help="of the resampling")] = 0,
) -> None:
    """Compare judges with people: agreement, Cohen's kappa, intervals, and two yardsticks. Recorded verdicts are read; with
    --settings the recipe's judges are asked, in both orders."""
    import json
    from dataclasses import asdict

    from prefdata.judging.measures import against_people as check

    read = check.read(pairs)
    if path is None and judge:
        raise ConfigError("--judge names a judge of a recipe", "--judge", "give --settings too")
    if path is not None:
        results = results_of(path)
        if not results.settings.judge:
            raise ConfigError("the recipe has no judge to ask", str(path), "add one under judge, or leave --settings out")
        for name in judge or [j.name for j in results.settings.judge]:
            read = check.with_judge(read, results, name)
    found, differences = check.check(read, seed)
    if as_json:
        figures = {"judges": [asdict(f) for f in found], "differences": differences, "people": check.among_people(read)}
        print(json.dumps(figures, indent=1))
    else:
        print(check.render(read, found, differences))


@app.command("win-rate")
def win_rate(
    systems: Annotated[list[Path], typer.Argument(help="answers of systems, an AlpacaEval file each")],
    against: Annotated[Path, typer.Option("--against", help="answers of the baseline to the same instructions")],
    judge: Annotated[str, typer.Option("--judge", help="a judge of the recipe")],
    path: SettingsFile = Path("config/demo.yaml"),
    save: Annotated[Path | None, typer.Option("--annotations", help="also write AlpacaEval's annotations here")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Win rates of systems against a baseline, asked in both orders: adjusted for ties, and length-controlled."""
    import json

    from prefdata.judging.measures import win_rate as rates

    found, apart, notes, baseline = rates.of_files(results_of(path), judge, systems, against)
    if save is not None:
        atomic.atomic_text(save, json.dumps(notes, indent=1, ensure_ascii=False))
    print(json.dumps({"systems": found, "differences": apart}, indent=1) if as_json else rates.render(found, apart, baseline))


@app.command("arena-hard")
def arena_hard(
    folder: Annotated[Path, typer.Argument(help="question.jsonl, model_answer/ and model_judgment/ lie here")],
    judge: Annotated[str, typer.Option("--judge", help="a folder of model_judgment/, or a judge of the recipe")],
    against: Annotated[str, typer.Option("--against", help="the baseline, a file of model_answer/")],
    answers: Annotated[
        list[Path] | None,
        typer.Option("--answers", help="first add an AlpacaEval file, as report/answers/ has them"),
    ] = None,
    path: Annotated[
        Path | None, typer.Option("--settings", help="a recipe with this judge, which then judges every model that has answers")
    ] = None,
    style: Annotated[bool, typer.Option("--style", help="scores controlled for length and Markdown")] = False,
    category: Annotated[str | None, typer.Option("--category", help="of the questions; default: all together")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Arena-Hard v2's leaderboard from its own files; add answers of trained models, and judge them."""
    import json

    from prefdata.judging.measures import arena_hard as arena

    for file in answers or []:
        arena.add_answers(folder, file)
    if path is not None:
        arena.judge(results_of(path), folder, judge, against)
    found = arena.leaderboard(folder, judge, against, style, category)
    what = f"judged by {judge}{', controlled for style' if style else ''}"
    print(json.dumps(found, indent=1) if as_json else arena.render(found, against, what))


@app.command("clean")
def clean(
    path: SettingsFile = Path("config/demo.yaml"),
    old: Annotated[
        bool,
        typer.Option("--old", help="remove what the recipe has no more instead: tables, models and reports of other units"),
    ] = False,
) -> None:
    """Remove the chunk store of a run: finished work is then only in its tables. Or what older recipes left."""
    import shutil

    results = results_of(path)
    for place in leftovers(results) if old else [results.root / "chunks"]:
        if place.is_dir():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink(missing_ok=True)
        print(f"removed {place}")


def _additions() -> list[Any]:
    """Commands of packages that build on this one, as the trainer does; in a checkout that is not installed, the trainer's."""
    found = [point.load() for point in entry_points(group="prefdata.commands")]
    return found or [import_module("train.commands").add]


_training = [work for add in _additions() if (work := add(app, bring_up, lambda path: results_of(path).settings, lease))]
app.command("cost")(cost_command.of(_training))
look_commands.add(app)
app.command("explore")(explore_command.explore)

for _stage in STAGES.values():  # last in the list of --help
    _add(_stage)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def run_command() -> None:
    """Run sys.argv; our errors are one line and exit code 2, without traceback unless --debug or PREFDATA_DEBUG."""
    debug = "--debug" in sys.argv or "PREFDATA_DEBUG" in os.environ
    sys.argv = [a for a in sys.argv if a != "--debug"]
    try:
        app(prog_name="prefdata")
    except PrefdataError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if debug:
            raise
        print(f"error: {error.filename or 'system'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
