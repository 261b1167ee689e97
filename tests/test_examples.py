"""From a set's rows to training examples: roles, pools, log-probs that are none."""

import sys
from pathlib import Path

import polars as pl
import pytest

from prefdata.errors import DataError, PrefdataError
from prefdata.models.tokens import load_encoder
from prefdata.progress import Progress, logged
from prefdata.tables import schema
from train.examples import examples

P = "0" * 16


def row(logp: float = -1.0, references: tuple[str, ...] = ("a", "b")) -> pl.DataFrame:
    shown = [
        ("chosen", "ab", "source"),
        ("other", "xx", "source"),
        ("rejected", "ba", "generated"),
        ("rejected", "zz", "noise"),
    ]
    candidates = [
        {
            "candidate_id": f"{i:016x}",
            "role": role,
            "response": text,
            "rank": 1,
            "origin": origin,
            "producer": "m",
            "finish": "length" if role == "rejected" else "stop",
            "copies": 1,
            "logps": [{"reference": r, "logp": logp - i, "num_tokens": 2} for r in references],
        }
        for i, (role, text, origin) in enumerate(shown)
    ]
    prompt = [{"role": "user", "content": "Sba"}]
    return schema.frame("sets", [{"prompt_id": P, "split": "train", "prompt": prompt, "candidates": candidates}])


@pytest.fixture
def encoder(toy_tokenizers: Path):
    return load_encoder(str(toy_tokenizers / "small"))


def test_ties_are_left_out_and_the_pool_has_the_asked_origins(encoder) -> None:
    (e,) = examples(row().to_dicts(), encoder, ["source", "generated"], ["b", "a"])
    assert e.origins == ["source", "generated"]
    assert e.completions[0][-1] == encoder.end_id
    assert e.completions[1] == encoder.contents(["ba"])[0], "cut by the length limit: no end id"
    assert e.logps == [[-1.0, -3.0], [-1.0, -3.0]]
    (noisy,) = examples(row().to_dicts(), encoder, ["noise"], [])
    assert (noisy.origins, noisy.logps) == (["source", "noise"], [])


def test_a_reference_that_lacks_is_named(encoder) -> None:
    with pytest.raises(DataError, match="no log-prob under the reference c; run the score stage"):
        examples(row().to_dicts(), encoder, ["generated"], ["c"])


@pytest.mark.parametrize("logp", [float("nan"), float("inf"), 0.5])
def test_a_log_prob_that_is_none_is_refused(encoder, logp: float) -> None:
    with pytest.raises(DataError, match="is no log-prob"):
        examples(row(logp).to_dicts(), encoder, ["generated"], ["a"])


def test_progress_prints_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("work", 3, every_s=0.0) as progress:
        for _ in range(3):
            progress.advance(1, "note")
    assert "work: 3/3" in capsys.readouterr().err


def test_a_log_file_keeps_what_was_said_and_the_error(tmp_path: Path) -> None:
    with pytest.raises(PrefdataError), logged(tmp_path / "logs" / "x.log"):
        print("said", file=sys.stderr)
        raise PrefdataError("broken", "f:1", "mend it")
    assert (tmp_path / "logs" / "x.log").read_text() == "said\nerror: f:1: broken; mend it\n"
