"""Keys of the sections loss, negatives and references: what an objective declares to read has an effect, all else has none and
is refused."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from test_objectives import recipe_of
from test_train import example
from typer.testing import CliRunner

from prefdata.errors import ConfigError
from prefdata.workflow.cli import app
from train.examples import Example
from train.metrics import Metrics
from train.mistakes import SECTIONS, mistakes
from train.mistakes import given as given_keys
from train.objectives.keys import read_of
from train.objectives.losses import LOSSES
from train.objectives.negatives import NEGATIVES
from train.objectives.reference_weights import VALIDATION_WEIGHTS, alpha
from train.objectives.registry import OBJECTIVES, ON_LABELS, Objective
from train.online_weights import OnlineWeights
from train.resolve import resolve
from train.settings import UNPAIRED, TrainingSettings, with_defaults
from train.step import Step

ROWS = {**OBJECTIVES, **{f"{name} on labels": row for name, row in ON_LABELS.items()}}
VALUES: dict[str, list[Any]] = {
    "loss.beta": [0.1, 0.7, 3.0],
    "loss.label_smoothing": [0.001, 0.1, 0.3],
    "loss.margin": [0.0, 0.5, 2.0],
    "loss.nll_weight": [0.0, 1.0, 2.5],
    "loss.temperature": [0.3, 1.0, 4.0],
    "loss.desirable_weight": [0.5, 1.0, 3.0],
    "loss.undesirable_weight": [0.5, 1.0, 3.0],
    "negatives.origins": [["source"], ["source", "generated"], ["source", "noise"]],
    "negatives.count": [1, 2, 3],
    "negatives.weight": ["ratio", "policy", "policy_per_token"],
    "negatives.beta": [None, 0.01, 5.0],
    "negatives.replacement": [False, True],
    "negatives.steps": [1, 2, 5],
    "negatives.proposals": [None, 1, 2],
    "negatives.include_chosen": [False, True],
    "negatives.redraw": ["never", "epoch"],
    "references.eps_max": [0.0, 0.1, 0.5],
    "references.adaptive_eps": [True, False],
    "references.alpha": [None, [3.0, 1.0], [1.0, 2.0]],
    "references.weights": ["per_example", "validation_discrimination", "validation_accuracy", "sliding_window", "thompson"],
    "references.window": [1, 2, 256],
    "references.weight_order": ["paper", "repo"],
}
DEFAULTS = TrainingSettings()
Keys = dict[str, Any]


def test_the_values_below_are_of_every_key() -> None:
    assert set(VALUES) == {f"{s}.{k}" for s in SECTIONS for k in type(getattr(DEFAULTS, s)).model_fields}


def made(keys: Keys) -> TrainingSettings:
    """Raises ValidationError for keys that exclude each other."""
    sections: dict[str, Keys] = {s: {} for s in SECTIONS}
    for name, value in keys.items():
        section, _, key = name.partition(".")
        sections[section][key] = value
    return TrainingSettings.model_validate(sections)


@cache
def data(labelled: bool) -> list[Example]:
    """Pools of three origins, two references, labels, and the policy's log-probs as a third row of `logps` (see `Table`)."""
    rng, found = np.random.default_rng(0), []
    for number in range(4):
        e = example(number, 5)
        size = len(e.completions)
        origins = ["source", *(["source", "generated", "noise"] * 2)[: size - 1]]
        # references that disagree, far enough apart to be clipped
        logps = [(-9.0 * rng.random(size) - 1 - 3 * k).tolist() for k in range(2)]
        found.append(replace(e, origins=origins, logps=logps))
    return [replace(e, desirable=i % 2 == 0) for i, e in enumerate(found)] if labelled else found


class Table:
    """A forward whose log-probs are numbers of the candidate's id; of one prompt the primary reference's, as at a start."""

    def __init__(self, batch: list[Example]) -> None:
        self.sums = [np.array([-1.0 - int(c[:6], 16) % 977 / 60 for c in e.candidate_ids]) for e in batch]
        self.sums[-1] = np.array(batch[-1].logps[0])

    def weighed(self, first: int) -> list[np.ndarray]:
        return [s[first:] for s in self.sums]

    def trained(self, places: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(map(len, places), default=0)
        rows = [[*s[p], *[0.0] * (width - len(p))] for s, p in zip(self.sums, places, strict=True)]
        return torch.tensor([s[0] for s in self.sums]), torch.tensor(rows, dtype=torch.float64).reshape(len(places), width)


def outcome(row: Objective, asked: TrainingSettings) -> tuple[Any, ...]:
    """What an objective makes of settings: its pools, draws and loss in two epochs of two runs, its weights of references."""
    labelled = row in ON_LABELS.values()
    run = with_defaults(asked, row)
    section = run.references
    if section.weights in VALIDATION_WEIGHTS and row.references in ("virtual", "each"):
        held = alpha(held_out(), ["a", "b"], ["source"], section.weights)
        run = run.model_copy(update={"references": section.model_copy(update={"alpha": held})})
    batch = data(labelled)
    if labelled:
        batch = [only(e, [0]) for e in batch]
    else:
        pool = NEGATIVES[row.negatives].pool(run.negatives.origins)
        batch = [only(e, [0, *(i for i, o in enumerate(e.origins) if i and o in pool)]) for e in batch]
    found = []
    for seed, epoch in product((0, 1), (0, 1)):
        step = Step(row, run, seed)
        if row.references in ("virtual", "each"):
            step = OnlineWeights.of(data(labelled), run, seed).at(step, epoch, (2, 0, 1))
        compared, picked = step._compared(Table(batch), batch, epoch, Metrics())  # no model: log-probs are given
        terms = LOSSES[row.loss].function(replace(compared, shift=0.3), run.loss)
        found.append((picked, {per: values.tolist() for per, values in terms.items()}))
    return tuple(found)


def only(e: Example, places: list[int]) -> Example:
    of = lambda listed: [listed[p] for p in places]  # noqa: E731
    return replace(
        e,
        completions=of(e.completions),
        candidate_ids=of(e.candidate_ids),
        origins=of(e.origins),
        logps=[of(row) for row in e.logps],
        labels=of(e.labels),
    )


def held_out() -> pl.DataFrame:
    """Two references that the two ways to weigh them rate differently."""
    pairs = [((-1.0, -9.0), (-2.0, -5.0)), ((-3.0, -9.0), (-5.0, -1.0)), ((-1.0, -5.0), (-4.0, -1.0))]
    rows = []
    for number, pair in enumerate(pairs):
        rows.append([])
        for role, logps in zip(("chosen", "rejected"), pair, strict=True):
            both = [{"reference": n, "logp": x} for n, x in zip("ab", logps, strict=True)]
            rows[-1].append({"candidate_id": f"{role}{number}", "role": role, "origin": "source", "logps": both})
    return pl.DataFrame({"split": ["validation"] * len(rows), "candidates": rows})


def read(row: Objective, run: TrainingSettings) -> set[str]:
    return {f"{s}.{name}" for s in SECTIONS for name in read_of(row.reads[s], getattr(with_defaults(run, row), s))}


KEYS: dict[str, Any] = {name: st.sampled_from(values) for name, values in VALUES.items()}


@pytest.mark.parametrize("name", ROWS)
@settings(max_examples=8)
@given(st.fixed_dictionaries({}, optional=KEYS), st.fixed_dictionaries(KEYS))
def test_what_is_not_declared_changes_nothing(name: str, base: Keys, others: Keys) -> None:
    """Neither one key after another nor all of them together."""
    row = ROWS[name]
    try:
        before = made(base)
    except ValidationError:
        return
    exact, unread = outcome(row, before), sorted(set(VALUES) - read(row, before))
    for changed in [[key] for key in unread] + [unread]:
        try:
            after = made({**base, **{key: others[key] for key in changed}})
        except ValidationError:  # alpha beside weights
            continue
        assert outcome(row, after) == exact, changed


@pytest.mark.parametrize("name", ROWS)
def test_what_is_declared_changes_something(name: str) -> None:
    """By itself, on some settings of the others under which it is declared to be read."""
    row = ROWS[name]
    bases: list[Keys] = [
        {},
        {"references.weights": "sliding_window"},
        {"negatives.count": 2},
        {"negatives.count": 2, "negatives.steps": 2, "negatives.proposals": 2},
    ]
    for key in (f"{s}.{k.name}" for s in SECTIONS for k in row.reads[s]):
        found = [base for base in bases if key in read(row, made(base)) and changes(row, base, key)]
        assert found, f"{name} declares {key}, which changes nothing"


def changes(row: Objective, base: Keys, key: str) -> bool:
    settings = [
        value for value in VALUES[key] if key != "references.alpha" or value is None or "references.weights" not in base
    ]
    return len({repr(outcome(row, made({**base, key: value}))) for value in settings}) > 1


@pytest.mark.parametrize("name", ROWS)
@given(st.fixed_dictionaries({}, optional=KEYS))
@settings(max_examples=8)
def test_a_key_without_effect_is_refused_and_every_other_is_not(name: str, keys: Keys) -> None:
    row, objective = ROWS[name], name.partition(" ")[0]
    try:
        asked = made(keys)
    except ValidationError:
        return
    if row in ON_LABELS.values():
        asked = asked.model_copy(update={"set": UNPAIRED})
    found = mistakes(with_defaults(asked, row), objective, ["a", "b"], given_keys(asked))
    refused = {line.partition(" has no effect")[0] for line in found if "has no effect" in line}
    assert refused == set(keys) - read(row, asked)


@pytest.mark.parametrize(
    ("objective", "run", "said"),
    [
        (
            "rnce",
            {"negatives": {"weight": "policy"}},
            ["negatives.weight has no effect: rnce reads loss.beta, negatives.count,"],
        ),
        ("sft", {"loss": {"beta": 0.1}}, ["loss.beta has no effect: sft reads no key of loss, negatives, references"]),
        ("dpo", {"negatives": {"redraw": "epoch"}}, ["negatives.redraw has no effect: dpo reads"]),
        (
            "mcpo",
            {"negatives": {"replacement": True}},
            ["negatives.replacement has no effect but where count is above 1: mcpo"],
        ),
        ("mcpo_max", {"negatives": {"beta": 1.0, "replacement": True}}, ["negatives.beta has", "negatives.replacement has"]),
        ("dpo_noise", {"negatives": {"origins": ["noise"]}}, ["negatives.origins has no effect: dpo_noise reads"]),
        ("mrpo", {"references": {"alpha": [1, 2], "weight_order": "repo"}}, ["no effect but where weights are per example"]),
        (
            "mrpo",
            {"references": {"eps_max": 0, "adaptive_eps": False, "window": 3}},
            ["where eps_max is above 0", "sliding_window"],
        ),
        ("multi_dpo", {"references": {"weight_order": "repo"}}, ["references.weight_order has no effect: multi_dpo reads"]),
        ("dpo", {"evaluation": {"split": "test", "prompts": 3}}, ["evaluation.prompts has no effect without evaluation.every"]),
        (
            "dpo",
            {"loss": {"margin": 1.0}, "references": {"alpha": [1]}, "evaluation": {"split": "test"}, "negatives": {"count": 1}},
            ["loss.margin has no", "references.alpha has no", "evaluation.split has no", "negatives.count has no"],
        ),
    ],
)
def test_all_that_has_no_effect_is_said_at_once(objective: str, run: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        resolve(recipe_of(objective, **run), f"{objective}/default")
    assert all(text in str(error.value) for text in said), str(error.value)


def test_own_defaults_of_an_objective_are_nobodys_mistake() -> None:
    for name in ("simpo_mc", "exo", "rnce", "sft"):
        asked = {"set": "sft"} if name == "sft" else {}
        assert resolve(recipe_of(name, **asked), f"{name}/default")
    assert resolve(recipe_of("dpo", evaluation={"every": 2, "split": "test"}), "dpo/default").evaluation.split == "test"


def test_the_catalogue_says_what_each_reads() -> None:
    shown: Callable[[str], str] = lambda name: CliRunner().invoke(app, ["objectives", name]).output  # noqa: E731
    assert "reads       loss: beta; negatives: origins, count, redraw, replacement (where count is above 1)" in shown("rnce")
    assert "reads       no key of loss, negatives, references" in shown("sft")
    assert "on the set unpaired; reads loss: beta, desirable_weight, undesirable_weight\n" in shown("kto")
