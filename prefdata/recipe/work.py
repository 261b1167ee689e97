"""What a recipe asks of models, in tokens: how many prompts and answers there are, before anything is run.

Nothing is known yet of duplicates, overlaps and answers that fail: counts are upper bounds, times the share that is said to
be kept.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prefdata.errors import ConfigError
from prefdata.recipe.settings.whole import Settings
from prefdata.sources import readers
from prefdata.sources.settings import SourceSettings

NOISE, GENERATED, SOURCE = "noise", "generated", "source"


@dataclass(frozen=True)
class Lengths:
    """Mean lengths in tokens: of a prompt, an answer, a judge's instructions, and the reply of one that writes."""

    prompt: float
    completion: float
    rubric: float
    verdict: float

    def shared(self, answers: float) -> float:
        """Tokens of a prompt that is read once for all of its answers."""
        return self.prompt + answers * self.completion


@dataclass(frozen=True)
class Size:
    """Of a data set: prompts of the split that is read, answers a prompt."""

    prompts: float
    answers: float


@dataclass(frozen=True)
class Extent:
    """What is assumed of a recipe's data. `sizes`: of data sets on the Hub, by "owner/name:split"; `prompts` and `answers`,
    where given, stand for all sources together; `kept`: the share of prompts that duplicates and overlaps leave."""

    lengths: Lengths
    sizes: Mapping[str, Size] = field(default_factory=dict)
    prompts: float | None = None
    answers: float | None = None
    kept: float = 1.0


@dataclass(frozen=True)
class Phase:
    """Tokens that one kind of pass computes. `rate` names the pass, `flops` are those a parameter and token, `model` is what
    computes them. Of a server elsewhere they are bought, `bought` says which way (in or out), at `price` a million, where the
    recipe has one."""

    rate: str
    tokens: float
    model: str
    flops: float = 2.0
    dtype: str = "bfloat16"
    bought: str | None = None
    price: float = 0.0


@dataclass(frozen=True)
class Work:
    """What one unit of a stage needs: `count` of `what`, for people, and the passes that it takes."""

    stage: str
    unit: str
    count: float
    what: str
    phases: tuple[Phase, ...]


OfTraining = Callable[[Settings, Extent], tuple[list[Work], dict[str, str]]]
"""The work of a recipe's training runs, and the model that each of them starts from."""


def prompts(settings: Settings, extent: Extent, splits: Sequence[str]) -> float:
    """Prompts of these splits, of a segment its part. Raises ConfigError where a source's size is not known."""
    part = 1 / settings.segment.count if settings.segment else 1.0
    return part * extent.kept * sum(n * _share(settings, s, splits) for s, n in _counted(settings, extent))


def source_answers(settings: Settings, extent: Extent) -> float:
    """Answers a prompt that the sources bring, less the ranks that are pruned. Raises ConfigError where that is not known."""
    answered = [s for s in settings.sources.sources if not s.prompts_only]
    if not answered or settings.segment is not None:
        return 0.0
    if extent.answers is not None:
        return max(extent.answers - _pruned(settings, extent.answers), 0.0)
    sizes = [(s, _known(extent, s)) for s in answered]
    total = sum(s.weight * size.prompts for s, size in sizes)
    return sum(s.weight * size.prompts * (size.answers - _pruned(settings, size.answers)) for s, size in sizes) / total


def candidates(settings: Settings, extent: Extent, method: str) -> dict[str, float]:
    """Candidates a prompt that a ranking is about, by origin: the source's own order knows source answers only."""
    made = {SOURCE: source_answers(settings, extent), NOISE: 0.0 if settings.segment else float(settings.noise.copies)}
    return {**made, GENERATED: 0.0 if method == SOURCE else generated(settings)}


def generated(settings: Settings) -> float:
    """Answers a prompt that the recipe's models give."""
    own = settings.generate
    return float(len(own.models) * len(own.temperatures) * own.per_temperature)


def _pruned(settings: Settings, answers: float) -> int:
    return sum(rank <= answers for rank in settings.prune.drop_ranks)


def _share(settings: Settings, source: SourceSettings | None, splits: Sequence[str]) -> float:
    if source is not None and source.split is not None:
        return float(source.split in splits)
    return float(sum(getattr(settings.split, name) for name in splits))


def _counted(settings: Settings, extent: Extent) -> list[tuple[SourceSettings | None, float]]:
    """(source, its prompts); the number that was given for all, of no source."""
    if extent.prompts is not None:
        return [(None, extent.prompts)]
    return [(s, s.weight * _known(extent, s).prompts) for s in settings.sources.sources]


def _known(extent: Extent, source: SourceSettings) -> Size:
    """Of a source: a known data set's, or the rows of local files. Raises ConfigError."""
    at, give = f"sources.sources ({source.name})", "give --prompts and, if it has answers, --answers"
    if source.dataset is not None:
        key = f"{source.dataset}:{source.hub_split}"
        if key not in extent.sizes:
            raise ConfigError(f"the size of {key} is not known", at, give)
        return extent.sizes[key]
    files = readers.files_of(source)
    if not files or not all(p.is_file() for p in files):
        raise ConfigError("how many prompts it has is not known before its files are there", at, give)
    if not source.prompts_only and extent.answers is None:
        raise ConfigError("how many answers a prompt has is not known", at, "give --answers")
    return Size(sum(map(_rows, files)), extent.answers or 0)


def _rows(path: Path) -> int:
    """Rows of a local file: of Parquet as its footer says, else lines."""
    if path.suffix == ".parquet":
        from pyarrow.parquet import read_metadata

        return int(read_metadata(path).num_rows)
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())
