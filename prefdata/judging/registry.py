"""JUDGES compare two answers, POINTWISE ones score each alone; both by the name that judge.judge gives."""

from collections.abc import Callable

from prefdata.judging import exact, pairwise, pointwise
from prefdata.judging.judge import Judge
from prefdata.judging.pointwise import Pointwise
from prefdata.recipe.results import Run
from prefdata.recipe.settings.judging import JudgeSettings

JUDGES: dict[str, Callable[[Run, JudgeSettings], Judge]] = {
    "exact": exact.exact,
    "noisy": exact.noisy,
    "pairwise": pairwise.pairwise,
}
POINTWISE: dict[str, Callable[[Run, JudgeSettings], Pointwise]] = {
    "likelihood": pointwise.likelihood,
    "reward": pointwise.reward,
    "verifier": pointwise.verifier,
}
