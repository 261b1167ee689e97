"""What the Snakefile needs of prefdata: validated settings, the run's lock, its jobs' environment."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefdata.errors import PrefdataError
from prefdata.models.identity import require_place
from prefdata.progress import RUN_PID
from prefdata.recipe.read import validate_recipe
from prefdata.recipe.results import Run
from prefdata.recipe.settings.whole import Settings
from prefdata.sources import readers
from prefdata.stages import judge_report, report, win_rate
from prefdata.stages.toy import source_path
from prefdata.tables import atomic
from prefdata.tables.locks import take_lock

_held: list[int] = []
_started: list[float] = []


def load(config: dict[str, Any], validate_training: Callable[[Settings], object]) -> Run:
    """Validate the merged configuration, training runs included; all mistakes are printed and nothing is run."""
    try:
        settings = validate_recipe(dict(config), "settings")
        validate_training(settings)
    except PrefdataError as error:
        sys.exit(f"error: {error}")
    run = Run(settings)
    if taken := [p for p in (run.root, *run.root.parents) if p.exists() and not p.is_dir()]:
        sys.exit(f"error: {taken[0]}: a file, where the results go; move it, or give the recipe another name")
    _prepare_jobs(run)
    _keep_outputs()
    return run


def _keep_outputs() -> None:
    """Let Snakemake neither remove nor copy what a job is about to replace, and forget nothing when the job fails.

    Every file of ours appears whole or not at all, so what a failed job leaves is the last good output. `update()` in the
    Snakefile says that outputs are not removed first; the copies it makes are for jobs that write in place. Snakemake
    records a failed job's settings and inputs as those of the files that were there before: the next run would then find
    nothing to do. Here the records stay what the files were made with.
    """
    from snakemake.persistence import FileBackupMixin, PersistenceBase

    failed: set[Path] = set()
    finished = PersistenceBase.finished

    def restore(self: Any, path: Path) -> bool:
        failed.add(path)  # it is asked for outputs of failed jobs only
        return path.exists()

    async def finish_or_forget(self: Any, job: Any) -> None:
        if failed.isdisjoint(map(Path, job.output)):
            await finished(self, job)
            return
        for output in job.output:
            self._unmark_incomplete(self._get_key(output))

    FileBackupMixin.backup_output = lambda self, path: None
    FileBackupMixin.restore_output = restore
    FileBackupMixin.cleanup_backup = lambda self, path: failed.discard(path)  # a later try may succeed
    PersistenceBase.finished = finish_or_forget


def _prepare_jobs(run: Run) -> None:
    """What our jobs find in their environment: this Python's programs, the settings, and whom they must not outlive."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    os.environ["PREFDATA_SETTINGS"] = str(settings_path(run))
    os.environ[RUN_PID] = str(os.getpid())


def begin(run: Run) -> None:
    """Before the first job: take the run's lock for Snakemake's life and write the settings the jobs read.

    The descriptor is not inherited, so an orphan job does not hold the run; jobs die with us (PREFDATA_RUN_PID).
    """
    if problems := preflight(run):
        sys.exit("\n".join(f"error: {p}" for p in problems))
    _started.append(time.time())
    run.root.mkdir(parents=True, exist_ok=True)
    try:
        _held.append(take_lock(run.root / ".run", wait_s=0))
    except PrefdataError as error:
        sys.exit(f"error: another run works here: {error}")
    atomic.atomic_text(settings_path(run), json.dumps(run.settings.model_dump(mode="json"), indent=1, sort_keys=True))


def preflight(run: Run) -> list[str]:
    """What would stop the run later and can be known now: files, model folders, a token. One line each."""
    problems, toy = [], source_path(run.root)
    for source in run.settings.sources.sources:
        try:
            given = [p for p in readers.files_of(source, toy) if p != toy]
            missing = [p for p in given if not p.exists()]
            problems += [f"{p}: no such file; correct sources.sources ({source.name}).path" for p in missing]
        except PrefdataError as error:
            problems.append(str(error))
    models = [r.model for r in run.settings.score.references]
    judged = [j.model for j in run.settings.judge if j.model]
    models += [m.model for m in [*run.settings.generate.models, *judged] if m.server is None or m.server.command]
    for ref in dict.fromkeys(models):
        if not ref.startswith(("run:", "toy:")):
            try:
                require_place(run.model_path(ref))
            except PrefdataError as error:
                problems.append(str(error))
    if run.settings.publish.repo_id is not None and not has_token():
        problems.append(f"{run.settings.publish.repo_id}: no token to publish with; set HF_TOKEN, or leave publish.repo_id out")
    return problems


def has_token() -> bool:
    """Whether the Hub's client would find a token."""
    from huggingface_hub import get_token

    return get_token() is not None


def failed(run: Run) -> None:
    """After a failure: the errors of the jobs again, as the last lines."""
    logs = [p for p in (run.root / "logs").rglob("*.log") if p.stat().st_mtime >= _started[-1]] if _started else []
    lines = [line for p in sorted(logs) for line in p.read_text(encoding="utf-8", errors="replace").splitlines()]
    for line in dict.fromkeys(line for line in lines if line.startswith("error: ")):
        print(line, file=sys.stderr)


def finish(run: Run) -> None:
    """After the last job: show the summary, where there is one."""
    summary = run.root / "report" / "summary.txt"
    if summary.exists() and "PREFDATA_NO_SUMMARY" not in os.environ:
        print(summary.read_text(encoding="utf-8"), file=sys.stderr)


def settings_path(run: Run) -> Path:
    return run.root / "settings.json"


def toy_files(run: Run) -> list[str]:
    """What the toy stage makes."""
    made = [source_path(run.root)]
    for name in ("small", "large"):
        made += [run.root / "toy" / "tokenizers" / name / f for f in ("tokenizer.json", "tokenizer_config.json")]
    return [str(p) for p in made]


def source_files(run: Run) -> list[str]:
    """Local files of the sources; a missing one is reported by the stage itself, with what to do."""
    found: list[Path] = []
    for source in run.settings.sources.sources:
        with contextlib.suppress(PrefdataError):
            found += readers.files_of(source, source_path(run.root))
    return [str(p) for p in found if p == source_path(run.root) or p.is_file()]


def evaluation_files(run: Run) -> list[str]:
    """Local files of the evaluation sets that training prompts are compared with."""
    against = run.settings.decontaminate.against if run.settings.decontaminate else []
    return [str(p) for e in against if e.path and (p := Path(e.path).expanduser()).is_file()]


def judge_report_files(run: Run) -> list[str]:
    """What the judge_report stage writes, of every judge."""
    return judge_report.outputs(run)


def judge_report_file(run: Run, unit: str) -> str:
    return str(judge_report.path(run, unit))


def win_rate_files(run: Run) -> list[str]:
    """What the win_rate stage writes, where the recipe asks for it."""
    return win_rate.files_of(run)


def report_files(run: Run) -> list[str]:
    """What the report stage writes."""
    return report.outputs(run)
