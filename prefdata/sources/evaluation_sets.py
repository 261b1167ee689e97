"""The texts of evaluation sets: files of one's own, or known sets at pinned commits."""

from collections.abc import Iterator
from pathlib import Path

from prefdata.errors import ConfigError, DataError
from prefdata.sources import readers
from prefdata.sources.known_sets import KNOWN
from prefdata.sources.rows import Fields
from prefdata.sources.settings import EvaluationSetSettings


def texts(evaluation: EvaluationSetSettings) -> Iterator[tuple[str, str]]:
    """("file:row", text) of every row of an evaluation set. Raises ConfigError, DataError."""
    path, field = _place(evaluation)
    key = f"decontaminate.against ({evaluation.name})"
    for where, row in readers.from_file(path, f"{key}.path", arrays=True):
        value = Fields(row, {}, where, f"name the field of its texts in {key}.field").get(field, str, list)
        yield where, value if isinstance(value, str) else _joined(value, f"{where}:{field}")


def _joined(turns: list[object], at: str) -> str:
    """Turns as texts or as {content} objects."""
    listed = [t.get("content") if isinstance(t, dict) else t for t in turns]
    if not all(isinstance(t, str) for t in listed):
        raise DataError("turns must be texts or objects with a content", at, "name another field")
    return "\n".join(str(t) for t in listed)


def _place(evaluation: EvaluationSetSettings) -> tuple[Path, str]:
    if evaluation.path is not None:
        return Path(evaluation.path).expanduser(), evaluation.field or "prompt"
    known = KNOWN[evaluation.name]
    return _download(known.dataset, known.file, evaluation.revision or known.revision), evaluation.field or known.field


def _download(dataset: str, file: str, revision: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(dataset, file, repo_type="dataset", revision=revision))
    except Exception as error:  # the client raises a dozen kinds; each is about the file asked for
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ConfigError(
            f"cannot fetch {file} ({reason})", f"{dataset}@{revision}", "check the revision, or give path: of a local copy"
        ) from error
