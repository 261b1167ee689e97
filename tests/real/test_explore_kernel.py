"""The kernel on the page of `prefdata explore`, in a real Chromium, against the trainer's own functions."""

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import explore_rows
from browser import browser, visit

from prefdata.output.explore import of_set
from prefdata.output.looking.opened import open_set
from train import kernel_scores
from train.examples import Example
from train.objectives.negatives import WEIGHTS, Draw, effective_size, kernel
from train.settings import TrainingSettings

pytestmark = pytest.mark.real
__all__ = ["browser", "visit"]
Vector = npt.NDArray[np.float64]
SEED = 11
KERNEL = {
    "steps": 1,
    "proposals": None,
    "count": 1,
    "policy": 1,
    "reference": 0,
    "epsMax": 0.1,
    "chosen": False,
    "noise": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = explore_rows.results(tmp_path_factory.mktemp("kernel") / "questions")
    of_set.write(open_set(str(made), candidates=True), made / "page.html", None, 10_000)
    return made


def pool_of(row: explore_rows.Row, asked: dict[str, Any]) -> list[explore_rows.Row]:
    """The chosen, then what may be drawn beside it, as train.examples.examples keeps them."""
    origins = ("source", "generated", *(("noise",) if asked["noise"] else ()))
    return [c for c in row["candidates"] if c["role"] == "chosen" or (c["role"] == "rejected" and c["origin"] in origins)]


def trainers(row: explore_rows.Row, asked: dict[str, Any]) -> tuple[list[str], Vector]:
    """Ids of the pool and their log-weights, as the trainer's step reckons them."""
    kept, first = pool_of(row, asked), 0 if asked["chosen"] else 1
    single = asked["reference"] != "virtual"
    order = [asked["reference"]] if single else range(len(explore_rows.REFERENCES))
    logps = [[c["logps"][k]["logp"] for c in kept] for k in order]
    own = [c["logps"][asked["policy"]] for c in kept]
    ids = [c["candidate_id"] for c in kept]
    example = Example(row["prompt_id"], [1], [[0] * x["num_tokens"] for x in own], ids, [c["origin"] for c in kept], logps, [])
    settings = TrainingSettings.model_validate(
        {
            "loss": {"beta": 0.1},
            "negatives": {"weight": asked["weight"], "beta": asked["beta"]},
            "references": {"eps_max": asked["epsMax"]},
        }
    )
    policy = np.array([x["logp"] for x in own[first:]])
    return ids[first:], kernel_scores.scores(example, policy, first, "primary" if single else "virtual", settings)


def softmax(scores: Vector) -> Vector:
    weights = np.exp(scores - scores.max())
    return np.asarray(weights / weights.sum())


def pages(v: Any, place: int, asked: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Ids of the pool and what the page reckons."""
    script = """async ([i, asked]) => {
        const [found, texts] = [data.drawn(i, asked), await data.texts(i)];
        return { ...found, ids: found.pool.map(c => texts.candidates[c - data.prompts.first[i]].id) };
    }"""
    found = v.of(script, [place, asked])
    return found.pop("ids"), found


def by_id(ids: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    return dict(zip(ids, values, strict=True))


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("reference", [0, 1, "virtual"])
@pytest.mark.parametrize("more", [{}, {"chosen": True}, {"noise": True}], ids=["rejected", "with_chosen", "with_noise"])
def test_weights_and_probabilities_are_the_trainers(
    visit: Any, folder: Path, weight: str, reference: Any, more: dict[str, bool]
) -> None:
    v = visit(folder / "page.html")
    assert v.of("Object.keys(kernel.WEIGHTS)") == list(WEIGHTS)
    for place, row in enumerate(explore_rows.rows()):
        for beta in (0.01, 0.1, 3.0):
            asked = {**KERNEL, "weight": weight, "reference": reference, "beta": beta, **more}
            ids, scores = trainers(row, asked)
            shown, found = pages(v, place, asked)
            assert by_id(shown, found["scores"]) == pytest.approx(by_id(ids, scores), rel=1e-9, abs=1e-12)
            assert by_id(shown, found["probabilities"]) == pytest.approx(by_id(ids, softmax(scores)), rel=1e-9, abs=0)
            assert found["size"] == pytest.approx(effective_size(scores), rel=1e-9)
            for count in (1, 2):
                _, several = pages(v, place, {**asked, "count": count})
                drawn, _ = kernel(scores, ids, Draw(SEED, 0, count))
                assert {shown[k] for k in several["drawn"]} == {ids[k] for k in drawn}, "the first epoch's own draw"


def test_what_stands_on_the_page_is_what_is_reckoned(visit: Any, folder: Path) -> None:
    row = explore_rows.rows()[3]
    v = visit(folder / "page.html", f"#prompt={row['prompt_id']}&policy=1&weight=policy_per_token&beta=2")
    ids, scores = trainers(row, {**KERNEL, "weight": "policy_per_token", "beta": 2.0})
    for beta in (2.0, 10**-0.5):
        if beta != 2.0:
            v.page.locator("input[name=beta]").fill("-0.5")
            v.wait("location.hash.includes('beta=0.316')")
            beta = 0.316
        ids, scores = trainers(row, {**KERNEL, "weight": "policy_per_token", "beta": beta})
        v.wait(f"Math.abs(document.querySelector('.draw').dataset.score - {scores[0]}) < 1e-6")
        told = v.of(
            "[...document.querySelectorAll('.draw')].map(d => [d.closest('.card').querySelector('.id').textContent, Number(d.dataset.p)])"
        )
        assert dict(told) == pytest.approx(by_id(ids, softmax(scores)), rel=1e-9)
        assert v.texts(".kernel b") == [f"{effective_size(scores):.3f}"]
        shares = v.texts(".draw span:nth-child(2)")
        assert shares == [f"drawn {100 * p:.1f} %" for _, p in told]


def test_steps_and_proposals_are_distributed_as_the_trainers_chain(visit: Any, folder: Path) -> None:
    v, row = visit(folder / "page.html"), explore_rows.rows()[5]
    for steps, proposals in ((1, 2), (2, 1), (3, 2), (4, 3)):
        asked = {**KERNEL, "weight": "ratio", "beta": 0.3, "steps": steps, "proposals": proposals}
        ids, scores = trainers(row, asked)
        shown, found = pages(v, 5, asked)
        assert by_id(shown, found["probabilities"]) == pytest.approx(by_id(ids, chain(scores, steps, proposals)), rel=1e-9)
        assert found["drawn"] is None, "the keyed draws of several steps are not in the page"
        runs = 4000
        drawn = [kernel(scores, ids, Draw(seed, 0, 1, False, steps, proposals))[0][0] for seed in range(runs)]
        for place, p in enumerate(chain(scores, steps, proposals)):
            assert abs(drawn.count(place) / runs - p) < 5 * (p * (1 - p) / runs) ** 0.5 + 1e-9


def chain(scores: Vector, steps: int, proposals: int) -> Vector:
    """By going through every subset, written otherwise than the page does."""
    size = len(scores)

    def step(now: int | None) -> Vector:
        others = [i for i in range(size) if i != now]
        rows = []
        for subset in itertools.combinations(others, min(proposals, len(others))):
            among = np.full(size, -np.inf)
            kept = [*subset, *([] if now is None else [now])]
            among[kept] = scores[kept]
            rows.append(softmax(among))
        return np.asarray(np.mean(rows, axis=0))

    state, matrix = step(None), np.stack([step(i) for i in range(size)])
    return np.asarray(state @ np.linalg.matrix_power(matrix, steps - 1))


def test_several_negatives_are_drawn_one_after_another(visit: Any, folder: Path) -> None:
    v, row = visit(folder / "page.html"), explore_rows.rows()[8]
    asked = {**KERNEL, "weight": "ratio", "beta": 0.2, "noise": True}
    ids, scores = trainers(row, asked)
    for count in range(1, len(ids) + 2):
        shown, found = pages(v, 8, {**asked, "count": count})
        assert by_id(shown, found["probabilities"]) == pytest.approx(by_id(ids, among_first(softmax(scores), count)), rel=1e-9)
    _, several = pages(v, 8, {**asked, "count": 3, "steps": 2, "proposals": 2})
    once = by_id(ids, 1 - (1 - chain(scores, 2, 2)) ** 3)
    assert by_id(shown, several["probabilities"]) == pytest.approx(once, rel=1e-9)


def among_first(weights: Vector, count: int) -> Vector:
    """Over every order of the pool."""
    made = np.zeros(len(weights))
    for order in itertools.permutations(range(len(weights))):
        left, p = 1.0, 1.0
        for place in order:
            p *= weights[place] / left if left > 1e-12 else 1.0
            left -= weights[place]
        made[list(order[:count])] += p
    return made
