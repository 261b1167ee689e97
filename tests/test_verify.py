"""Final answers are compared as numbers and expressions, and no answer can keep the checker busy."""

import json

import pytest
from conftest import nectar, run_stages

from prefdata.judging import exact
from prefdata.judging.exact import ExactJudge
from prefdata.judging.verify import same, score
from prefdata.models.engines.protocol import Request, in_order
from prefdata.recipe.units import Part
from prefdata.tables import files


@pytest.mark.parametrize(
    ("final", "response"),
    [
        ("18", "She sells 9 eggs.\n#### 18"),
        ("18", "She makes 9 * 2 = $18 every day."),
        ("9,000", "So there are 9000."),
        ("0.5", r"The answer is \boxed{\frac{1}{2}}."),
        ("-3", "#### -3"),
        ("12", "#### 3\nNo: #### 12"),
    ],
)
def test_right_answers(final: str, response: str) -> None:
    assert same(final, response)


@pytest.mark.parametrize(
    "response", ["", "17", "18 at first, then 19", "eighteen", "#### ", "18\n#### 19", "9^9^9^9", "2**99999999"]
)
def test_wrong_answers_and_towers_of_powers(response: str) -> None:
    assert not same("18", response)


def test_what_nothing_can_check_has_no_score() -> None:
    assert score(None, "Because.") is None
    assert score("4", "It is 4") == 1.0
    assert score("4", "It is 5") == 0.0
    assert exact.score("Why?", None, "Because.") is None
    assert exact.score("Sba", None, "ab") == 1.0
    assert exact.score("Sba", None, "a") == 0.5
    assert exact.score("2+2?", "4", "It is 4") == 1.0


def test_the_exact_judge_prefers_the_right_final_answer(make_run, write_rows) -> None:
    rows = [{"question": "2+2?", "answer": "#### 4"}]
    path = write_rows(rows)
    run = make_run(
        sources={"sources": [{"name": "q", "path": path, "format": "questions"}]}, judge=[{"name": "exact"}], split=ALL_TRAIN
    )
    run_stages(run, "sources", "split", "prune", "judge")
    verdicts = files.read_table(run.table(Part("verdicts", "judge", run.units("judge")[0]), 0), "verdicts")
    assert verdicts.is_empty(), "one answer is compared with nothing"
    prompt = {"messages": [{"role": "user", "content": "2+2?"}], "answer": "4"}
    reply = in_order(ExactJudge().complete([Request("0" * 16, exact.ask(prompt, "#### 5", "#### 4"))]))[0]
    assert exact.read(reply).outcome == "second"
    assert json.loads(reply.text)["margin"] == -1.0
    assert nectar()["prompt"] not in reply.text


ALL_TRAIN = {"train": 1.0, "validation": 0.0, "test": 0.0}
