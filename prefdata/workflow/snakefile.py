"""What the Snakefile needs of prefdata: validated settings, the run's lock, its jobs' environment."""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Collection, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from prefdata.errors import PrefdataError
from prefdata.models.identity import require_place
from prefdata.output import gates
from prefdata.progress import RUN_PID, processors
from prefdata.recipe import places
from prefdata.recipe.read import validate_recipe
from prefdata.recipe.results import Results
from prefdata.recipe.rule import Needs, Rule, of_models, with_contents
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Stage
from prefdata.sources import readers
from prefdata.stages.registry import STAGES
from prefdata.tables import atomic
from prefdata.tables.locks import take_lock
from prefdata.workflow import devices, old, patches, slurm, warm
from prefdata.workflow.notices import notices
from prefdata.workflow.recipes import checked

_held: list[int] = []
_started: list[float] = []


def load(config: dict[str, Any], validate_training: Callable[[Settings], object]) -> Results:
    """Validate the merged configuration, training runs included; all mistakes are printed and nothing is run."""
    try:
        settings = checked(validate_recipe(dict(config), "settings"), "settings")
        validate_training(settings)
    except PrefdataError as error:
        sys.exit(f"error: {error}")
    results = Results(settings, STAGES)
    for line in [*notices(settings), *filter(None, [old.notice(results)])]:
        print(f"warning: {line}", file=sys.stderr)
    if taken := [p for p in (results.root, *results.root.parents) if p.exists() and not p.is_dir()]:
        sys.exit(f"error: {taken[0]}: a file, where the results go; move it, or give the recipe another name")
    if is_dry(sys.argv):
        _require(foresee(results))
    _prepare_jobs(results)
    patches.apply()
    return results


def called_for(words: Sequence[str]) -> set[str] | None:
    """The rules that Snakemake is called for in a job on a cluster, by the Snakemake that has them all; None in the latter.

    Every job of a cluster reads the Snakefile, twice under Slurm: with thousands of rules that it does not need, this is most
    of what a small job does.
    """
    if "--mode" not in words or words[words.index("--mode") + 1] != "remote" or "--allowed-rules" not in words:
        return None
    return set(takewhile(lambda word: not word.startswith("--"), words[words.index("--allowed-rules") + 1 :]))


def rules(results: Results, only: Collection[str] | None = None) -> list[Rule]:
    """Every job of every stage that the recipe asks for, or those of these names."""
    jobs = [(stage, unit, shards) for stage in results.stages for unit, shards in results.jobs(stage)]
    return [_rule(results, *job) for job in jobs if only is None or _name(results, *job) in only]


def _name(results: Results, stage: str, unit: str, shards: list[int]) -> str:
    """A job is called as its stage where the stage has only this one."""
    whole = len(shards) == len(results.shards)
    return "_".join([stage, *([] if unit == "all" else [unit]), *([] if whole else [str(shards[0])])])


def _rule(results: Results, stage: str, unit: str, shards: list[int]) -> Rule:
    """One job."""
    whole = len(shards) == len(results.shards)
    command = [stage]
    command += [] if unit == "all" else ["--unit", unit]
    command += [] if whole else ["--shards", ",".join(map(str, shards))]
    outside = results.outside(stage, unit)
    return Rule(
        name=_name(results, stage, unit, shards),
        inputs=results.inputs(stage, unit, shards),
        outputs=results.outputs(stage, unit, shards),
        log=str(results.log(stage, unit, shards)),
        trigger=with_contents(results.trigger(stage, unit), outside, results.hashes),
        command=" ".join(command),
        needs=_needs(results, stage, unit),
        outside=tuple(outside),
    )


def _needs(results: Results, stage: str, unit: str) -> Needs:
    row, settings = results.stages[stage], results.settings
    gpus, models = row.devices(settings, unit), [ref for ref, _ in row.models(settings, unit)]
    return of_models(settings, models, gpus) if gpus else Needs()  # without one, a tokenizer at most is read


def share_devices(workflow: Any) -> None:
    """Let as many jobs that run a model work at once as this machine has devices, where it was told nothing else; without any,
    models run on processors, one thread each by default. A cluster's scheduler counts for itself."""
    if workflow.resource_settings.nodes is None and "gpu" not in workflow.global_resources:
        workflow.register_resource("gpu", devices.count() or processors())


def targets(results: Results, only: Collection[str] | None = None) -> dict[str, list[str]]:
    """What people may ask Snakemake for, less the training runs: `set`, `publish`, everything; a call for some rules (`only`)
    asks for none of these."""
    if only is not None:
        return {"set": [], "published": [], "everything": []}
    published = [str(results.path(places.RECEIPT))]
    reports = [
        str(results.path(places.SUMMARY)),
        str(results.path(places.PAGE)),
        *(f for name in ("judge_report", "curves") for unit in results.units(name) for f in results.outputs(name, unit)),
    ]
    sets = [f for unit in results.units("sets") if unit in ("preference", "unpaired") for f in results.outputs("sets", unit)]
    return {"set": sets, "published": published, "everything": published + reports}


def _prepare_jobs(results: Results) -> None:
    """What our jobs find in their environment: this Python, the settings, and whom they must not outlive."""
    os.environ["PREFDATA_PYTHON"] = sys.executable
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    os.environ["PREFDATA_SETTINGS"] = str(results.path(places.SETTINGS))
    os.environ[RUN_PID] = str(os.getpid())


def begin(results: Results, queued_as: str | None = None) -> None:
    """Before the first job: take the run's lock for Snakemake's life and write the settings the jobs read.

    The descriptor is not inherited, so an orphan job does not hold the run; jobs on this machine die with us
    (PREFDATA_RUN_PID), those that Slurm runs for us, all by the name `queued_as`, are cancelled by the next run.
    """
    _require(preflight(results))
    _started.append(time.time())
    results.root.mkdir(parents=True, exist_ok=True)
    try:
        _held.append(take_lock(results.path(places.WORKFLOW_LOCK), wait_s=0))
    except PrefdataError as error:
        sys.exit(f"error: another run is using this results folder: {error}")
    try:
        slurm.take_over(results.path(places.QUEUED_AS), queued_as)
    except PrefdataError as error:
        sys.exit(f"error: {error}")
    if queued_as is not None:  # its jobs call Snakemake by `python -m`, which must not take a user's own train.py for ours
        os.environ["PYTHONSAFEPATH"] = "1"
    os.environ.pop(warm.SOCKETS, None)  # of a workflow that this one is a job of
    warm.start(without_models(results), results.settings.threads, warm.DATA)
    warm.start(served(results), results.settings.threads)
    atomic.atomic_text(
        results.path(places.SETTINGS), json.dumps(results.settings.model_dump(mode="json"), indent=1, sort_keys=True)
    )


def is_dry(words: Sequence[str]) -> bool:
    """Whether Snakemake only says what it would run: then nothing of ours is called before its first job, for there is none."""
    return any(re.fullmatch(r"--dry-?run|-[Fkpq]*n[Fkpq]*", word) for word in words)


def _require(problems: list[str]) -> None:
    if problems:
        sys.exit("\n".join(f"error: {p}" for p in problems))


def served(results: Results) -> list[str]:
    """Commands that load a model or a tokenizer by transformers: training, and stages whose engines start no process."""
    return [*(name for name in results.stages if _loads(results, name)), *(["train"] if results.settings.runs else [])]


def without_models(results: Results) -> list[str]:
    """Stages of which no job runs a model, nor asks a server."""
    return [name for name, row in results.stages.items() if results.units(name) and not _engined(results, row)]


def _engined(results: Results, row: Stage) -> bool:
    settings = results.settings
    return any(row.models(settings, u) or row.engine(settings, u) is not None for u in results.units(row.name))


def _loads(results: Results, stage: str) -> bool:
    row, settings, units = results.stages[stage], results.settings, results.units(stage)
    others = [model for u in units if (model := row.engine(settings, u)) is not None and not model.facts.draws_by_key]
    return not others and any(row.models(settings, u) for u in units)


def preflight(results: Results) -> list[str]:
    """What would stop the run later and can be known now: files, model folders, a token, licences. One line each."""
    problems = []
    for source in results.settings.sources.sources:
        try:
            missing = [p for p in readers.files_of(source) if not p.exists()]
            problems += [f"{p}: no such file; correct sources.sources ({source.name}).path" for p in missing]
        except PrefdataError as error:
            problems.append(str(error))
    models = [r.model for r in results.settings.score.references]
    judged = [j.model for j in results.settings.judge if j.model]
    models += [m.id for m in [*results.settings.generate.models, *judged] if m.facts.runs_here(m)]
    for ref in dict.fromkeys(models):
        if not ref.startswith(("run:", "toy:")):
            try:
                require_place(results.model_path(ref))
            except PrefdataError as error:
                problems.append(str(error))
    return [*problems, *foresee(results), *gates.stated(results.settings)]


def foresee(results: Results) -> list[str]:
    """What would stop the push to the Hub; what need not, or was not checked, is told. A dry run asks it too."""
    if results.settings.publish.repo_id is None and not results.settings.publish.models:
        return []
    from prefdata.output.hub.hub_preflight import preflight as of_the_hub

    found = of_the_hub(results.settings)
    for line in found.notes:
        print(f"warning: {line}", file=sys.stderr)
    return found.problems


def failed(results: Results) -> None:
    """After a failure: the errors of the jobs again, as the last lines."""
    logs = [p for p in (results.root / "logs").rglob("*.log") if p.stat().st_mtime >= _started[-1]] if _started else []
    lines = [line for p in sorted(logs) for line in p.read_text(encoding="utf-8", errors="replace").splitlines()]
    for line in dict.fromkeys(line for line in lines if line.startswith("error: ")):
        print(line, file=sys.stderr)
    print("Nothing that is finished is lost: after mending it, the same command goes on from here.", file=sys.stderr)


def finish(results: Results) -> None:
    """After the last job: show the summary, where there is one."""
    summary = results.path(places.SUMMARY)
    if summary.exists() and "PREFDATA_NO_SUMMARY" not in os.environ:
        print(summary.read_text(encoding="utf-8"), file=sys.stderr)
