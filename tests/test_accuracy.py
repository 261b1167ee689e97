"""`prefdata accuracy` against log-probs by transformers alone, from pairs to the printed figures."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from prefdata.errors import ConfigError
from prefdata.workflow.cli import app
from train import accuracy

PAIRS = [("Sab: ", "ab", "ba"), ("Sba: ", "cab", "b"), ("Sc: ", "a", "abcda"), ("Sd: ", "dab", "ad")]


def logp(folder: Path, prompt: str, answer: str) -> tuple[float, int]:
    """Sum and tokens of an answer with its end token, one row, no sharing."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).double()
    before = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True)["input_ids"]
    after = [*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id]
    with torch.no_grad():
        scores = model(torch.tensor([before + after])).logits[0].log_softmax(-1)
    return sum(float(scores[len(before) - 1 + k, t]) for k, t in enumerate(after)), len(after)


@pytest.fixture
def other(lm: Path, tmp_path: Path) -> Path:
    """The tiny model with other weights."""
    from transformers import AutoModelForCausalLM

    shutil.copytree(lm, tmp_path / "other")
    model = AutoModelForCausalLM.from_pretrained(lm)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    model.save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def test_the_figures_are_those_of_plain_rows(lm: Path, other: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"prompt": p, "chosen": c, "rejected": r}) + "\n" for p, c, r in PAIRS))
    words = ["accuracy", str(path), "--model", str(other), "--reference", str(lm), "--json", "--dtype", "float64"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = {f["by"]: f for f in json.loads(done.stdout[done.stdout.index("[") :])}
    ours = [[logp(other, p, t) for t in (c, r)] for p, c, r in PAIRS]
    theirs = [[logp(lm, p, t) for t in (c, r)] for p, c, r in PAIRS]
    margins = {
        "log-prob": [c[0] - r[0] for c, r in ours],
        "log-prob per token": [c[0] / c[1] - r[0] / r[1] for c, r in ours],
        "log-ratio to the reference": [c[0] - r[0] - (d[0] - s[0]) for (c, r), (d, s) in zip(ours, theirs, strict=True)],
    }
    for name, wanted in margins.items():
        assert found[name]["margin"][0] == pytest.approx(sum(wanted) / 4, abs=1e-6)
        assert found[name]["accuracy"][0] == sum(m > 0 for m in wanted) / 4
        assert found[name]["prompts"] == 4
    assert 0 < found["log-prob"]["accuracy"][0] < 1, "the case can tell something"
    assert len({tuple(m > 0 for m in wanted) for wanted in margins.values()}) > 1, "the ways differ"


def test_every_rejected_answer_of_a_prompt_counts_and_a_tie_is_half() -> None:
    def candidate(role: str, logp: float, tokens: int = 2) -> dict[str, object]:
        return {"role": role, "logps": [{"reference": "model", "logp": logp, "num_tokens": tokens}]}

    rows = pl.DataFrame(
        {
            "candidates": [
                [candidate("chosen", -4.0), candidate("rejected", -6.0), candidate("rejected", -4.0), candidate("other", -1.0)],
                [candidate("chosen", -9.0, 9), candidate("rejected", -3.0, 2)],
            ]
        }
    )
    plain, by_token = accuracy.figures(rows, compared=False)
    assert plain["accuracy"][0] == pytest.approx((0.75 + 0) / 2)
    assert plain["margin"][0] == pytest.approx((1.0 - 6.0) / 2)
    assert by_token["accuracy"][0] == pytest.approx((0.75 + 1) / 2)


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}) + "\n")
    with pytest.raises(ConfigError, match="no such model folder"):
        CliRunner().invoke(app, ["accuracy", str(path), "--model", "/no/where"], catch_exceptions=False)
