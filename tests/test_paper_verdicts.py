"""Verdicts on the papers' claims: pairing, the bootstrap against an enumeration of all its outcomes, coverage, words."""

import itertools
import math

import numpy as np
import paper_frames
import polars as pl
import pytest

from paper import bootstrap
from paper.bootstrap import Floats, interval, widening
from paper.claims import Claim
from paper.verdicts import FAILS, HOLDS, NOT_RUN, ONE_SEED, UNDECIDED, differences, verdict, verdicts
from prefdata.errors import DataError

FRAMES = paper_frames.frames(rows={"main": ["DPO", "KTO", "MC-PO"]}, seeds=(1, 2), prompts=20)
CLAIM = Claim("MC-PO over DPO", "here", "main", "MC-PO", "DPO", "reward")


def made(values: list[list[list[list[float]]]], shuffled: bool = False) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Frames of values[row][world seed][seed][prompt]; rows are DPO and MC-PO."""
    cells, outcomes, runs = [], [], []
    for row, of_row in zip(("DPO", "MC-PO"), values, strict=True):
        for world_seed, of_world in enumerate(of_row):
            for seed, of_seed in enumerate(of_world):
                key = {"recipe": f"w{world_seed}", "run": f"{row}/{seed}"}
                cells.append(
                    {"table": "main", "row": row, "world": "exact", "world_seed": world_seed, "seed": seed, **key, "rate": 1e-3}
                )
                outcomes += [{**key, "prompt_id": f"{world_seed}-{p}", "greedy": v, "reward": v} for p, v in enumerate(of_seed)]
                runs.append({**key, "accuracy": float(np.mean(of_seed)), "margin": 1.0})
    frames = [pl.DataFrame(f, infer_schema_length=None) for f in (cells, outcomes, runs)]
    a, b, c = (f.sample(fraction=1, shuffle=True, seed=3) if shuffled else f for f in frames)
    return a, b, c


def outcomes_of(values: list[Floats], factor: float) -> list[float]:
    """Every outcome of the hierarchical bootstrap, all as likely as each other: loops over what each slot may draw."""
    several = len(values) > 1
    slots = []
    for value in values:
        seeds, prompts = len(value), len(value[0])
        for s in itertools.product(range(seeds), repeat=seeds):
            for p in itertools.product(range(prompts), repeat=prompts):
                both = sum(value[i][j] for i in s for j in p) / (seeds * prompts)
                mean_of_seeds = sum(sum(value[i]) / prompts for i in s) / seeds
                slots.append((sum(map(sum, value)) / (seeds * prompts) if several else mean_of_seeds, both))
    centre = sum(sum(map(sum, v)) / (len(v) * len(v[0])) for v in values) / len(values)
    found = []
    for drawn in itertools.product(slots, repeat=len(values)):
        unit, both = (sum(d[i] for d in drawn) / len(drawn) for i in (0, 1))
        found.append(centre + factor * (unit - centre) + both - unit)
    return found


@pytest.mark.parametrize("shape", [(1, 3, 3), (1, 1, 4), (1, 4, 1), (2, 2, 2), (2, 1, 3), (4, 1, 1)])
def test_interval_against_every_outcome(shape: tuple[int, int, int]) -> None:
    """The ends are the 2.5 % and 97.5 % points of the exact distribution, up to the noise of 10,000 draws (4 of its errors)."""
    rng = np.random.default_rng(5)
    values = [rng.normal(size=shape[1:]) for _ in range(shape[0])]
    units = shape[0] if shape[0] > 1 else shape[1]
    exact = np.array(outcomes_of(values, math.sqrt(units / (units - 1)) * T[units - 1] / 1.959964 if units > 1 else 1.0))
    off = 4 * math.sqrt(0.025 * 0.975 / bootstrap.RESAMPLES)
    for end, level in zip(interval(values), (0.025, 0.975), strict=True):
        assert (exact < end - 1e-5).mean() <= level + off
        assert (exact <= end + 1e-5).mean() >= level - off


T = {1: 12.706205, 2: 4.302653, 3: 3.182446, 9: 2.262157}
"""The 97.5 % points of Student's t, from a printed table."""


@pytest.mark.parametrize("units", [2, 3, 4, 10])
def test_widening_is_the_root_times_t_over_z(units: int) -> None:
    assert widening(units) == pytest.approx(math.sqrt(units / (units - 1)) * T[units - 1] / 1.959964, rel=1e-6)
    assert widening(1) == 1


def experiment(rng: np.random.Generator, worlds: int, seeds: int, sd: tuple[float, float, float, float]) -> list[Floats]:
    """Normal differences of mean 0: sd between world seeds, training seeds, prompts, and what is left."""
    shape = (seeds, 50)
    return [
        rng.normal(0, sd[0]) + rng.normal(0, sd[1], (seeds, 1)) + rng.normal(0, sd[2], (1, 50)) + rng.normal(0, sd[3], shape)
        for _ in range(worlds)
    ]


@pytest.mark.parametrize(
    ("worlds", "seeds", "sd", "at_most"),
    [
        (1, 3, (0, 1, 0, 0), 0.98),  # seeds alone: nominal
        (3, 1, (1, 0, 0, 0), 0.98),  # world seeds alone: nominal
        (1, 3, (0, 0.05, 1, 0.3), 1.0),
        (3, 2, (0.1, 0.1, 1, 0.3), 1.0),  # noise of seeds and prompts is in the spread of the world seeds too: wide
    ],
)
def test_coverage(worlds: int, seeds: int, sd: tuple[float, float, float, float], at_most: float) -> None:
    """95 % intervals hold the true 0 in at least 95 % of 300 experiments, less three binomial standard errors (.038)."""
    rng = np.random.default_rng(11)
    ends = [interval(experiment(rng, worlds, seeds, sd)) for _ in range(300)]
    covered = sum(low <= 0 <= high for low, high in ends) / len(ends)
    assert 0.95 - 3 * math.sqrt(0.05 * 0.95 / len(ends)) <= covered <= at_most


def test_the_plain_percentile_interval_of_three_seeds_is_too_narrow() -> None:
    rng = np.random.default_rng(12)
    ends = [interval(experiment(rng, 1, 3, (0, 1, 0, 0)), factor=1.0) for _ in range(300)]
    assert sum(low <= 0 <= high for low, high in ends) / len(ends) < 0.82


def test_pairs_share_world_seed_seed_and_prompt() -> None:
    """What two runs have in common cancels: of any other pairing the interval would be wide."""
    rng = np.random.default_rng(1)
    worse = [[[float(rng.normal(0, 5)) for _ in range(9)] for _ in range(2)] for _ in range(3)]
    better = [[[v + 0.1 for v in s] for s in w] for w in worse]
    found = verdict(CLAIM, "exact", *made([worse, better], shuffled=True))
    assert (found.word, found.world_seeds, found.runs, found.prompts) == (HOLDS, 3, 6, 27)
    assert (found.effect, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1), abs=1e-9)


def test_world_seeds_count_alike() -> None:
    """One world seed with three pairs weighs as much as one with a single pair."""
    values = [[[[0.0, 0.0]] * 3, [[0.0, 0.0]]], [[[0.2, 0.4]] * 3, [[0.9, 0.9]]]]
    assert verdict(CLAIM, "exact", *made(values)).effect == pytest.approx((0.3 + 0.9) / 2)


@pytest.mark.parametrize("metric", ["greedy", "reward", "accuracy"])
def test_swapping_the_rows_flips_the_verdict(metric: str) -> None:
    other = Claim("DPO over MC-PO", "here", "main", "DPO", "MC-PO", metric)  # type: ignore[arg-type]
    claim = Claim("MC-PO over DPO", "here", "main", "MC-PO", "DPO", metric)  # type: ignore[arg-type]
    one, two = (verdict(c, "imperfect", *FRAMES[:3]) for c in (claim, other))
    assert one.effect is not None
    assert one.low is not None
    assert one.high is not None
    assert (two.effect, two.low, two.high) == pytest.approx((-one.effect, -one.high, -one.low), abs=1e-9)
    assert {one.word, two.word} in ({HOLDS, FAILS}, {UNDECIDED})


def test_a_constant_added_to_all_changes_nothing() -> None:
    cells, outcomes, runs, _ = FRAMES
    one = verdict(CLAIM, "exact", cells, outcomes, runs)
    two = verdict(CLAIM, "exact", cells, outcomes.with_columns(pl.col("reward") + 7), runs)
    assert (two.word, two.effect, two.low, two.high) == (
        one.word,
        *(pytest.approx(v, abs=1e-9) for v in (one.effect, one.low, one.high)),
    )


def test_identical_rows_are_undecided_with_effect_0() -> None:
    same = [[[0.1, 0.7, 0.4]] * 2] * 3
    found = verdict(CLAIM, "exact", *made([same, same]))
    assert (found.word, found.effect, found.low, found.high) == (UNDECIDED, 0, 0, 0)


def test_more_prompts_narrow_the_interval() -> None:
    rng = np.random.default_rng(2)
    widths = []
    for prompts in (25, 400):
        low, high = interval([rng.normal(0, 1, (3, prompts))])
        widths.append(high - low)
    assert widths[1] < widths[0] / 2.5


def test_an_interval_is_a_function_of_the_values() -> None:
    values = [np.random.default_rng(3).normal(size=(2, 30)) for _ in range(3)]
    first = interval(values)
    bootstrap.draws.cache_clear()
    assert interval(values) == first


def test_words() -> None:
    low, high = [[0.0, 0.1, 0.0]], [[0.9, 1.0, 0.95]]
    assert verdict(CLAIM, "exact", *made([[low] * 3, [high] * 3])).word == HOLDS
    assert verdict(CLAIM, "exact", *made([[high] * 3, [low] * 3])).word == FAILS
    one = verdict(CLAIM, "exact", *made([[low], [high]]))
    assert one.word == ONE_SEED
    assert one.low is not None
    assert one.low > 0  # only prompts are resampled, and no word is said for that


def test_one_run_without_prompts_has_an_effect_and_no_interval() -> None:
    claim = Claim("", "here", "main", "MC-PO", "DPO", "accuracy")
    found = verdict(claim, "exact", *made([[[[0.2]]], [[[0.5]]]]))
    assert (found.word, found.low, found.high, found.prompts) == (ONE_SEED, None, None, 0)
    assert found.effect == pytest.approx(0.3)


def test_what_is_missing_is_not_run() -> None:
    cells, outcomes, runs, _ = FRAMES
    assert verdict(CLAIM, "nowhere", cells, outcomes, runs).word == NOT_RUN
    left = cells.filter(pl.col("row") != "DPO")
    assert verdict(CLAIM, "exact", left, outcomes, runs).word == NOT_RUN
    assert verdict(CLAIM, "exact", cells, outcomes.clear(), runs).word == NOT_RUN
    alone = cells.filter((pl.col("row") != "DPO") | (pl.col("seed") == 1))
    assert verdict(CLAIM, "exact", alone, outcomes, runs).runs == 3


def test_a_prompt_without_a_value_is_left_out_of_its_world_seed() -> None:
    cells, outcomes, runs = made([[[[0.0, 0.0, 0.0]] * 2] * 2, [[[0.5, 0.5, 9.0]] * 2] * 2])
    only = outcomes.with_columns(
        pl.when((pl.col("prompt_id") == "0-2") & (pl.col("run") == "MC-PO/1"))
        .then(None)
        .otherwise(pl.col("reward"))
        .alias("reward")
    )
    assert [g.shape for g in differences(CLAIM, "exact", cells, only, runs)] == [(2, 2), (2, 3)]


def test_runs_of_other_prompts_are_an_error() -> None:
    cells, outcomes, runs = made([[[[0.1, 0.2]]], [[[0.3, 0.4]]]])
    with pytest.raises(DataError, match="other prompts"):
        verdict(CLAIM, "exact", cells, outcomes.filter((pl.col("prompt_id") != "0-1") | (pl.col("run") != "DPO/0")), runs)


def test_a_cell_twice_is_an_error() -> None:
    cells, outcomes, runs, _ = FRAMES
    with pytest.raises(DataError, match="twice"):
        verdict(CLAIM, "exact", pl.concat([cells, cells]), outcomes, runs)


def test_each_claim_has_a_verdict_a_world() -> None:
    found = verdicts([CLAIM, Claim("", "", "noise", "DPO", "DPO(-)", "greedy")], *FRAMES[:3])
    assert [(v.claim.table, v.world, v.word == NOT_RUN) for v in found] == [
        ("main", "exact", False),
        ("main", "imperfect", False),
        ("noise", "exact", True),
        ("noise", "imperfect", True),
    ]
