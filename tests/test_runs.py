"""Whole training runs from a prepared set on disk: every objective once, what its set lacks, exact resume of the rest."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import run_stages
from models import config
from pydantic import ValidationError

from prefdata.errors import ConfigError, EngineError
from prefdata.models.loading import load_model
from prefdata.models.tokens import load_encoder
from prefdata.output.published_configs import preference
from prefdata.recipe.read import validate_recipe
from prefdata.recipe.results import Results
from prefdata.recipe.settings.training import TrainSettings
from prefdata.recipe.settings.whole import Settings
from prefdata.sources.toy import tokenizers
from prefdata.stages.registry import STAGES
from train import loop
from train import run as run_
from train.data import held_out, read_set
from train.left_out import LeftOut
from train.metrics import Metrics
from train.objectives.registry import OBJECTIVES
from train.processes import SINGLE
from train.resolve import resolve, validate
from train.run import prepare
from train.step import Step

WORDS = ["a", "ba", "cab", "dabc", "abcda"]
LACKING = {"sppo_soft": "win_prob"}
"""What the set below has not got: the source's scores are no win probabilities."""
OWN = {"mrpo": {"references": {"weights": "validation_accuracy"}}, "mcpo": {"negatives": {"steps": 2, "proposals": 1}}}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Results:
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
    made = validate_recipe(settings, "test")
    run = Results(made.model_copy(update={"name": str(folder / "results")}), STAGES)  # an absolute name is its own root
    run_stages(run, "sources", "split", "prune", "rank:source", "noise", "score", "sets")
    return run


def row(number: int) -> dict[str, object]:
    """Answers with scores alone, best first; prompts of letters that the toy tokenizer knows."""
    asked = "".join("abcde"[(number // 5**k) % 5] for k in range(3))
    answers = [{"answer": WORDS[(number + k) % 5] + asked[0] * k, "model": f"m{k}", "score": 3.0 - k} for k in range(3)]
    return {"prompt": f"\n\nHuman: S{asked}\n\nAssistant: ", "answers": answers}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_or_says_what_the_set_lacks(prepared: Results, name: str) -> None:
    if name in LACKING:
        with pytest.raises(ConfigError, match=LACKING[name]):
            run_.train(prepared.settings, f"{name}/default")
        return
    folder = run_.train(prepared.settings, f"{name}/default")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    assert all(torch.tensor([r["loss"], r["grad_norm"]]).isfinite().all() and r["grad_norm"] > 0 for r in rows)
    assert ("shift" in rows[0]) == (name in ("bco", "kto"))
    receipt = json.loads((folder / "train.json").read_text())
    weights = receipt["settings"]["references"]["alpha"]
    assert weights is None if name != "mrpo" else sum(weights) == pytest.approx(1)


def test_a_last_row_alone_joins_the_batch_before_where_a_loss_compares_prompts(prepared: Results) -> None:
    rows = len(read_set(prepared, resolve(prepared.settings, "kto/default"))[0])
    run = {"batch_prompts": rows - 1, "epochs": 1}
    settings = with_runs(prepared, {"kto/whole": run, "dpo/whole": run})
    assert [len(rows_of(run_.train(settings, name))) for name in ("kto/whole", "dpo/whole")] == [1, 2]


@pytest.mark.parametrize("name", ["bco", "kto"])
def test_a_run_that_stops_goes_on_to_the_same_end(prepared: Results, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Killed between two steps after a checkpoint: the batch's numbers and every loss are the unbroken run's."""

    def trained(variant: str) -> list[dict[str, float]]:
        folder: Path = run_.train(settings, f"{name}/{variant}")
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    run = {"steps": 5, "batch_prompts": 6, "micro_tokens": 40, "checkpoint_s": 1e-9}
    train = prepared.settings.train.model_copy(update={"runs": {f"{name}/whole": run, f"{name}/cut": run}})
    settings = prepared.settings.model_copy(update={"train": train})
    whole = trained("whole")
    dies_at(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        trained("cut")
    monkeypatch.undo()
    assert trained("cut") == whole


# ---- evaluation, adapters, runs that go on from others ----


def with_runs(prepared: Results, runs: dict[str, dict[str, object]]) -> Settings:
    train = TrainSettings.model_validate({"runs": runs})
    return prepared.settings.model_copy(update={"train": train})


def rows_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_is_evaluated_and_keeps_its_best_weights(prepared: Results) -> None:
    """At a rate that ruins the model: the best evaluation is the first one, and best/ scores as it did."""
    run = {
        "steps": 5,
        "batch_prompts": 8,
        "optimizer": {"learning_rate": 0.3, "schedule": "constant"},
        "evaluation": {"every": 2, "prompts": 3},
    }
    settings = with_runs(prepared, {"dpo/default": run})
    folder = run_.train(settings, "dpo/default")
    losses = {r["step"]: r["eval_loss"] for r in rows_of(folder) if "eval_loss" in r}
    assert list(losses) == [2, 4, 5]
    receipt = json.loads((folder / "train.json").read_text())
    assert receipt["best"] == {"step": min(losses, key=losses.get), "eval_loss": min(losses.values())}
    assert receipt["best"]["step"] < 5
    settings_ = resolve(settings, "dpo/default")
    encoder = load_encoder(str(folder / "best"))
    held = held_out(prepared, encoder, settings, settings_, OBJECTIVES["dpo"], 64)
    assert len(held) == 3
    step = Step(OBJECTIVES["dpo"], settings_, settings.seed)
    found = {name: loop.evaluate(load_model(str(folder / name)), step, held, 0.0)["eval_loss"] for name in ("", "best")}
    assert found == {"": pytest.approx(losses[5]), "best": pytest.approx(min(losses.values()))}
    assert "best evaluation" in (folder / "README.md").read_text()
    assert "held out" in (folder / "metrics.html").read_text()


def test_every_seed_trains_on_the_published_pairs_and_is_evaluated_on_the_same(prepared: Results) -> None:
    """As `seed: [0, 1, 2]` makes them; the pair of the published config `preference`, the held-out prompts of one another."""
    settings = with_runs(prepared, {"dpo/default": {"seed": [0, 1, 2], "evaluation": {"every": 1, "prompts": 3}}})
    run = replace(prepared, settings=settings)
    frame, _ = read_set(run, resolve(settings, "dpo/default-s0"))
    published = dict(preference(frame, settings.sets.origins).select("prompt_id", "rejected_id").iter_rows())
    held = set()
    for name in settings.runs:
        made = prepare(run, name, SINGLE, LeftOut())
        picked = Step(made.objective, made.settings, made.seed)._select(SimpleNamespace(), made.data, 1, Metrics())
        pairs = {e.prompt_id: e.candidate_ids[place] for e, ((place,), _) in zip(made.data, picked, strict=True)}
        assert pairs == {prompt: published[prompt] for prompt in pairs}
        held.add(tuple(e.id for e in made.held))
    assert len(pairs) == frame.height
    assert len(held) == 1


def test_an_unknown_split_to_evaluate_on_is_named(prepared: Results) -> None:
    settings = with_runs(prepared, {"dpo/default": {"steps": 2, "evaluation": {"every": 1, "split": "sft"}}})
    with pytest.raises(ConfigError, match="no rows of split sft to evaluate on"):
        run_.train(settings, "dpo/default")


def test_adapters_are_trained_saved_and_resumed(prepared: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    import peft

    run = {"steps": 4, "batch_prompts": 8, "lora": {"rank": 2}, "checkpoint_s": 1e-9, "optimizer": {"learning_rate": 1e-2}}
    settings = with_runs(prepared, {"dpo/whole": run, "dpo/cut": run})
    whole = run_.train(settings, "dpo/whole")
    dies_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        run_.train(settings, "dpo/cut")
    monkeypatch.undo()
    cut = run_.train(settings, "dpo/cut")
    assert rows_of(whole) == rows_of(cut)
    plain = load_model(str(whole))
    start = load_model(prepared.model_path(settings.score.references[0].model))
    adapted = peft.PeftModel.from_pretrained(start, str(whole / "adapter")).eval()
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        assert torch.allclose(plain(ids).logits, adapted(ids).logits, atol=1e-5)
        with adapted.disable_adapter():
            assert not torch.allclose(plain(ids).logits, adapted(ids).logits, atol=1e-3)


def dies_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The n-th optimizer step from now is the end."""
    step, count = loop.one_step, 0

    def dying(*args: object) -> dict[str, object]:
        nonlocal count
        count += 1
        if count == number:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(loop, "one_step", dying)


def test_a_run_continues_anothers_optimizer_schedule_and_steps(prepared: Results) -> None:
    """On the same data in one batch an epoch, two runs of three steps are one of six, at a constant rate."""
    knobs = {"optimizer": {"learning_rate": 1e-2, "schedule": "constant", "warmup_steps": 5}, "batch_prompts": 100}
    runs = {
        "dpo/whole": {"steps": 6, **knobs},
        "dpo/first": {"steps": 3, "keep_optimizer": True, **knobs},
        "dpo/second": {"steps": 3, "continue_from": "dpo/first", **knobs},
    }
    settings = with_runs(prepared, runs)
    whole, first, second = (rows_of(run_.train(settings, name)) for name in runs)
    kept = ("step", "lr", "loss", "grad_norm")
    assert [{k: r[k] for k in kept} for r in first + second] == [{k: r[k] for k in kept} for r in whole]
    assert [r["epoch"] for r in first + second] == list(range(6))


def test_a_run_that_died_under_other_references_begins_anew(prepared: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows and the same start, but another reference is the primary one."""
    run = {"steps": 4, "batch_prompts": 8, "checkpoint_s": 1e-9, "model": prepared.settings.score.references[0].model}
    settings = with_runs(prepared, {"dpo/cut": run, "dpo/whole": run})
    dies_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        run_.train(settings, "dpo/cut")
    monkeypatch.undo()
    turned = settings.score.model_copy(update={"references": settings.score.references[::-1]})
    settings = settings.model_copy(update={"score": turned})
    assert rows_of(run_.train(settings, "dpo/cut")) == rows_of(run_.train(settings, "dpo/whole"))


def test_a_run_that_died_under_another_seed_says_so(prepared: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out prompts are drawn by the seed too: that other ones are compared hides no change of the seed."""
    run = {"steps": 4, "batch_prompts": 8, "checkpoint_s": 1e-9, "evaluation": {"every": 2, "prompts": 3}}
    dies_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        run_.train(with_runs(prepared, {"dpo/cut": {**run, "seed": 5}}), "dpo/cut")
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="begun with the seed 5, not 6"):
        run_.train(with_runs(prepared, {"dpo/cut": {**run, "seed": 6}}), "dpo/cut")
    assert len(rows_of(run_.train(with_runs(prepared, {"dpo/cut": {**run, "seed": 5}}), "dpo/cut"))) == 4


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({}, {"continue_from": "dpo/first"}, "dpo/first keeps no optimizer to go on with"),
        ({"keep_optimizer": True}, {"continue_from": "dpo/frist"}, "run:dpo/frist is no run .did you mean 'dpo/first'"),
        ({"keep_optimizer": True}, {"continue_from": "dpo/first", "model": "x"}, "give continue_from, or a model or init"),
        ({"keep_optimizer": True, "lora": {}}, {"continue_from": "dpo/first", "lora": {}}, "cannot be continued"),
    ],
)
def test_what_cannot_be_continued_is_said_before_the_run(prepared: Results, first: dict, second: dict, said: str) -> None:
    settings = with_runs(prepared, {"dpo/first": {"steps": 1, **first}, "dpo/second": {"steps": 1, **second}})
    with pytest.raises(ConfigError, match=said):
        resolve(settings, "dpo/second")


def test_lists_of_rates_and_seeds_are_runs_of_their_own(prepared: Results) -> None:
    asked = {"steps": 1, "seed": [0, 7], "optimizer": {"learning_rate": [1e-5, 0.001]}}
    settings = with_runs(prepared, {"dpo/sweep": asked, "rnce/one": {"steps": 1}})
    names = [f"dpo/sweep-lr{rate}-s{seed}" for rate in ("1e-05", "0_001") for seed in (0, 7)]
    assert list(settings.train.runs) == [*names, "rnce/one"]
    assert [(r.seed, r.optimizer.learning_rate) for r in validate(settings).values()][:4] == [
        (0, 1e-5),
        (7, 1e-5),
        (0, 1e-3),
        (7, 1e-3),
    ]
    for broken in ({"seed": [1, 1]}, {"seed": []}):
        with pytest.raises(ValidationError, match="two runs are called dpo/x-s1|no run is left"):
            TrainSettings.model_validate({"runs": {"dpo/x": broken}})
    first, other = (json.loads((run_.train(settings, n) / "train.json").read_text()) for n in names[:2])
    assert (first["seed"], other["seed"]) == (0, 7)


def test_sigterm_lets_the_step_end_and_the_next_run_goes_on(prepared: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    run = {"steps": 5, "batch_prompts": 6, "checkpoint_s": 1e9}
    settings = with_runs(prepared, {"mcpo/whole": run, "mcpo/cut": run})
    whole = rows_of(run_.train(settings, "mcpo/whole"))
    step, count = loop.one_step, 0

    def terminated(*args: object) -> dict[str, object]:
        nonlocal count
        count += 1
        if count == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*args)

    monkeypatch.setattr(loop, "one_step", terminated)
    with pytest.raises(SystemExit) as ended:
        run_.train(settings, "mcpo/cut")
    assert ended.value.code == 143
    assert rows_of(run_.train(settings, "mcpo/cut")) == whole
    assert count == 5  # nothing was done twice


def test_running_out_of_memory_says_what_to_change(prepared: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")

    settings = with_runs(prepared, {"dpo/full": {"steps": 1, "micro_tokens": 77}})
    monkeypatch.setattr(Step, "values", full)
    with pytest.raises(EngineError, match="out of memory with forwards of 77 tokens.*lower micro_tokens"):
        run_.train(settings, "dpo/full")


def test_the_card_names_start_data_and_settings_and_its_front_matter_loads(prepared: Results) -> None:
    import yaml

    settings = with_runs(prepared, {"mcpo/card": {"steps": 1, "negatives": {"count": 2}}})
    text = (run_.train(settings, "mcpo/card") / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["tags"] == ["prefdata", "preference", "mcpo"]
    assert front["library_name"] == "transformers"
    assert '"count": 2' in text
    assert "base_model" not in front  # a local folder is no model on the Hub
