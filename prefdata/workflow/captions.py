"""What `snakemake --report` shows: every page, picture and table that people read, by category, with a caption in words."""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

CAPTIONS = Path(__file__).parent / "captions"
"""One file of reStructuredText a caption."""


@dataclass(frozen=True)
class Shown:
    """`files`: a pattern of paths in the results folder; `caption`: the name of its file in captions/."""

    files: str
    caption: str
    category: str


SHOWN = (
    Shown("report/quality.html", "quality_page", "The set"),
    Shown("report/quality.json", "quality", "The set"),
    Shown("report/report.json", "report", "The set"),
    Shown("report/length_ratio.png", "length_ratio", "The set"),
    Shown("report/reference_margin.png", "reference_margin", "The set"),
    Shown("report/agreement.png", "agreement", "The set"),
    Shown("report/wins.png", "wins", "The set"),
    Shown("report/drops.png", "drops", "The set"),
    Shown("report/judges/*.json", "judge", "Judges"),
    Shown("report/metrics.html", "metrics_page", "Training"),
    Shown("report/metrics.png", "metrics", "Training"),
    Shown("models/*/metrics.html", "run_page", "Training"),
    Shown("models/*/metrics.png", "run", "Training"),
    Shown("report/online/*.json", "online", "Training"),
    Shown("report/summary.txt", "summary", "Trained models"),
    Shown("report/evaluation.json", "evaluation", "Trained models"),
    Shown("report/win_rate.json", "win_rate", "Trained models"),
    Shown("report/harness/*.json", "harness", "Trained models"),
    Shown("report/answers/*.json", "answers", "Trained models"),
)


def shown(path: str, root: Path) -> Shown | None:
    """How an output is shown; None for one that is no report: a table, a model, a published file."""
    inside = PurePosixPath(path).relative_to(root.as_posix()).as_posix()
    return next((row for row in SHOWN if fnmatch(inside, row.files)), None)


def labels(path: str, root: Path) -> dict[str, str]:
    """What tells two files of one category apart in the report's list."""
    return {"file": PurePosixPath(path).relative_to(root.as_posix()).as_posix()}


def captioned(path: str, root: Path, report: Callable[..., Any]) -> Any:
    """The output, marked by Snakemake's `report` with its caption where `snakemake --report` shows it."""
    if (row := shown(path, root)) is None:
        return path
    return report(path, caption=str(CAPTIONS / f"{row.caption}.rst"), category=row.category, labels=labels(path, root))
