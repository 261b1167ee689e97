"""Online runs as a recipe: what they are made of, what is wrong with one, who answers which prompts."""

from collections import Counter
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recipes import ONLINE

from prefdata.errors import ConfigError
from prefdata.recipe.read import validate_recipe
from prefdata.recipe.results import Results
from prefdata.recipe.settings.online import Segment, segment_of
from prefdata.recipe.settings.segments import START, recipe_of
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.units import split_unit
from prefdata.stages.registry import STAGES
from train import rules
from train.resolve import resolve, validate


def online(run: dict[str, Any] | None = None, **keys: Any) -> Settings:
    """The recipe with other keys under `online`, and under mcpo/online."""
    recipe = deepcopy(ONLINE)
    recipe["online"] |= keys
    recipe["train"]["runs"]["mcpo/online"] |= run or {}
    return validate_recipe(recipe, "test")


def test_an_online_run_is_one_run_a_segment_and_the_last_has_its_name() -> None:
    settings = online()
    assert list(settings.runs) == [
        "sft/policy",
        "mcpo/online-1of3",
        "mcpo/online-2of3",
        "mcpo/online",
        "kto/online-1of2",
        "kto/online",
    ]
    assert settings.evaluated == ["sft/policy", "mcpo/online-1of3", "mcpo/online-2of3", "mcpo/online"]
    runs = validate(settings)
    first, second, last = (runs[name] for name in settings.evaluated[1:])
    assert (first.model, first.continue_from) == ("run:sft/policy", None)
    assert (second.model, second.continue_from) == ("run:mcpo/online-1of3", "mcpo/online-1of3")
    assert last.continue_from == "mcpo/online-2of3"
    assert [r.keep_optimizer for r in (first, second, last)] == [True, True, False]
    assert [(r.part.number, r.part.of, r.epochs) for r in (first, second, last)] == [(1, 3, 2), (2, 3, 2), (3, 3, 2)]
    assert {r.split for r in (first, second, last)} == {"train"}


def test_a_segment_is_a_recipe_whose_policy_is_what_the_segment_before_left() -> None:
    settings = online(overrides={2: {"temperatures": [1.5], "per_temperature": 7}})
    second = next(s for s in settings.segments if (s.run, s.number) == ("mcpo/online", 2))
    recipe = recipe_of(settings, second)
    (model,) = recipe.generate.models
    assert (model.id, recipe.generate.temperatures, recipe.generate.per_temperature) == ("run:mcpo/online-1of3", [1.5], 7)
    assert (recipe.sets.method, recipe.sets.splits, recipe.noise.copies) == ("exact", ["train"], 0)
    assert recipe.segment == second
    assert settings.segment is None
    assert split_unit(settings, f"{second.name}.preference")[1] == "preference"
    third = recipe_of(settings, Segment("mcpo/online", 3, 3, "run:mcpo/online-2of3"))
    assert third.generate.temperatures == [0.8, 1.2]


@pytest.mark.parametrize(("reference", "primary"), [("initial", "policy"), ("segment", START)])
def test_the_reference_is_the_first_policy_or_the_segments_start(reference: str, primary: str) -> None:
    settings = online(reference=reference)
    for segment in settings.segments:
        (own,) = recipe_of(settings, segment).score.references
        wanted = "run:sft/policy" if reference == "initial" else segment.start
        assert (own.name, own.model) == (primary, wanted)
        assert primary in rules.trigger(Results(settings, STAGES), segment.model)


def test_a_list_of_seeds_is_an_online_run_each() -> None:
    settings = online({"seed": [4, 5]}, runs=["mcpo/online"], segments=2)
    online_runs = {s.run for s in settings.segments}
    assert online_runs == {"mcpo/online-s4", "mcpo/online-s5"}
    assert "mcpo/online-s5-1of2" in settings.runs
    assert resolve(settings, "mcpo/online-s4-1of2").seed == 4
    units = [u for u in STAGES["sets"].units(settings) if "." in u]
    assert len(set(units)) == 4


@pytest.mark.parametrize(
    ("run", "keys", "said"),
    [
        ({}, {"runs": ["mcpo/onlin"]}, "online.runs: train.runs has no run mcpo/onlin .did you mean 'mcpo/online'"),
        ({"lora": {}}, {}, "adapters are merged when a part ends and cannot go on in the next: leave lora out"),
        ({"init": {"tokenizer": "toy:small"}}, {}, "a fresh model cannot answer prompts"),
        ({"set": "sft"}, {}, "mcpo/online: set is set by online itself: leave it out"),
        ({"continue_from": "sft/policy"}, {}, "continue_from is set by online itself"),
        ({"negatives": {"origins": ["noise"]}}, {}, "a segment has generated candidates only"),
        ({"negatives": {"origins": ["source"]}}, {}, "a segment has generated candidates only"),
        ({"model": "run:mcpo/online-2of3"}, {}, "it cannot start from itself, nor be its own reference"),
        ({"steps": 2, "epochs": None}, {}, "mcpo/online: 3 segments of 2 steps: take fewer segments or more steps"),
        ({}, {"judge": "exakt"}, "online.judge: 'exakt' is no judge's name"),
        ({}, {"judge": None}, "online.judge: 'source' is no judge's name: answers of the checkpoint must be ranked"),
        ({}, {"overrides": {4: {"temperatures": [1]}}}, "there is no segment 4, they are numbered 1 to 3"),
        ({}, {"overrides": {2: {"temprature": [1]}}}, "temprature: unknown key"),
        ({}, {"overrides": {2: {"judge": "none"}}}, "online.overrides.2.judge: 'none' is no judge's name"),
        ({}, {"server": {"url": "http://x/v1"}}, "give a command that starts it"),
        ({}, {"runs": {"mcpo/online": 0}}, "greater than or equal to 1"),
    ],
)
def test_what_is_wrong_is_said_before_the_run(run: dict[str, Any], keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        online(run, **keys)


def test_negatives_that_are_no_mapping_are_left_to_the_trainer() -> None:
    with pytest.raises(ConfigError, match="train.runs.mcpo/online"):
        validate(online({"negatives": None}))


def test_runs_that_are_named_twice_are_evaluated_once() -> None:
    recipe = deepcopy(ONLINE)
    recipe["evaluate"]["runs"] = ["mcpo/online", "mcpo/online"]
    assert validate_recipe(recipe, "test").evaluated == ["mcpo/online-1of3", "mcpo/online-2of3", "mcpo/online"]


def test_a_judge_of_no_training_prompts_is_refused() -> None:
    recipe = deepcopy(ONLINE)
    recipe["judge"][0]["splits"] = ["test"]
    with pytest.raises(ConfigError, match="online.judge: exact judges no training prompts: its splits must have train"):
        validate_recipe(recipe, "test")


def test_a_run_called_as_a_part_is_refused() -> None:
    recipe = deepcopy(ONLINE)
    recipe["train"]["runs"]["mcpo/online-1of3"] = {"steps": 1}
    with pytest.raises(
        ConfigError, match="mcpo/online-1of3 is the name of a part of mcpo/online: call the other run otherwise"
    ):
        validate_recipe(recipe, "test")


@given(
    st.lists(st.integers(0, 2**64 - 1).map(lambda i: f"{i:016x}"), unique=True, max_size=60),
    st.integers(1, 9),
    st.integers(0, 5),
)
def test_every_prompt_has_one_segment_whatever_the_others_are(ids: list[str], count: int, seed: int) -> None:
    numbers = [segment_of(i, count, seed) for i in ids]
    assert all(1 <= n <= count for n in numbers)
    assert numbers == [segment_of(i, count, seed) for i in ids]


def test_segments_are_about_equal_and_another_seed_cuts_otherwise() -> None:
    ids = [f"{i:016x}" for i in range(6000)]
    one, other = ([segment_of(i, 3, seed) for i in ids] for seed in (0, 1))
    # counts are binomial: sd = sqrt(6000 * 2 / 9) = 36.5, five of them
    assert all(abs(n - 2000) < 183 for n in Counter(one).values())
    assert abs(sum(a == b for a, b in zip(one, other, strict=True)) - 2000) < 183


def test_names_of_segments_hold_their_number_and_count() -> None:
    names = {Segment("mcpo/online", n, c, "x").name for c in (2, 3) for n in range(1, c + 1)}
    assert len(names) == 5
    assert len({Segment(run, 1, 2, "x").name for run in ("a/b-c", "a/b", "a/b_c")}) == 3
