"""`fit`: a trained model from a list of dicts, the same one that a file of the same rows gives."""

import doctest
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from test_from_file import pairs, settings_file, train

import prefdata
from prefdata.errors import ConfigError, DataError
from train import in_memory as module
from train import loop
from train.objectives.registry import OBJECTIVES
from train.settings import TrainingSettings

__all__ = ["settings_file"]
ROOT = Path(__file__).parents[1]
ROWS = [
    {"prompt": "2+2=", "chosen": "4", "rejected": ["5", "22", "3"]},
    {"prompt": "3+3=", "chosen": "6", "rejected": ["9", "33"]},
    {"prompt": "4+1=", "chosen": "5", "rejected": ["41", "3", "4"]},
]


@pytest.fixture
def loaded(lm: Path) -> tuple[Any, Any]:
    """A fresh model and its tokenizer."""
    return transformers.AutoModelForCausalLM.from_pretrained(lm), transformers.AutoTokenizer.from_pretrained(lm)


def test_the_example_of_the_docstring(lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my-sft-model").symlink_to(lm)
    monkeypatch.chdir(tmp_path)
    (example,) = [t for t in doctest.DocTestFinder().find(module.fit, "fit", globs={}) if t.examples]
    assert doctest.DocTestRunner(verbose=False).run(example).failed == 0
    assert len(example.examples) <= 8


def test_fit_is_the_trainer_of_a_file(
    loaded: tuple[Any, Any], settings_file: Callable[..., Path], write_rows: Callable[..., str]
) -> None:
    """The same rows by `prefdata train`: the same steps."""
    rows = pairs(10)
    keys = {"steps": 3, "batch_prompts": 4, "optimizer": {"learning_rate": 1e-3}, "loss": {"beta": 0.5}}
    of_file = train(settings_file(objective="dpo", data={"path": write_rows(rows)}, **keys))
    trained = prefdata.fit(*loaded, rows, "dpo", **keys)
    for one, other in zip(trained.rows, of_file, strict=True):
        for name in ("loss", "margin", "chosen_logp", "grad_norm"):
            # stored log-probs come from other batches than ours: fp32 sums differ by 1e-5 at most
            assert one[name] == pytest.approx(other[name], abs=2e-4, rel=2e-4), name


@pytest.mark.parametrize("objective", [n for n in OBJECTIVES if n not in ("sppo_soft",)])
def test_every_objective_trains_on_rows_in_memory(objective: str, loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    references = {"start": model, "other": transformers.AutoModelForCausalLM.from_config(model.config)}
    rows = [{**r, "score": [1.0, *(0.1 * k for k in range(len(r["rejected"])))]} for r in ROWS]
    if "noise" in objective:  # nobody gives noise
        with pytest.raises(DataError, match="no row has a rejected candidate of origin"):
            prefdata.fit(model, tokenizer, rows, objective, batch_prompts=3)
        return
    before = [p.detach().clone() for p in model.parameters()]
    needed = {} if OBJECTIVES[objective].references == "none" else {"references": references}
    trained = prefdata.fit(model, tokenizer, rows, objective, steps=2, batch_prompts=3, **needed)
    assert [torch.isfinite(torch.tensor(r["loss"])) for r in trained.rows] == [True, True]
    assert trained.model is model
    assert any((b != p).any() for b, p in zip(before, model.parameters(), strict=True))


def test_messages_and_texts_are_the_same_rows(loaded: tuple[Any, Any], lm: Path) -> None:
    model, tokenizer = loaded
    conversations = [
        {
            "prompt": [{"role": "user", "content": r["prompt"]}],
            "chosen": [{"role": "user", "content": r["prompt"]}, {"role": "assistant", "content": r["chosen"]}],
            "rejected": [{"role": "assistant", "content": r["rejected"][0]}],
        }
        for r in ROWS
    ]
    texts = [{**r, "rejected": r["rejected"][0]} for r in ROWS]
    one = prefdata.fit(model, tokenizer, conversations, "dpo", steps=2)
    other = prefdata.fit(transformers.AutoModelForCausalLM.from_pretrained(lm), tokenizer, texts, "dpo", steps=2)
    assert [r["loss"] for r in one.rows] == [r["loss"] for r in other.rows]


def test_a_folder_gets_model_card_and_curves_and_goes_on(
    loaded: tuple[Any, Any], lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = loaded
    step, made = loop.one_step, list[int]()
    monkeypatch.setattr(loop, "one_step", lambda *a: made.append(a[5]) or step(*a))  # type: ignore[func-returns-value]
    out = tmp_path / "out"
    prefdata.fit(model, tokenizer, ROWS, "mcpo", folder=out, steps=3, checkpoint_s=1e-9)
    assert {"model.safetensors", "README.md", "metrics.jsonl", "train.json"} <= {p.name for p in out.iterdir()}
    whole = (out / "metrics.jsonl").read_text()
    again = transformers.AutoModelForCausalLM.from_pretrained(lm)
    trained = prefdata.fit(again, tokenizer, ROWS, "mcpo", folder=out, steps=3, checkpoint_s=1e-9)
    assert made == [0, 1, 2, 2], "from the last checkpoint"
    assert (out / "metrics.jsonl").read_text() == whole, "bit for bit"
    assert trained.facts["start"] == json.loads((out / "train.json").read_text())["start"]


@pytest.mark.parametrize(
    ("rows", "objective", "keys", "said"),
    [
        (ROWS, "dppo", {}, "unknown objective .did you mean 'dpo'"),
        (ROWS, "dpo", {"continue_from": "dpo/x"}, "continue_from is not a key of fit"),
        (ROWS, "dpo", {"lora": {}}, "lora is not a key of fit"),
        ([{"prompt": "a", "chosen": "b"}], "dpo", {}, r"rows\[0\]: missing rejected"),
        ([{"prompt": 3, "chosen": "b", "rejected": "c"}], "dpo", {}, r"rows\[0\].prompt: a text, or a list"),
        ([{**ROWS[0], "score": [1.0]}], "infonca", {}, r"rows\[0\].score: 1 scores of 4 answers"),
        ([{**ROWS[0], "chosen": [{"role": "user", "content": "x"}]}], "dpo", {}, r"rows\[0\].chosen: messages must be"),
        ([{**ROWS[0], "prompt": "x" * 999}], "dpo", {}, "no row to train on, 1 of 1 rows left out: too_long 1"),
        (ROWS, "mrpo", {"references": {}}, "mrpo combines two references or more"),
    ],
)
def test_mistakes_say_what_to_do(
    rows: list[dict[str, Any]], objective: str, keys: dict[str, Any], said: str, loaded: tuple[Any, Any]
) -> None:
    with pytest.raises((ConfigError, DataError), match=said):
        prefdata.fit(*loaded, rows, objective, **keys)


def test_weights_from_held_out_pairs_are_not_silently_those_of_each_example(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    asked = TrainingSettings.model_validate({"references": {"weights": "validation_accuracy"}})
    with pytest.raises(ConfigError, match="references.weights: validation_accuracy needs held-out rows, which fit has not"):
        prefdata.fit(model, tokenizer, ROWS, "mrpo", asked, references={"a": model, "b": model})


def test_a_train_py_of_the_users_shadows_nothing(tmp_path: Path, lm: Path) -> None:
    (tmp_path / "train.py").write_text("HERE = 'mine'\n")
    (tmp_path / "mine.py").write_text(
        "import train\n"
        "from prefdata import fit\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"model, tokenizer = (k.from_pretrained({str(lm)!r}) for k in (AutoModelForCausalLM, AutoTokenizer))\n"
        f"trained = fit(model, tokenizer, {ROWS!r}, 'mcpo', folder='out', steps=1)\n"
        "import sys\n"
        "print(train.HERE, len(trained.rows), sys.modules['train'] is train)\n"
    )
    done = subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "mine 1 True", done.stderr[-2000:]
    (tmp_path / "mine.py").write_text("from prefdata import fit\nimport train\nprint(fit.__module__, train.HERE)\n")
    done = subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "train.in_memory mine", done.stderr[-2000:]


def test_the_step_needs_neither_polars_nor_a_recipe() -> None:
    """What runs on a machine that has torch, transformers, numpy and pydantic only."""
    code = (
        "import sys\n"
        "for name in ('polars', 'pyarrow', 'typer', 'datasets'): sys.modules[name] = None\n"
        "import train.step, train.examples, train.settings, train.objectives.registry, train.first_batch, train.checkpoint\n"
        "print([m for m in sys.modules if m.startswith(('prefdata.recipe', 'prefdata.stages'))])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr[-1500:]


def test_a_folder_of_the_users_is_not_replaced(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="something else than a model made here"):
        prefdata.fit(*loaded, ROWS, folder=tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_two_rows_of_a_prompt_are_named(loaded: tuple[Any, Any]) -> None:
    with pytest.raises(DataError, match=r"rows\[2\]: the prompt of rows\[0\] again; give all rejected answers in one row"):
        prefdata.fit(*loaded, [ROWS[0], ROWS[1], ROWS[0]], "bco")


def test_weights_in_bf16_are_refused_and_dropout_is_off(loaded: tuple[Any, Any], lm: Path) -> None:
    _, tokenizer = loaded
    half = transformers.AutoModelForCausalLM.from_pretrained(lm, dtype=torch.bfloat16)
    with pytest.raises(ConfigError, match="weights in torch.bfloat16 cannot be trained; load it with dtype=torch.float32"):
        prefdata.fit(half, tokenizer, ROWS)
    shape = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, vocab_size=len(tokenizer))
    torch.manual_seed(0)
    drops = transformers.GPT2LMHeadModel(shape).train()
    trained = prefdata.fit(drops, tokenizer, ROWS, "simpo", steps=1)
    assert not trained.model.training


def test_one_row_is_too_few_for_a_loss_that_compares_prompts(loaded: tuple[Any, Any]) -> None:
    with pytest.raises(ConfigError, match="one row to train on"):
        prefdata.fit(*loaded, ROWS[:1], "kto", batch_prompts=2)
    assert [len(prefdata.fit(*loaded, ROWS, "kto", batch_prompts=2, epochs=1).rows)] == [1], "three rows are one batch"


def test_long_rows_are_left_out_before_anything_is_scored(loaded: tuple[Any, Any], capsys: pytest.CaptureFixture[str]) -> None:
    long = {**ROWS[0], "prompt": "9" * 200}
    assert len(prefdata.fit(*loaded, [*ROWS, long], "dpo", steps=1).rows) == 1
    assert "fit: 1 of 4 rows left out: too_long 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("objective", "keys", "said"),
    [
        ("kto", {"batch_prompts": 1}, "batch_prompts of 2 at least"),
        ("mcpo", {"negatives": {"steps": 3, "count": 2}}, "kernel chains may draw the same candidate"),
        ("dpo", {"stepps": 2}, "stepps: unknown key .did you mean 'steps'"),
        ("simpo", {"references": {"a": None}}, "simpo compares with no reference"),
        ("dpo", {"negatives": {"weight": "policy"}}, "fit: negatives.weight has no effect: dpo reads loss.beta, loss.label"),
        ("sft", {"loss": {"beta": 1.0}}, "fit: loss.beta has no effect: sft reads no key"),
    ],
)
def test_settings_are_checked_as_a_recipes_are(
    objective: str, keys: dict[str, Any], said: str, loaded: tuple[Any, Any]
) -> None:
    with pytest.raises(ConfigError, match=said):
        prefdata.fit(*loaded, ROWS, objective, **keys)
