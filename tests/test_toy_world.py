"""The embedded world: its tokenizers hold what its tasks and answers do, and nothing that a model could leak to."""

import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from prefdata.models.chat import Refused
from prefdata.models.tokens import Encoder, load_encoder
from prefdata.sources.toy import tasks, tokenizers, writers

CONFIG = Path(__file__).parents[1] / "config"
MARKS = {"<answer>", "<end>"}


@pytest.fixture(scope="module", params=["letters", "pairs"])
def encoder(request: pytest.FixtureRequest, toy_tokenizers: Path) -> Encoder:
    return load_encoder(str(toy_tokenizers / request.param), None, "chat", "eos")


def test_every_token_is_of_the_world_or_a_mark_of_every_row(encoder: Encoder) -> None:
    vocabulary = encoder.tokenizer.get_vocab()
    assert {t for t in vocabulary if not set(t) <= set(tasks.ALPHABET)} == MARKS
    row = encoder.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Sba"}, {"role": "assistant", "content": "ab"}], tokenize=False
    )
    assert all(mark in row for mark in MARKS)


def test_letters_has_a_token_for_each_character_and_no_more(toy_tokenizers: Path) -> None:
    letters = load_encoder(str(toy_tokenizers / "letters"), None, "chat", "eos").tokenizer
    assert len(letters) == len(tasks.ALPHABET) + len(MARKS)


@given(kind=st.sampled_from(tasks.KINDS), author=st.sampled_from(list(writers.WRITERS)), seed=st.integers(0, 10**6))
def test_tasks_and_answers_come_back(encoder: Encoder, kind: str, author: str, seed: int) -> None:
    rng = random.Random(seed)
    task = tasks.make(kind, rng)
    for text in (task, writers.answer(author, task, rng), tasks.lazy(task)):
        assert set(text) <= set(tasks.ALPHABET)
        assert encoder.decode(encoder.contents([text])[0]) == text


def test_other_text_does_not_come_back_as_it_was(encoder: Encoder) -> None:
    assert encoder.decode(encoder.contents(["ab é"])[0]) != "ab é"


def test_a_system_message_is_refused(encoder: Encoder) -> None:
    messages: Any = [{"role": "system", "content": "a"}, {"role": "user", "content": "Sba"}]
    (made,) = encoder.prompts_or_refusals([(messages, None, None)])
    assert isinstance(made, Refused)


@pytest.mark.parametrize("recipe", ["demo", "distill_tiny", "online_tiny", "instruct_tiny"])
def test_policies_of_the_shipped_recipes_have_the_worlds_alphabet(recipe: str) -> None:
    runs = yaml.safe_load((CONFIG / f"{recipe}.yaml").read_text(encoding="utf-8"))["train"]["runs"]
    fresh = {name: run["init"]["tokenizer"] for name, run in runs.items() if "init" in run}
    assert {t for name, t in fresh.items() if name != "sft/judge"} <= {"toy:letters", "toy:pairs"}


def test_the_four_are_written(tmp_path: Path) -> None:
    tokenizers.write(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["large", "letters", "pairs", "small"]
