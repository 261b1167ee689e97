"""What training adds to the command line: train, memory, accuracy, objectives, publish-model. torch is loaded when one runs."""

import json
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prefdata.errors import ConfigError, did_you_mean
from prefdata.progress import logged
from prefdata.recipe.read import print_settings
from prefdata.recipe.results import BringUp, Results
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.work import Extent, OfTraining, Work
from prefdata.tables.locks import lock
from train import launch

if TYPE_CHECKING:
    from train.left_out import LeftOut

Lease = Callable[[int], object]
"""Takes so many devices for this process and its children."""


def add(app: typer.Typer, bring_up: BringUp, read: Callable[[Path], Settings], lease: Lease) -> OfTraining:
    """Add the commands to prefdata's, which hands over what training cannot know: `bring_up` runs the data stages of a file's
    run, `read` reads a recipe and checks all of it, `lease` takes devices. Gives back what prefdata cannot know: what training
    runs take."""

    def train_(
        file: Annotated[Path | None, typer.Argument(help="a training run's own file (YAML)", show_default=False)] = None,
        settings: Annotated[
            Path, typer.Option("--settings", envvar="PREFDATA_SETTINGS", help="or a recipe (YAML), with --run")
        ] = Path("config/demo.yaml"),
        run: Annotated[
            str | None, typer.Option("--run", help="<objective>/<variant> under train.runs of the recipe; default: list them")
        ] = None,
        check: Annotated[bool, typer.Option("--check", help="validate and stop")] = False,
        keys: Annotated[bool, typer.Option("--keys", help="print every key of a run with its default and its reason")] = False,
        log: Annotated[Path | None, typer.Option("--log", help="also write what is said on stderr to this file")] = None,
    ) -> None:
        if keys:
            _show_keys()
        elif file is not None:
            _from_file(file, check, log, bring_up, lease)
        else:
            _of_recipe(read(settings), settings, run, check, log, lease)

    def accuracy_(
        data: Annotated[
            Path, typer.Argument(help="rows with chosen and rejected answers, or a folder that prefdata published")
        ],
        model: Annotated[str, typer.Option("--model", help="a folder or a Hub id")],
        revision: Annotated[str | None, typer.Option("--revision", help="commit hash, for a Hub id")] = None,
        reference: Annotated[str | None, typer.Option("--reference", help="also by log-ratios to this model")] = None,
        reference_revision: Annotated[str | None, typer.Option("--reference-revision", help="its commit hash")] = None,
        format_: Annotated[
            str | None, typer.Option("--format", help="of the rows; default: trl_pairs, of a folder: sets")
        ] = None,
        template: Annotated[str, typer.Option("--template", help="chat, plain or rendered")] = "chat",
        end: Annotated[str, typer.Option("--end", help="whether the end token is scored: eos or none")] = "eos",
        dtype: Annotated[str, typer.Option("--dtype", help="float32, float64 or bfloat16")] = "float32",
        as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
    ) -> None:
        """Accuracy and margin of a preference set under a model: how often it puts the chosen answer first."""
        from train import accuracy

        own = {"template": template, "end": end}
        found = accuracy.of_set(
            {"path": str(data), "format": format_ or ("sets" if data.is_dir() else "trl_pairs")},
            {"model": model, "revision": revision, **own},
            {"model": reference, "revision": reference_revision, **own} if reference else None,
            bring_up,
            dtype,
        )
        typer.echo(json.dumps(found, indent=1) if as_json else accuracy.render(found, data))

    def publish_model_(
        repo_id: Annotated[str, typer.Argument(help="a model of publish.models, by its place on the Hub")],
        settings: Annotated[Path, typer.Option("--settings", envvar="PREFDATA_SETTINGS", help="the recipe (YAML)")],
        dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would change there; write nothing")] = False,
        log: Annotated[Path | None, typer.Option("--log", help="also write what is said on stderr to this file")] = None,
    ) -> None:
        """Push a trained model of the recipe to the Hub (docs/publishing.md)."""
        from train import push

        recipe = read(settings)
        if repo_id not in (known := [m.repo_id for m in recipe.publish.models]):
            raise ConfigError(f"publish.models has no {repo_id}{did_you_mean(repo_id, known)}", str(settings))
        results = Results(recipe, {})
        with logged(log), lock(results.root / "locks" / "publish-model" / repo_id.replace("/", "-")):
            (push.foretell if dry_run else push.push)(results, repo_id)

    def memory_(
        recipe: Annotated[Path, typer.Argument(help="a recipe (YAML)")],
        gpus: Annotated[int, typer.Option(min=1, help="that train together")] = 1,
        gib: Annotated[float, typer.Option(min=0, help="memory of a GPU")] = 80.0,
        prompt_tokens: Annotated[int, typer.Option(min=1, help="of the longest prompts")] = 512,
        completion_tokens: Annotated[int, typer.Option(min=1, help="of the longest answers")] = 512,
        candidates: Annotated[int, typer.Option(min=2, help="answers of a prompt")] = 6,
    ) -> None:
        """What a step of each training run holds on a GPU at most, counted without one, before anything is run.

        A step is taken over tensors that have no memory. What kernels and NCCL take for themselves, the CUDA context and
        fragmentation are not counted: a tenth of the GPU is left for those.
        """
        from train import fits, memory

        rows = memory.Rows(prompt_tokens, completion_tokens, candidates)
        for line in fits.told(read(recipe), rows, fits.Machine(gpus, gib)):
            typer.echo(line)

    app.command("train", help=HELP)(train_)
    app.command("publish-model")(publish_model_)
    app.command("memory")(memory_)
    app.command("accuracy")(accuracy_)
    app.command("objectives")(objectives)
    return _work


def _work(recipe: Settings, extent: Extent) -> tuple[list[Work], dict[str, str]]:
    from train.cost import work

    return work(recipe, extent)


HELP = """Train a model: one run of a recipe (--settings recipe.yaml --run mcpo/default), or a file of its own.

    \b
    A file of its own needs an objective, a set, a model and where the new one goes:
      objective: mcpo
      data: {path: pairs.jsonl, format: trl_pairs}   # or a folder that prefdata published: format: sets
      model: /models/my-sft-model                    # or a Hub id with its revision
      output: out/mcpo
      epochs: 1

    Several processes of this machine: processes: 2. Of several machines, by torchrun or a scheduler on each of them:
    torchrun --no-python --nnodes 2 --nproc-per-node 8 ... prefdata train FILE.
    """


def objectives(name: Annotated[str | None, typer.Argument(help="one of them; default: all")] = None) -> None:
    """List what prefdata train can optimise: formula, negatives, references, needs, own defaults, paper."""
    from train.objectives.catalogue import text
    from train.objectives.registry import OBJECTIVES

    if name is not None and name not in OBJECTIVES:
        raise ConfigError(f"unknown objective{did_you_mean(name, OBJECTIVES)}", name)
    typer.echo("\n\n".join(text(each) for each in ([name] if name else OBJECTIVES)))


def _show_keys() -> None:
    from train.file_settings import FileSettings

    print("train.runs.<objective>/<variant> of a recipe takes all of these keys but the last group (objective to threads).")
    print_settings(FileSettings)


def _from_file(path: Path, check: bool, log: Path | None, bring_up: BringUp, lease: Lease) -> None:
    from train import from_file
    from train.receipt import request_of

    file_run = from_file.load(path)
    if check:
        _say(file_run.name, file_run.recipe)
        return
    output, request = Path(file_run.settings.output).expanduser(), from_file.request(file_run)
    if request_of(output) == request:
        print(f"{output}: trained already, by these settings from this data: nothing to do", file=sys.stderr)
        print(output)
        return
    _start(file_run.settings.processes, file_run.recipe.threads, [str(path)], log, lease)
    from train.run import train

    results = file_run.results
    call = partial(train, file_run.recipe, file_run.name, results, request=request)
    _train(log, results.root / "locks" / "train", call, partial(from_file.prepare, file_run, bring_up))


def _of_recipe(recipe: Settings, path: Path, name: str | None, check: bool, log: Path | None, lease: Lease) -> None:
    from train.resolve import validate

    runs = validate(recipe, str(path))
    if name is None or check:
        for each in runs:
            _say(each, recipe)
        return
    if name not in runs:
        raise ConfigError(f"no run {name!r}{did_you_mean(name, runs)}", str(path))
    _start(runs[name].processes, recipe.threads, ["--settings", str(path), "--run", name], log, lease)
    from train.run import train

    results = Results(recipe, {})
    _train(log, results.root / "locks" / f"train-{name.replace('/', '-')}", partial(train, recipe, name, results))


def _start(processes: int, threads: int, words: list[str], log: Path | None, lease: Lease) -> None:
    """Before torch is imported: take the run's devices, and become torchrun where several processes share it. A rank has both
    behind it."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if launch.is_rank():
        return
    with logged(log):
        lease(processes)
    if processes > 1:
        launch.become_torchrun(processes, ["train", *words], log)


def _train(
    log: Path | None, lock_: Path, call: Callable[..., Path], prepare: Callable[[], "LeftOut | None"] = lambda: None
) -> None:
    """Prepare and train. Of several processes (torchrun) the first one locks, prepares, writes and says where."""
    from train import processes

    here = processes.join()
    try:
        with logged(log if here.first else None), lock(lock_) if here.first else nullcontext():
            left = prepare() if here.first else None
            here.any(False)  # wait for the first
            folder = call(left=left)
            if here.first:
                print(folder)
    finally:
        processes.leave()


def _say(name: str, recipe: Settings) -> None:
    from train.resolve import resolve

    run = resolve(recipe, name)
    length = f"{run.steps} steps" if run.steps else f"{run.epochs} epochs"
    print(f"{name}: {length} from {run.model or 'a fresh model'}")
