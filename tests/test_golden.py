"""No change moves a training run without being noticed."""

import json

import pytest
from golden import PATH, STEPS, trajectory

from train.objectives.registry import OBJECTIVES

GOLDEN = json.loads(PATH.read_text())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_twenty_steps_are_those_on_record(name: str) -> None:
    """fp64: 20 steps of Adam let rounding grow from 1e-16 to about 1e-12, other processors' included; 1e-7 is neither."""
    assert len(GOLDEN[name]) == STEPS
    assert trajectory(name) == pytest.approx(GOLDEN[name], rel=1e-7)
    assert len(set(GOLDEN[name])) == STEPS


def test_nothing_is_on_record_that_is_no_objective() -> None:
    assert set(GOLDEN) == set(OBJECTIVES)
