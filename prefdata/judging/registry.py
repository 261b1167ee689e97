"""JUDGES compare two answers, POINTWISE ones score each alone; both by the name that judge.judge gives."""

from collections.abc import Callable

from prefdata.judging import pairwise, pointwise, toy
from prefdata.judging.judge import Judge
from prefdata.judging.pointwise import Pointwise
from prefdata.recipe.job import Run
from prefdata.recipe.settings import JudgeSettings

JUDGES: dict[str, Callable[[Run, JudgeSettings], Judge]] = {
    "exact": toy.exact,
    "noisy": toy.noisy,
    "pairwise": pairwise.pairwise,
}
POINTWISE: dict[str, Callable[[Run, JudgeSettings], Pointwise]] = {
    "likelihood": pointwise.likelihood,
    "reward": pointwise.reward,
    "verifier": pointwise.verifier,
}
