"""Whole training runs from a prepared set on disk: every objective once, what its set lacks, exact resume of the rest."""

import json
from pathlib import Path

import pytest
import torch
from conftest import run_stages
from models import config

from prefdata import recipe
from prefdata.errors import ConfigError
from prefdata.run import Run
from prefdata.tokens import load_encoder
from prefdata.toy import tokenizers
from train import loop
from train.objectives import OBJECTIVES

WORDS = ["a", "ba", "cab", "dabc", "abcda"]
LACKING = {"sppo_soft": "win_prob"}
"""What the set below has not got: the source's scores are no win probabilities."""
OWN = {"mrpo": {"references": {"weights": "validation_accuracy"}}, "mcpo": {"negatives": {"steps": 2, "proposals": 1}}}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """24 prompts with three scored answers each, scored under two tiny models of one tokenizer."""
    import transformers

    folder = tmp_path_factory.mktemp("runs")
    tokenizers.write(folder / "t")
    encoder = load_encoder(str(folder / "t" / "small"))
    for seed, name in enumerate(("first", "second")):
        torch.manual_seed(seed)
        shape = config("llama", vocab_size=len(encoder.tokenizer), max_position_embeddings=64, initializer_range=0.1)
        transformers.LlamaForCausalLM(shape).save_pretrained(folder / name)
        encoder.tokenizer.save_pretrained(folder / name)
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row(i)) + "\n" for i in range(24)))
    runs = {f"{name}/default": {"steps": 2, "batch_prompts": 6, **OWN.get(name, {})} for name in OBJECTIVES}
    runs["sft/default"] |= {"set": "sft"}
    settings = {
        "name": "t",
        "dedup": None,
        "sources": {"sources": [{"name": "s", "path": str(rows)}]},
        "split": {"train": 0.6, "validation": 0.4, "test": 0},
        "sets": {"sft_splits": ["train"], "splits": ["train", "validation"]},
        "score": {"references": [{"name": n, "model": str(folder / n)} for n in ("first", "second")]},
        "train": {"runs": runs},
    }
    made = recipe.validate(settings, "test")
    run = Run(made.model_copy(update={"name": str(folder / "results")}))  # an absolute name is its own root
    run_stages(run, "sources", "split", "prune", "rank:source", "noise", "score", "sets")
    return run


def row(number: int) -> dict[str, object]:
    """Answers with scores alone, best first; prompts of letters that the toy tokenizer knows."""
    asked = "".join("abcde"[(number // 5**k) % 5] for k in range(3))
    answers = [{"answer": WORDS[(number + k) % 5] + asked[0] * k, "model": f"m{k}", "score": 3.0 - k} for k in range(3)]
    return {"prompt": f"\n\nHuman: S{asked}\n\nAssistant: ", "answers": answers}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_or_says_what_the_set_lacks(prepared: Run, name: str) -> None:
    if name in LACKING:
        with pytest.raises(ConfigError, match=LACKING[name]):
            loop.train(prepared.settings, f"{name}/default")
        return
    folder = loop.train(prepared.settings, f"{name}/default")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    assert all(torch.tensor([r["loss"], r["grad_norm"]]).isfinite().all() and r["grad_norm"] > 0 for r in rows)
    assert ("shift" in rows[0]) == (name in ("bco", "kto"))
    receipt = json.loads((folder / "train.json").read_text())
    weights = receipt["settings"]["references"]["alpha"]
    assert weights is None if name != "mrpo" else sum(weights) == pytest.approx(1)


def test_kto_names_a_last_batch_of_one(prepared: Run) -> None:
    rows = len(loop.read_set(prepared, loop.resolve(prepared.settings, "kto/default"))[0])
    runs = {"kto/default": {"batch_prompts": rows - 1, "epochs": 1}}
    train = prepared.settings.train.model_copy(update={"runs": runs})
    with pytest.raises(ConfigError, match="the last batch of an epoch has one prompt"):
        loop.train(prepared.settings.model_copy(update={"train": train}), "kto/default")


@pytest.mark.parametrize("name", ["bco", "kto"])
def test_a_run_that_stops_goes_on_to_the_same_end(prepared: Run, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Killed between two steps after a checkpoint: the batch's numbers and every loss are the unbroken run's."""

    def trained(variant: str) -> list[dict[str, float]]:
        folder: Path = loop.train(settings, f"{name}/{variant}")
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    run = {"steps": 5, "batch_prompts": 6, "micro_tokens": 40, "checkpoint_s": 1e-9}
    train = prepared.settings.train.model_copy(update={"runs": {f"{name}/whole": run, f"{name}/cut": run}})
    settings = prepared.settings.model_copy(update={"train": train})
    whole, step, count = trained("whole"), loop.one_step, 0

    def dying(*args: object) -> dict[str, object]:
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(loop, "one_step", dying)
    with pytest.raises(KeyboardInterrupt):
        trained("cut")
    monkeypatch.setattr(loop, "one_step", step)
    assert trained("cut") == whole
