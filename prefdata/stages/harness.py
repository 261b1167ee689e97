"""Stage `harness`: tasks of lm-evaluation-harness (gsm8k, truthfulqa, ...) on a trained model, by its own HFLM."""

from pathlib import Path
from typing import Any

from prefdata.errors import ConfigError, did_you_mean
from prefdata.models.loading import device
from prefdata.recipe import places
from prefdata.recipe.job import Job
from prefdata.recipe.settings.training import HarnessSettings
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Stage, without
from prefdata.recipe.units import evaluated, evaluation_unit
from prefdata.stages.evaluate import encoding

Facts = dict[str, Any]


def run(job: Job) -> None:
    """Write report/harness/<unit>.json."""
    name = evaluated(job.settings, job.unit)
    settings = job.settings.harness
    assert settings is not None
    path = job.model_path(f"run:{name}")
    chat = encoding(job, path).template == "chat" if settings.chat is None else settings.chat
    job.write_json(places.harness(name), {"run": name, **facts(path, settings, chat, job.settings.seed)})


def facts(path: str, settings: HarnessSettings, chat: bool, seed: int) -> Facts:
    """Each task's metrics with standard errors, its version and its number of questions. Raises ConfigError."""
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ConfigError("lm-evaluation-harness is not installed", "harness", 'pip install "prefdata[harness]"') from error
    if settings.include is not None and not Path(settings.include).expanduser().is_dir():
        raise ConfigError("no such folder of tasks", settings.include, "correct harness.include")
    manager = TaskManager(include_path=settings.include and str(Path(settings.include).expanduser()))
    if unknown := [t for t in settings.tasks if t not in manager.all_tasks]:
        raise ConfigError(
            f"the harness has no task {unknown[0]}{did_you_mean(unknown[0], manager.all_tasks)}",
            "harness.tasks",
            "`lm-eval ls tasks` lists them; name your own folder of tasks under harness.include",
        )
    found = lm_eval.simple_evaluate(
        model=HFLM(path, dtype=settings.dtype, device=device(), batch_size=settings.batch_size),
        tasks=settings.tasks,
        num_fewshot=settings.fewshot,
        limit=settings.limit,
        apply_chat_template=chat,
        task_manager=manager,
        log_samples=False,
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
    )
    listed = {task: figures(metrics) for task, metrics in found["results"].items()}
    return {
        "harness": lm_eval.__version__,
        "chat": chat,
        "tasks": {t: {**f, "version": found["versions"].get(t), **_asked(found, t)} for t, f in listed.items()},
    }


def figures(metrics: Facts) -> Facts:
    """{"metrics": {"acc (none)": [value, standard error]}} of the harness's "acc,none" and "acc_stderr,none"."""
    made: dict[str, list[float | None]] = {}
    for key, value in metrics.items():
        name, comma, how = key.partition(",")
        if comma and not name.endswith("_stderr") and isinstance(value, int | float):
            error = metrics.get(f"{name}_stderr,{how}")
            made[f"{name} ({how})" if how != "none" else name] = [float(value), error if isinstance(error, float) else None]
    return {"metrics": made}


def _asked(found: Facts, task: str) -> Facts:
    counts = found.get("n-samples", {}).get(task, {})
    return {"n": counts.get("effective"), "fewshot": found.get("n-shot", {}).get(task)}


def _own_tasks(settings: Settings) -> list[Path]:
    """The user's task files, and the data that lie beside them."""
    if settings.harness is None or settings.harness.include is None:
        return []
    return sorted(
        p for p in Path(settings.harness.include).expanduser().rglob("*") if p.is_file() and "__pycache__" not in p.parts
    )


STAGE = Stage(
    name="harness",
    help="Run tasks of lm-evaluation-harness on a trained model.",
    version=1,
    run=run,
    per="run",
    units=lambda s: [evaluation_unit(r) for r in s.evaluated] if s.harness else [],
    reads_outside=lambda s, u: _own_tasks(s),
    writes_files=lambda s, u: [places.harness(evaluated(s, u))],
    slice=lambda s, u: {**without(s.harness, "batch_size"), "seed": s.seed} if s.harness else {},
    models=lambda s, u: [(f"run:{evaluated(s, u)}", None)],
    gpus=1,
)
