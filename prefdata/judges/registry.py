"""JUDGES compare two answers, POINTWISE ones score each alone; both by the name that judge.judge gives."""

from collections.abc import Callable

from prefdata.judges import Judge, pairwise, pointwise, toy
from prefdata.judges.pointwise import Pointwise
from prefdata.run import Run
from prefdata.settings import JudgeSettings

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
