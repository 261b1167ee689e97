"""What a results folder holds beside tables, models and logs: paths in it."""

from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.units import evaluation_unit

SETTINGS = "settings.json"
"""The settings that the jobs of a workflow read."""
WORKFLOW_LOCK = ".run"
QUEUED_AS = ".slurm"
"""The name of a run's jobs in Slurm's queue."""
TOY_SOURCE = "toy/source.jsonl"
"""The embedded world's rows, which a source names `toy:`."""
TOY_TOKENIZERS = ("letters", "pairs", "small", "large")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
REPORT = "report/report.json"
QUALITY = "report/quality.json"
QUALITY_PAGE = "report/quality.html"
EVALUATION = "report/evaluation.json"
SUMMARY = "report/summary.txt"
METRICS_PAGE = "report/metrics.html"
"""Of all training runs."""
METRICS_CHART = "report/metrics.png"
WIN_RATES = "report/win_rate.json"
CARD = "publish/card.md"
PAGE = "publish/explore.html"
"""Beside the published folder: it is pushed where it is asked for."""
RECEIPT = "publish/receipt.json"


def model_receipt(repo_id: str) -> str:
    """Where a trained model was published."""
    return f"publish/models/{repo_id}.json"


def toy_tokenizer(name: str) -> str:
    """The folder of one of the embedded world's tokenizers."""
    return f"toy/tokenizers/{name}"


def published(settings: Settings) -> str:
    """The folder of the published set; `datasets` calls a set by its folder's name."""
    return publish_of(settings.name)


def publish_of(recipe: str) -> str:
    """`published` of the recipe of this name."""
    return f"publish/{recipe}"


def chart(name: str) -> str:
    """One chart of the quality report."""
    return f"report/{name}.png"


def judge_report(unit: str) -> str:
    """What is known of one judge."""
    return f"report/judges/{unit}.json"


def online(segment: str) -> str:
    """What is known of one segment of an online run."""
    return f"report/online/{segment}.json"


def metrics(run: str) -> str:
    """Of a training run, one line a step."""
    return f"models/{run}/metrics.jsonl"


def receipt(run: str) -> str:
    """What a training run was asked for and what it wrote."""
    return f"models/{run}/train.json"


def harness(run: str) -> str:
    """What lm-evaluation-harness found for a training run."""
    return f"report/harness/{evaluation_unit(run)}.json"


def answers(run: str) -> str:
    """The greedy answers of a training run, as an AlpacaEval file."""
    return f"report/answers/{evaluation_unit(run)}.json"


def win_rate_files(settings: Settings) -> list[str]:
    """What comparing the trained models leaves; nothing where no judge compares them."""
    if settings.evaluate.judge is None:
        return []
    return [WIN_RATES, *map(answers, settings.evaluated)]
