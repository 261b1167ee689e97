"""Which steps a run takes, on which rows and at which rate, where it continues another one or is a part of a longer one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prefdata.errors import ConfigError
from train.examples import Order
from train.plan import Plan
from train.settings import TrainingSettings

IDS = tuple(f"{i:016x}" for i in range(12))


def plan(order: Order, before: dict, whole: int | None = None, **run: object) -> Plan:
    return Plan.of(TrainingSettings.model_validate(run), order, before, whole)


def walked(made: Plan) -> list[tuple[int, list[int], float]]:
    """Epoch, members and rate of each step."""
    return [(made.epoch(s), made.members(s), made.learning_rate(s)) for s in range(made.first, made.last)]


def test_a_run_that_continues_on_the_same_data_goes_on_in_the_middle_of_an_epoch() -> None:
    """Not the same third again: what the first part left of its epoch comes first, then the next epoch."""
    order, constant = Order(IDS, 4, seed=0), {"optimizer": {"schedule": "constant"}}
    whole = plan(order, {"step": 0}, steps=7, **constant)
    first = plan(order, {"step": 0}, steps=2, **constant)
    second = plan(order, {"step": 2, **first.state()}, steps=2, **constant)
    third = plan(order, {"step": 4, **second.state()}, steps=3, **constant)
    assert walked(first) + walked(second) + walked(third) == walked(whole)


def test_a_run_that_continues_on_other_data_begins_its_order_and_a_new_visit() -> None:
    first = plan(Order(IDS, 4, seed=0), {"step": 0}, steps=4)
    order = Order(IDS[1:], 4, seed=0)
    second = plan(order, {"step": 4, **first.state()}, steps=3)
    assert [second.epoch(s) for s in range(4, 7)] == [2, 2, 2]  # the first one was in its second epoch
    assert sorted(i for s in range(4, 7) for i in second.members(s)) == list(range(11))
    assert second.members(4) == order.members(0, 2) != order.members(0)


@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 9), st.integers(1, 30))
def test_parts_are_the_whole_run_cut(total: int, parts: int, batch: int, rows: int) -> None:
    """Equal parts, to a step, of one schedule; each on its own data, whose order wraps where they are few."""
    if total < parts:
        with pytest.raises(ConfigError, match=f"{parts} parts of {total} steps; take fewer segments"):
            plan(Order(IDS, 4, 0), {"step": 0}, total, part={"number": 1, "of": parts})
        return
    optimizer = {"warmup_share": 0.2, "schedule": "cosine", "learning_rate": 1.0}
    whole = plan(Order(IDS, batch, 0), {"step": 0}, steps=total, optimizer=optimizer)
    state, rates, sizes = {"step": 0}, list[float](), list[int]()
    for number in range(1, parts + 1):
        order = Order(tuple(f"{number:08x}{i:08x}" for i in range(rows)), batch, 0)
        before = {"continue_from": "mcpo/before"} if number > 1 else {}
        part = plan(order, state, total, part={"number": number, "of": parts}, optimizer=optimizer, **before)
        taken = walked(part)
        rates += [rate for _, _, rate in taken]
        sizes.append(len(taken))
        assert part.rows == sum(len(members) for _, members, _ in taken)
        assert taken[0][0] == state.get("epochs", 0)
        state = {"step": part.last, **part.state()}
    assert rates == [whole.learning_rate(s) for s in range(total)]
    assert sum(sizes) == total
    assert max(sizes) - min(sizes) <= 1


def test_a_part_that_is_not_the_next_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="part 2 begins at step 3, what it continues from ended at 4"):
        plan(Order(IDS, 4, 0), {"step": 4}, 6, part={"number": 2, "of": 2}, continue_from="mcpo/before")
    with pytest.raises(ValidationError, match="part 2 goes on from part 1: give continue_from"):
        TrainingSettings.model_validate({"part": {"number": 2, "of": 2}})
