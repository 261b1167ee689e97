"""The papers in miniature: cells and recipes of every size, how rates are chosen, gradients of samplers against autograd."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from paper import cells as cells_
from paper import claims, gradient, outcomes
from paper.cells import Cell, Size, cells, frame
from paper.recipes import recipes
from prefdata.errors import ConfigError
from prefdata.models.loading import load_model
from prefdata.recipe.read import validate_recipe
from train.examples import Example
from train.objectives.compared import Compared
from train.objectives.losses import LOSSES
from train.resolve import validate
from train.settings import LossSettings, TrainingSettings

SIZES = [p.stem for p in cells_.CONFIG.glob("*.yaml") if "seeds" in p.read_text(encoding="utf-8")]


def planned(name: str) -> tuple[Size, list[Cell]]:
    size = Size.read(name)
    grid = cells(size)
    return size, [*grid, *cells(size, {(c.world, c.row): size.rates[-1] for c in grid})]


@pytest.mark.parametrize("name", SIZES)
def test_every_recipe_of_a_size_is_valid(name: str) -> None:
    size, every = planned(name)
    made = recipes(size, every)
    for recipe in made.values():
        validate(validate_recipe(recipe, recipe["name"]))
        held_out = any(
            str(r.get("references", {}).get("weights")).startswith("validation") for r in recipe["train"]["runs"].values()
        )
        assert not held_out or recipe["toy"]["validation"] > 0, "its weights are of validation prompts"
    known = frame(size, every)
    for recipe, run in known.select("recipe", "run").unique().iter_rows():
        assert run in made[recipe]["train"]["runs"]
        assert run in made[recipe]["evaluate"]["runs"], "what is not evaluated is in no table"


@pytest.mark.parametrize("name", SIZES)
def test_a_run_is_one_set_of_settings(name: str) -> None:
    """Two cells of one run have all alike: no name hides another learning rate or seed."""
    size, every = planned(name)
    seen: dict[tuple[str, str], Any] = {}
    for cell in every:
        what = (cell.rate, cell.seed, cell.objective, json.dumps(cell.settings, sort_keys=True), cell.online)
        assert seen.setdefault((cell.recipe(size), cell.run), what) == what


def test_models_are_made_before_the_recipes_that_take_them() -> None:
    size, every = planned("full")
    names = list(recipes(size, every))
    first_other = next(i for i, n in enumerate(names) if "-main-" not in n)
    assert all("-main-" in n for n in names[:first_other])
    assert not any("-main-" in n for n in names[first_other:])


def test_the_grid_is_alike_for_every_method() -> None:
    size = Size.read("paper")
    rates: dict[tuple[str, str], set[float]] = {}
    for cell in cells(size):
        rates.setdefault((cell.world, cell.row), set()).add(cell.rate)
    assert {frozenset(r) for r in rates.values()} == {frozenset(size.rates)}
    assert {row for _, row in rates} >= {"DPO", "MC-PO", "OnMC-PO", "SimPO"}


def test_a_row_takes_the_rate_chosen_for_its_own_world() -> None:
    size = Size.read("paper")
    rates = {(c.world, c.row): 1e-4 if c.world == "exact" else 1e-3 for c in cells(size)}
    assert all(c.rate == rates[c.world, "DPO"] for c in cells(size, rates) if c.row == "DPO(-)")


def test_more_seeds_are_of_the_named_rows_in_the_first_world_and_size_seeds_in_the_others() -> None:
    size, every = planned("full")
    seeds: dict[tuple[str, str, int], set[int]] = {}
    for cell in every:
        if cell.world == "exact" and cell.variant.name == "main":
            seeds.setdefault((cell.table, cell.row, cell.world_seed), set()).add(cell.seed)
    more, few = set(range(1, 11)), set(size.seeds)
    assert [seeds["main", "MC-PO", world] for world in (1, 2, 3)] == [more, few, few]
    assert seeds["epochs", "MC-PO, 2 epochs", 1] == more, "it is the same row"
    assert seeds["main", "NCA", 1] == seeds["noise", "MC-PO", 1] == few, "only a row of main has more"
    assert ("main", "NCA", 2) not in seeds
    assert ("noise", "MC-PO", 2) not in seeds


def test_of_equal_rates_the_least_is_chosen() -> None:
    made = object.__new__(outcomes.Outcomes)
    choice = next(f"p{i}" for i in range(99) if outcomes.of_choice(f"p{i}"))
    made.prompts = pl.DataFrame({"recipe": ["r"] * 2, "run": ["a", "b"], "prompt_id": [choice] * 2, "reward": [0.5] * 2})
    columns = {"row": ["DPO"] * 2, "world": ["w"] * 2, "recipe": ["r"] * 2, "run": ["a", "b"], "rate": [3e-4, 1e-4]}
    assert made.chosen_rates(pl.DataFrame(columns)) == {("w", "DPO"): 1e-4}


def test_unknown_rows_and_sizes_are_named() -> None:
    with pytest.raises(ConfigError, match="no size 'smal'.*did you mean 'small'"):
        Size.read("smal")
    with pytest.raises(ConfigError, match="table main has no row 'MCPO'.*'MC-PO'"):
        cells(Size("x", {"exact": [1]}, [1], [1e-3], {"main": ["MCPO"]}))


def test_rates_are_chosen_on_prompts_that_no_table_shows() -> None:
    ids = [f"p{i}" for i in range(300)]
    choice = [i for i in ids if outcomes.of_choice(i)]
    assert 60 < len(choice) < 140, "about a third"
    made = object.__new__(outcomes.Outcomes)
    # run a is the better one on the prompts of choice, b on all others
    made.prompts = pl.DataFrame(
        [("r", run, i, 1.0 if (run == "a") == (i in choice) else 0.0) for run in "ab" for i in ids],
        schema=["recipe", "run", "prompt_id", "reward"],
        orient="row",
    )
    own = pl.DataFrame(
        {
            "table": ["main"] * 2,
            "row": ["DPO"] * 2,
            "world": ["w"] * 2,
            "recipe": ["r"] * 2,
            "run": ["a", "b"],
            "rate": [3e-4, 1e-4],
        }
    )
    assert made.chosen_rates(own) == {("w", "DPO"): 3e-4}
    assert not set(made.shown()["prompt_id"]) & set(choice)


def test_accuracy_and_margin_are_of_prompts_that_tables_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of choice have a margin of -9, the others 1 and 3."""
    monkeypatch.chdir(tmp_path)
    ids = [f"p{i}" for i in range(60)]
    shown = [i for i in ids if not outcomes.of_choice(i)]
    margins = [-9.0 if i not in shown else 1.0 + 2.0 * (shown.index(i) % 2) for i in ids]
    found = {
        "prompt_id": ids,
        "exact": [1.0] * 60,
        "reward": [1.0] * 60,
        "foreign": [0.0] * 60,
        "length": [5.0] * 60,
        "kl": [0.0] * 60,
    }
    monkeypatch.setattr(outcomes.evaluation, "characters", lambda job: set())
    monkeypatch.setattr(outcomes.evaluation, "held_out_pairs", lambda job: None)
    monkeypatch.setattr(outcomes.evaluation, "outcomes", lambda *of: pl.DataFrame(found))
    ratios = pl.DataFrame({"prompt_id": ids, "chosen": [m / 2 for m in margins], "rejected": [-m / 2 for m in margins]})
    ratios = ratios.with_columns(margin=pl.col("chosen") - pl.col("rejected"))
    monkeypatch.setattr(outcomes.evaluation, "pair_log_ratios", lambda *of: ratios)
    recipe = yaml.safe_load((cells_.CONFIG / "exact.yaml").read_text()) | {"online": None}
    folder = tmp_path / "results" / recipe["name"]
    metrics = folder / "models" / "sft" / "policy" / "metrics.jsonl"
    for path in (folder / "report", metrics.parent):
        path.mkdir(parents=True)
    metrics.write_text(json.dumps({"step": 1, "tokens": 7, "loss": 0.5}) + "\n")
    facts = {"run": "sft/policy", "accuracy": [0.1, 0.0], "margin": [-5.0, 0.0], "redraw": None}
    (folder / "report" / "evaluation.json").write_text(json.dumps([facts]))
    (row,) = outcomes.Outcomes([recipe]).runs.to_dicts()
    known = [m for m in margins if m > 0]
    mean = sum(known) / len(known)
    assert (row["accuracy"], row["margin"]) == (1.0, pytest.approx(mean))
    assert (row["chosen_ratio"], row["rejected_ratio"]) == (pytest.approx(mean / 2), pytest.approx(-mean / 2))


# ---- gradients ----


@pytest.fixture(scope="module")
def model(lm: Path) -> Any:
    return load_model(str(lm))


EXAMPLE = Example(
    "p", [1, 2, 3], [[4, 5], [6], [7, 8, 9], [4, 6]], ["a", "b", "c", "d"], ["source"] * 4, [[-8.0, -4.5, -12.0, -9.0]], []
)
BETA = 0.7
RUN = TrainingSettings(loss=LossSettings(beta=BETA))


def loss_gradient(model: Any, place: int) -> np.ndarray:
    """By autograd through the trainer's own loss, one negative drawn."""
    (sums,) = gradient.grouped_logps(model, [EXAMPLE.prompt], [[EXAMPLE.completions[0], EXAMPLE.completions[place]]])
    stored = torch.tensor([EXAMPLE.logps[0]], dtype=torch.float64)
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    compared = Compared(
        sums[:1], sums[1:].view(1, 1), stored[:, :1, None], stored[:, place, None, None], one, one[0], one[0, 0], one[0]
    )
    (loss,) = LOSSES["softmax"].function(compared, LossSettings(beta=BETA)).values()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss.sum(), list(model.parameters()))]).double().numpy()


def test_expectation_and_variance_are_those_of_the_trainers_loss(model: Any) -> None:
    drawn = [loss_gradient(model, place) for place in (1, 2, 3)]
    logps, _ = gradient.candidate_gradients(model, EXAMPLE)
    r = BETA * (logps - np.array(EXAMPLE.logps[0]))
    whole = sum(p * d / s for p, d, s in zip(gradient._all_shares(r), drawn, gradient._sigmoid(r[1:] - r[0]), strict=True))
    chances = gradient.softmax(r[1:])
    mean = sum(c * d for c, d in zip(chances, drawn, strict=True))
    (found,) = gradient.compare(model, [EXAMPLE], RUN, {"kernel": gradient.kernel})
    assert found.bias == pytest.approx(((mean - whole) ** 2).sum() / (whole @ whole), rel=1e-5)
    spread = sum(c * ((d - mean) ** 2).sum() for c, d in zip(chances, drawn, strict=True))
    assert found.variance == pytest.approx(spread / (whole @ whole), rel=1e-5)
    assert found.cosine == pytest.approx(mean @ whole / np.sqrt((mean @ mean) * (whole @ whole)), rel=1e-6)


def test_the_whole_sum_is_the_gradient_of_the_loss_over_the_pool(model: Any) -> None:
    (sums,) = gradient.grouped_logps(model, [EXAMPLE.prompt], [EXAMPLE.completions])
    r = BETA * (sums - torch.tensor(EXAMPLE.logps[0], dtype=torch.float64))
    loss = torch.logsumexp(r, 0) - r[0]
    parameters = list(model.parameters())
    autograd = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]).double().numpy()
    logps, own = gradient.candidate_gradients(model, EXAMPLE)
    scores = BETA * (logps - np.array(EXAMPLE.logps[0]))
    # fp32 sums over tokens: a small entry may be the rest of terms as large as the largest, each rounded by half an eps of it
    atol = float(np.finfo(np.float32).eps * np.abs(own).max())
    np.testing.assert_allclose(BETA * gradient._all_shares(scores) @ (own[1:] - own[:1]), autograd, rtol=1e-4, atol=atol)


@settings(max_examples=50)
@given(r=st.lists(st.floats(-1000, 1000), min_size=1, max_size=6))
def test_chances_sum_to_one_and_one_candidate_is_certain(r: list[float]) -> None:
    scores = np.array(r)
    for chances in (gradient.uniform, gradient.kernel, gradient.largest, gradient.smallest, gradient.by_policy(0.1)):
        made = chances(scores, scores, 1e-3)
        assert made.sum() == pytest.approx(1)
        assert (made >= 0).all()
    assert gradient.largest(scores, scores, 0.0)[int(scores.argmax())] > 0


def test_every_row_that_the_claims_name_is_run_in_full_or_in_mrpo() -> None:
    made = pl.concat([frame(*planned(name)) for name in ("full", "mrpo")])
    assert claims.without_rows(claims.claims(), made) == []


def test_sizes_of_one_name_share_runs_and_have_reports_of_their_own() -> None:
    shared = [Size.read(name) for name in ("paper", "full", "mrpo")]
    assert {size.name for size in shared} == {"paper"}
    assert len({size.folder for size in shared}) == 3
    runs = [
        {(c.recipe(size), c.run, c.rate, c.seed) for c in planned(name)[1]}
        for name, size in zip(("paper", "full", "mrpo"), shared, strict=True)
    ]
    assert runs[0] <= runs[1]
    assert {made for made in runs[2] if "-main-" in made[0]} <= runs[1]
