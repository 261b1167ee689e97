"""Two real, separately trained language models with different tokenizers as references: log-probs and MRPO."""

import json
from pathlib import Path

import oracle
import polars as pl
import pytest
import torch
from conftest import run_stages

from prefdata.recipe.read import read_recipe, validate_recipe
from prefdata.recipe.results import Results
from prefdata.recipe.units import Part
from prefdata.stages.registry import STAGES
from prefdata.tables import files
from train import run as run_
from train.resolve import validate

ROOT = Path(__file__).parents[1]
MODELS = ROOT.parent / "shared" / "models"
NAMES = {"stories260k": "stories260K", "babyllama105": "babyllama105"}
pytestmark = pytest.mark.skipif(not MODELS.exists(), reason="the two real models are not here (../shared/models)")


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """config/stories.yaml scored under both models, in a folder of its own, all prompts for training."""
    text = (ROOT / "config" / "stories.yaml").read_text()
    (folder := tmp_path_factory.mktemp("stories")).joinpath("r.yaml").write_text(text)
    settings = read_recipe(folder / "r.yaml").model_dump(mode="json")
    settings["sources"]["sources"][0]["path"] = str(ROOT / "tests" / "data" / "stories.jsonl")
    settings["generate"]["models"], settings["judge"], settings["sets"]["method"] = [], [], "source"
    settings["split"] = {"train": 1.0, "validation": 0.0, "test": 0.0}
    for reference in settings["score"]["references"]:
        reference["model"] = str(MODELS / NAMES[reference["name"]])
    settings["train"]["runs"] = {"mrpo/default": {"steps": 3, "batch_prompts": 32, "optimizer": {"learning_rate": 1e-4}}}
    settings["evaluate"]["runs"] = []
    run = Results(validate_recipe(settings, "stories"), STAGES, folder / "results")
    run_stages(run, "sources", "split", "prune", "rank:source", "noise", "score", "sets")
    return run


def sets_of(run: Results) -> list[dict]:
    return files.read_table(run.table(Part("sets", "sets", "preference"), 0), "sets").to_dicts()


def test_every_story_is_scored_by_both_and_none_is_lossy_or_too_long(scored: Results) -> None:
    rows = sets_of(scored)
    assert len(rows) == 32
    assert all([x["reference"] for x in c["logps"]] == list(NAMES) for r in rows for c in r["candidates"])
    tokens = [[x["num_tokens"] for x in c["logps"]] for r in rows for c in r["candidates"]]
    texts = [c["response"] for r in rows for c in r["candidates"]]
    assert [t[1] for t in tokens] == [len(t) + 1 for t in texts], "one token a character, and the space before"
    assert all(t[0] < t[1] for t in tokens)


@pytest.mark.parametrize("place", [0, 1])
def test_sums_equal_plain_forwards_in_double_precision(scored: Results, place: int) -> None:
    """Each text alone, encoded by that model's own tokenizer, no end: within 1e-4 of the stored sum."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = MODELS / list(NAMES.values())[place]
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path).double().eval()
    worst = 0.0
    for row in sets_of(scored)[:8]:
        before = [tokenizer.bos_token_id, *tokenizer.encode(row["prompt"][0]["content"], add_special_tokens=False)]
        for candidate in row["candidates"]:
            after = tokenizer.encode(candidate["response"], add_special_tokens=False)
            with torch.no_grad():
                logps = model(torch.tensor([before + after])).logits[0].log_softmax(-1)
            total = sum(float(logps[len(before) - 1 + i, token]) for i, token in enumerate(after))
            stored = candidate["logps"][place]
            assert stored["num_tokens"] == len(after)
            worst = max(worst, abs(stored["logp"] - total))
    assert worst <= 1e-4 * 256 / 512 * 2  # fp32 sums of at most 255 tokens; the promise is 1e-4 for 512


def test_the_models_continue_stories_better_than_shuffled_words(scored: Results) -> None:
    """The log-probs are of language, not of scrambled ids: words in another order are far less likely to both."""
    from prefdata.models.scorer import Item, Scorer
    from prefdata.models.settings import ReferenceSettings

    for name, folder in NAMES.items():
        own = ReferenceSettings(name=name, model=str(MODELS / folder), template="plain", end="none")
        scorer, row = Scorer(own.model, own, "float32", 4096), sets_of(scored)[0]
        text = row["candidates"][0]["response"]
        prompt = {"prompt_id": row["prompt_id"], "messages": row["prompt"], "tools": None, "template_kwargs": None}
        shuffled = " ".join(sorted(text.split()))
        items = [Item(prompt, {"candidate_id": i, "response": t, "finish": "stop"}) for i, t in (("a", text), ("b", shuffled))]
        good, bad = (v["logp"] for v in scorer.values(items))
        assert good > bad + 50, name


def test_mrpo_starts_at_the_oracles_loss_and_learns(scored: Results) -> None:
    """At step 0 the policy is the primary reference, so the loss is a function of the stored log-probs alone."""
    assert set(validate(scored.settings)) == {"mrpo/default"}
    folder = run_.train(scored.settings.model_copy(update={"name": str(scored.root)}), "mrpo/default")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = []
    for row in sets_of(scored):
        chosen, rejected = ([x["logp"] for x in c["logps"]] for c in row["candidates"])
        losses.append(oracle.mrpo(chosen[0], rejected[0], chosen, rejected, beta=0.1))
    assert rows[0]["loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-4)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert pl.DataFrame(rows)["grad_norm"].is_finite().all()
