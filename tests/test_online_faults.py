"""Online runs that something happens to: foreign checkpoints, a judge that fails, poor answers, kills, other shards."""

import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from conftest import run_stages
from recipes import ONLINE

from prefdata import draws
from prefdata.draws import choose, hash64
from prefdata.errors import ConfigError, DataError, EngineError
from prefdata.judging import exact
from prefdata.judging.exact import ExactJudge
from prefdata.judging.judge import Judge
from prefdata.judging.registry import KINDS, JudgeKind
from prefdata.models.chat import Refused
from prefdata.models.engines.protocol import Completion, Replies, Request
from prefdata.models.engines.transformers import TransformersEngine
from prefdata.models.loading import load_model
from prefdata.models.scorer import Scorer
from prefdata.models.tokens import columns_of, load_encoder
from prefdata.output import curves
from prefdata.recipe.read import validate_recipe
from prefdata.recipe.results import Results
from prefdata.recipe.settings.online import Segment
from prefdata.recipe.settings.segments import START
from prefdata.sources.toy import tokenizers
from prefdata.stages.registry import STAGES
from prefdata.stages.segmented import OF_SEGMENTS
from prefdata.tables import files
from train import checkpoint, loop, rules
from train import policy as policy_
from train import step as step_
from train.left_out import LeftOut
from train.loop import make_optimizer
from train.plan import Plan
from train.processes import SINGLE
from train.run import prepare, train
from train.saving import save_tensors
from train.settings import InitSettings, TrainingSettings

MCPO, KTO = "mcpo/online", "kto/online"
FIRST, SECOND = f"{MCPO}-1of3", f"{MCPO}-2of3"
TOY = {"demonstrations": 60, "train": 40, "test": 4}


def recipe_of(**keys: Any) -> dict[str, Any]:
    """ONLINE with fewer demonstrations, a policy of two layers, and a checkpoint after each step."""
    recipe = deepcopy(ONLINE) | {"dedup": None, "toy": TOY}
    runs = recipe["train"]["runs"]
    runs["sft/policy"]["init"]["layers"] = 2
    runs[KTO]["optimizer"] = {"learning_rate": 3e-3}
    for name in (MCPO, KTO):
        runs[name]["checkpoint_s"] = 1e-9
    return recipe | keys


def results_of(folder: Path, recipe: dict[str, Any] | None = None) -> Results:
    return Results(validate_recipe(recipe or recipe_of(), "test"), STAGES, folder)


def begun(run: Results) -> Results:
    """The world and the first policy."""
    run_stages(run, "toy", "sources", "split", "prune", "rank:source", "sets:sft")
    train(run.settings, "sft/policy", run)
    return run


def part(run: Results, name: str, number: int) -> Segment:
    return run.settings.parts(name)[number - 1]


def answered(run: Results, name: str, number: int) -> None:
    """A segment up to its set."""
    inside = f"{part(run, name, number).name}."
    run_stages(run, *(f"{stage}:{u}" for stage in OF_SEGMENTS for u in run.units(stage) if u.startswith(inside)))


def trained(run: Results, name: str, number: int) -> list[dict[str, Any]]:
    """Train a part; its rows of metrics."""
    train(run.settings, part(run, name, number).model, run)
    return metrics(run, name, number)


def metrics(run: Results, name: str, number: int) -> list[dict[str, Any]]:
    path = run.path(f"models/{part(run, name, number).model}/metrics.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def went(run: Results, name: str, *numbers: int) -> Results:
    for number in numbers:
        answered(run, name, number)
        trained(run, name, number)
    return run


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """As the recipe's `threads` asks for: the last bits of a sum depend on it."""
    kept = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(kept)


@pytest.fixture(scope="module", autouse=True)
def _no_charts() -> Iterator[None]:
    """Half of the time that such a small part takes."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(curves, "draw", lambda rows, title, path: path.touch())
        patched.setattr(curves, "page_of", lambda runs, title: "")
        yield


@pytest.fixture(scope="module")
def begin(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Before any segment."""
    return begun(results_of(tmp_path_factory.mktemp("begin")))


@pytest.fixture(scope="module")
def chain(begin: Results, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Both online runs, unbroken."""
    run = copy_of(begin, tmp_path_factory.mktemp("chain"))
    return went(went(run, MCPO, 1, 2, 3), KTO, 1, 2)


def copy_of(run: Results, folder: Path, recipe: dict[str, Any] | None = None) -> Results:
    shutil.copytree(run.folder, folder, dirs_exist_ok=True)
    return results_of(folder, recipe)


def without(run: Results, name: str, first: int, answers: bool = True) -> Results:
    """The results less the models of the parts from `first` on, and their answers."""
    for segment in run.settings.parts(name)[first - 1 :]:
        shutil.rmtree(run.path(f"models/{segment.model}"))
        shutil.rmtree(run.path(f"chunks/train/{segment.model}"), ignore_errors=True)
        for path in run.root.glob(f"*/**/{segment.name}.*") if answers else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return run


@pytest.fixture
def after_1(chain: Results, tmp_path: Path) -> Results:
    """mcpo/online after its first segment."""
    return without(copy_of(chain, tmp_path / "results"), MCPO, 2)


@pytest.fixture
def untrained_2(chain: Results, tmp_path: Path) -> Results:
    """mcpo/online whose second segment has its set and was not trained on."""
    return without(copy_of(chain, tmp_path / "results"), MCPO, 2, answers=False)


def files_of(run: Results, name: str, number: int) -> dict[str, bytes]:
    """The tables of a segment and what its training left."""
    segment = part(run, name, number)
    found = [*run.root.glob(f"tables/*/*/{segment.name}.*/*"), *run.path(f"models/{segment.model}").rglob("*")]
    return {str(p.relative_to(run.root)): p.read_bytes() for p in found if p.is_file()}


def table(run: Results, name: str, stage: str, segment: Segment) -> pl.DataFrame:
    paths = sorted((run.root / "tables" / name / stage).glob(f"{segment.name}.*/*-of-{run.settings.num_shards:05d}.parquet"))
    assert len(paths) == run.settings.num_shards
    return pl.concat([files.read_table(p, name) for p in paths])


def same(one: Results, other: Results, name: str, *numbers: int) -> None:
    for number in numbers:
        made, wanted = files_of(one, name, number), files_of(other, name, number)
        assert made.keys() == wanted.keys()
        assert [path for path in wanted if made[path] != wanted[path]] == []


# ---- a checkpoint that is another's ----


def refused(run: Results, *said: str, number: int = 2) -> None:
    """A part ends in one line that says all this, and leaves nothing."""
    before = {p for p in run.root.rglob("*") if p.is_file()}
    with pytest.raises((ConfigError, DataError)) as told:
        trained(run, MCPO, number)
    line = str(told.value)
    assert "\n" not in line
    for text in said:
        assert re.search(text, line), line
    written = {str(p.relative_to(run.root)) for p in run.root.rglob("*") if p.is_file() and p not in before}
    assert not [p for p in written if not p.startswith("chunks/revisions/")], written


@pytest.fixture(scope="module")
def smaller(begin: Results, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """smaller(hidden_size=..., layers=...) -> the folder of a model with the policy's tokenizer, its optimizer beside it."""

    def make(**shape: int) -> Path:
        folder = tmp_path_factory.mktemp("smaller")
        encoder = load_encoder(begin.model_path("run:sft/policy"))
        init = InitSettings(**{"tokenizer": "toy:small", "hidden_size": 32, "heads": 1, "layers": 2, "mlp": 32, **shape})
        model = policy_.fresh(init, encoder, 1)
        model.save_pretrained(folder)
        encoder.tokenizer.save_pretrained(folder)
        optimizer = make_optimizer(model, TrainingSettings())
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        (folder / "optimizer").mkdir()
        save_tensors(checkpoint.optimizer_tensors(optimizer), folder / "optimizer" / "optimizer.safetensors")
        return folder

    return make


NARROW, SHALLOW = {"hidden_size": 16, "mlp": 16}, {"layers": 1}
WEIGHTS, CONFIG, MOMENTS = "model.safetensors", "config.json", "optimizer/optimizer.safetensors"


@pytest.mark.parametrize("shape", [NARROW, SHALLOW], ids=["narrow", "shallow"])
@pytest.mark.parametrize("taken", [[WEIGHTS, CONFIG], [WEIGHTS], [MOMENTS]], ids=["model", "weights", "optimizer"])
def test_a_checkpoint_of_another_architecture_is_refused(
    untrained_2: Results, smaller: Callable[..., Path], shape: dict[str, int], taken: list[str]
) -> None:
    own, other = untrained_2.path(f"models/{FIRST}"), smaller(**shape)
    for name in taken:
        shutil.copyfile(other / name, own / name)
    refused(untrained_2, re.escape(str(own)), "again")


def test_a_model_without_its_optimizer_is_refused(untrained_2: Results, smaller: Callable[..., Path]) -> None:
    own = untrained_2.path(f"models/{FIRST}")
    shutil.rmtree(own)
    shutil.copytree(smaller(**NARROW), own)
    shutil.rmtree(own / "optimizer")
    refused(untrained_2, re.escape(str(own)), "no optimizer to continue with", "again")


def test_the_optimizer_of_another_online_run_is_refused(untrained_2: Results) -> None:
    own = untrained_2.path(f"models/{FIRST}/optimizer")
    shutil.rmtree(own)
    shutil.copytree(untrained_2.path(f"models/{KTO}-1of2/optimizer"), own)
    refused(untrained_2, "part 2 is of 10 steps in all, what it continues from of 5", "again")


def test_the_optimizer_of_an_earlier_part_is_refused(chain: Results, tmp_path: Path) -> None:
    run = without(copy_of(chain, tmp_path / "results"), MCPO, 3, answers=False)
    shutil.rmtree(run.path(f"models/{SECOND}/optimizer"))
    shutil.copytree(run.path(f"models/{FIRST}/optimizer"), run.path(f"models/{SECOND}/optimizer"))
    refused(run, "part 3 begins at step 6, what it continues from ended at 3", "again", number=3)


def swapped(tokenizer: dict[str, Any]) -> None:
    """As many pieces, two of them with each other's ids."""
    pieces = tokenizer["model"]["vocab"]
    pieces["a"], pieces["b"] = pieces["b"], pieces["a"]


def fewer(tokenizer: dict[str, Any]) -> None:
    """Without the piece of system prompts, which is the last."""
    assert tokenizer["added_tokens"].pop()["content"] == "<system>"


def reading_otherwise(tokenizer: dict[str, Any]) -> None:
    """The same pieces, of texts in lower case."""
    tokenizer["normalizer"] = {"type": "Lowercase"}


@pytest.mark.parametrize("change", [swapped, fewer, reading_otherwise])
def test_another_tokenizer_is_refused(untrained_2: Results, change: Callable[[dict[str, Any]], None]) -> None:
    own = untrained_2.path(f"models/{FIRST}")
    tokenizer = json.loads((own / "tokenizer.json").read_text())
    change(tokenizer)
    (own / "tokenizer.json").write_text(json.dumps(tokenizer))
    if change is fewer:
        config = json.loads((own / "tokenizer_config.json").read_text())
        (own / "tokenizer_config.json").write_text(json.dumps({**config, "extra_special_tokens": []}))
    refused(untrained_2, re.escape(str(own)), "again")


def test_a_tokenizer_of_more_pieces_is_refused(untrained_2: Results, tmp_path: Path) -> None:
    own = untrained_2.path(f"models/{FIRST}")
    tokenizers.write(tmp_path / "t")
    for path in (tmp_path / "t" / "large").iterdir():
        shutil.copyfile(path, own / path.name)
    (own / "chat_template.jinja").unlink(missing_ok=True)
    refused(untrained_2, re.escape(str(own)), "tokenizer")


# ---- a judge that fails ----


class Failing(ExactJudge):
    """The exact judge, with what it was asked and what it answered; while it is `down`, a third of the pairs have no verdict."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.asked, self.answered = True, list[str](), set[str]()

    def _one(self, request: Request) -> Completion:
        content = request.messages[-1]["content"]
        self.asked.append(content)
        question = json.loads(content)
        if self.down and hash64(0, question["task"], *sorted((question["first"], question["second"]))) % 3 == 0:
            return Completion("", "error", 0, "503", transient=True)
        self.answered.add(content)
        return super()._one(request)


def test_a_judge_that_fails_says_its_share_and_goes_on_later(
    chain: Results, after_1: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Failing()
    judge = Judge(lambda spent: nullcontext(engine), exact.ask, exact.read, exact.RUBRIC, "1")
    monkeypatch.setitem(KINDS, "exact", JudgeKind(lambda models, settings: judge, "failing"))
    with pytest.raises(EngineError, match=r"\d+ of \d+ verdicts are missing \(\d+ 503\); .*max_failed") as told:
        answered(after_1, MCPO, 2)
    failed, asked = map(int, re.findall(r"(\d+) of (\d+) verdicts", str(told.value))[0])
    assert (failed, asked) == (asked - len(engine.answered), len(engine.asked))
    assert 0.15 < failed / asked < 0.5
    assert not [*after_1.root.glob(f"tables/verdicts/judge/{part(after_1, MCPO, 2).name}.*/*")]
    finished, engine.down = set(engine.answered), False
    engine.asked.clear()
    went(after_1, MCPO, 2)
    assert engine.asked
    assert not finished & set(engine.asked), "a finished verdict is asked again"
    same(after_1, chain, MCPO, 2)


# ---- answers that are worth nothing ----

POOR: dict[str, Callable[[Completion], Completion]] = {
    "equal": lambda c: replace(c, text="ab", finish="stop"),
    "empty": lambda c: replace(c, text="", finish="stop"),
    "truncated": lambda c: replace(c, finish="length"),
    "failed": lambda c: replace(c, text="", finish="error", reason="timeout"),
}


def answers(monkeypatch: pytest.MonkeyPatch, kind: Callable[[str], str | None]) -> None:
    """Answers of the engine are what `kind` makes of them by their prompts."""
    real = TransformersEngine.complete

    def complete(self: TransformersEngine, requests: Iterable[Request]) -> Replies:
        asked = list(requests)
        for place, completion in real(self, asked):
            made = kind(asked[place].id)
            yield place, POOR[made](completion) if made else completion

    monkeypatch.setattr(TransformersEngine, "complete", complete)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        pytest.param("equal", r"\b{prompts} identical", id="equal"),
        pytest.param("empty", r"\b{answers} empty_answer", id="empty"),
        pytest.param("truncated", r"\b\d+ .*(truncat|cut|length)", id="truncated"),
    ],
)
def test_a_segment_of_poor_answers_only_says_why_it_has_no_rows(
    after_1: Results, monkeypatch: pytest.MonkeyPatch, kind: str, said: str
) -> None:
    answers(monkeypatch, lambda prompt: kind)
    answered(after_1, MCPO, 2)
    monkeypatch.undo()
    asked = table(after_1, "drops", "sets", part(after_1, MCPO, 2)).height
    refused(after_1, "no rows of split train", said.format(prompts=asked, answers=4 * asked))


def test_some_poor_answers_change_neither_steps_nor_schedule(
    chain: Results, after_1: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = ["equal", "empty", "truncated", None, None]
    answers(monkeypatch, lambda prompt: kinds[hash64(0, prompt) % len(kinds)])
    went(after_1, MCPO, 2)
    monkeypatch.undo()
    rows = table(after_1, "sets", "sets", part(after_1, MCPO, 2)).height
    before = table(chain, "sets", "sets", part(chain, MCPO, 2)).height
    assert 0 < rows < 8 < before, "fewer than one batch are left"
    went(after_1, MCPO, 3)
    for number in (2, 3):
        made, wanted = metrics(after_1, MCPO, number), metrics(chain, MCPO, number)
        assert [(r["step"], r["lr"]) for r in made] == [(r["step"], r["lr"]) for r in wanted]
    epochs = [r["epoch"] for r in metrics(after_1, MCPO, 2)]
    assert epochs == [epochs[0], epochs[0] + 1, epochs[0] + 2], "the order wraps"


def test_an_engine_that_fails_names_the_key_of_online_runs(after_1: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, lambda prompt: "failed" if hash64(0, prompt) % 3 == 0 else None)
    with pytest.raises(EngineError, match=r"\d+ of \d+ answers failed: .'timeout': \d+.; .*online\.max_failed"):
        answered(after_1, MCPO, 2)


# ---- another number of prompts ----


def of_prompts(run: Results, prompts: int, epochs: int) -> Results:
    """The same folder as of a recipe with so many prompts, its prompts read again."""
    recipe = recipe_of(toy={**TOY, "train": prompts})
    recipe["train"]["runs"][MCPO]["epochs"] = epochs
    other = results_of(run.folder, recipe)
    run_stages(other, "toy", "sources", "split")
    return other


@pytest.mark.parametrize(
    ("epochs", "begins"),
    [
        pytest.param(2, r"part 2 is of 12 steps in all, what it continues from of 10", id="begins elsewhere"),
        pytest.param(1, r"part 2 is of 4 steps in all, what it continues from of 5", id="begins at the same step"),
    ],
)
def test_another_number_of_prompts_between_parts_is_refused(untrained_2: Results, epochs: int, begins: str) -> None:
    """40 prompts in batches of 8 are 5 steps an epoch: of 2 epochs part 2 begins at 3, of 48 prompts at 4. Of one epoch it
    begins at 1, whether there are 40 prompts or 32."""
    trained(of_prompts(untrained_2, 40, epochs), MCPO, 1)
    refused(of_prompts(untrained_2, 48 if epochs == 2 else 32, epochs), begins, "again")


# ---- kills ----


@pytest.mark.parametrize(
    ("stage", "owner", "name", "at"),
    [
        ("generate", TransformersEngine, "_batch", 4),
        ("judge", ExactJudge, "_one", 20),
        ("score", Scorer, "values", 4),
        ("train", loop, "one_step", 3),
    ],
    ids=["generate", "judge", "score", "train"],
)
def test_a_killed_segment_goes_on_to_the_unbroken_end(
    chain: Results, after_1: Results, monkeypatch: pytest.MonkeyPatch, stage: str, owner: Any, name: str, at: int
) -> None:
    real, calls = getattr(owner, name), count(1)

    def dying(*args: Any, **keys: Any) -> Any:
        if next(calls) == at:
            raise KeyboardInterrupt
        return real(*args, **keys)

    monkeypatch.setattr(owner, name, dying)
    with pytest.raises(KeyboardInterrupt):
        went(after_1, MCPO, 2)
    monkeypatch.undo()
    assert 0 < finished(after_1, stage) < finished(chain, stage)
    assert not after_1.path(f"models/{SECOND}").exists()
    went(after_1, MCPO, 2)
    same(after_1, chain, MCPO, 2)
    assert not [*after_1.root.rglob("*.tmp")]


def finished(run: Results, stage: str) -> int:
    """Items that the second segment's unit of a stage has finished; of its training, steps."""
    if stage == "train":
        kept = checkpoint.checkpoints(run.path(f"chunks/train/{SECOND}"))
        return int(kept[-1].name.removeprefix("step-")) if not run.path(f"models/{SECOND}").exists() else 6
    [store] = run.root.glob(f"chunks/{stage}/{part(run, MCPO, 2).name}.*.sqlite")
    connection = sqlite3.connect(store)
    (items,) = connection.execute("SELECT COUNT(*) FROM items").fetchone()
    connection.close()
    return int(items)


# ---- two online runs, other shards ----


def test_two_online_runs_share_nothing(chain: Results) -> None:
    made = {n: [table(chain, "candidates", "generate", p) for p in chain.settings.parts(n)] for n in (MCPO, KTO)}
    ids = {n: set(pl.concat(frames)["candidate_id"]) for n, frames in made.items()}
    assert all(ids.values())
    assert not ids[MCPO] & ids[KTO]
    written = {n: {path for p in chain.settings.parts(n) for path in files_of(chain, n, p.number)} for n in (MCPO, KTO)}
    assert not written[MCPO] & written[KTO]
    folders = {n: {Path(path).parent for path in paths} for n, paths in written.items()}
    assert not folders[MCPO] & folders[KTO]


@pytest.mark.parametrize(("left", "gone"), [(MCPO, KTO), (KTO, MCPO)])
@pytest.mark.parametrize("of_all", [True, False], ids=["no run at all", "not online any more"])
def test_an_online_run_less_changes_nothing_of_the_other(chain: Results, left: str, gone: str, of_all: bool) -> None:
    recipe = recipe_of(evaluate={"runs": ["sft/policy"]})
    del recipe["online"]["runs"][gone]
    if of_all:
        del recipe["train"]["runs"][gone]
    run = results_of(chain.folder, recipe)
    assert {s.run for s in run.settings.segments} == {left}
    for segment in chain.settings.parts(left):
        assert rules.trigger(run, segment.model) == rules.trigger(chain, segment.model)
        assert run.outputs("online", segment.name) == chain.outputs("online", segment.name)
        assert run.trigger("online", segment.name) == chain.trigger("online", segment.name)
        for stage in OF_SEGMENTS:
            units = [[u for u in r.units(stage) if u.startswith(f"{segment.name}.")] for r in (run, chain)]
            assert units[0] == units[1] != []
            for unit in units[0]:
                assert run.trigger(stage, unit) == chain.trigger(stage, unit)
                assert run.inputs(stage, unit) == chain.inputs(stage, unit)
                assert run.outputs(stage, unit) == chain.outputs(stage, unit)


def test_results_do_not_depend_on_the_number_of_shards(chain: Results, tmp_path: Path) -> None:
    run = went(begun(results_of(tmp_path, recipe_of(num_shards=3))), MCPO, 1, 2)
    for number in (1, 2):
        for made, stage in (("candidates", "generate"), ("verdicts", "judge"), ("logps", "score"), ("sets", "sets")):
            one, other = (table(r, made, stage, part(r, MCPO, number)).sort("prompt_id") for r in (run, chain))
            assert one.height
            assert one.equals(other), (number, made)
    for model in ("sft/policy", FIRST, SECOND):
        assert (run.path(f"models/{model}") / WEIGHTS).read_bytes() == (chain.path(f"models/{model}") / WEIGHTS).read_bytes()


# ---- references ----


def plain_logp(model: Any, prompt: list[int], completion: list[int]) -> float:
    """The log-prob of a completion by transformers alone, a row by itself."""
    with torch.no_grad():
        logps = model(torch.tensor([[*prompt, *completion]])).logits[0].double().log_softmax(-1)
    return sum(float(logps[len(prompt) - 1 + place, token]) for place, token in enumerate(completion))


def test_a_segments_start_as_the_reference_is_scored_anew_in_each(begin: Results, chain: Results, tmp_path: Path) -> None:
    recipe = recipe_of()
    recipe["online"]["reference"] = "segment"
    run = went(copy_of(begin, tmp_path / "results", recipe), MCPO, 1, 2)
    for number in (1, 2):
        segment = part(run, MCPO, number)
        path = run.model_path(segment.start)
        model, encoder = load_model(path), load_encoder(path)
        for row in table(run, "sets", "sets", segment).to_dicts():
            prompt, said = columns_of(row), row["candidates"]
            [asked] = encoder.prompts([prompt])
            texts = [[c[key] for c in said] for key in ("response", "finish", "extras")]
            ids, _ = encoder.answers([prompt] * len(said), *texts)
            for candidate, own in zip(said, ids, strict=True):
                assert not isinstance(own, Refused)
                [kept] = candidate["logps"]
                assert kept["reference"] == START
                assert kept["logp"] == pytest.approx(plain_logp(model, asked, own), abs=1e-4)
        assert abs(metrics(run, MCPO, number)[0]["margin"]) < 1e-5
        assert metrics(run, MCPO, number)[-1]["margin"] != 0
    margins = [abs(metrics(chain, MCPO, number)[0]["margin"]) for number in (1, 2, 3)]
    assert margins[0] < 1e-5 < min(margins[1:]), "the first policy is the reference of all"


def test_kto_compares_mismatched_answers_with_the_first_policy(
    chain: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = without(copy_of(chain, tmp_path / "results"), KTO, 2, answers=False)
    first, start = (run.model_path(f"run:{name}") for name in ("sft/policy", f"{KTO}-1of2"))
    loaded = list[str]()

    def load(path: str, revision: str | None = None, shard: None = None) -> Any:
        loaded.append(path)
        return load_model(path, revision, shard=shard)

    def unclipped(policy: list[float], reference: list[float]) -> float:
        return sum(p - r for p, r in zip(policy, reference, strict=True)) / len(policy)

    monkeypatch.setattr(policy_, "load_model", load)
    monkeypatch.setattr(step_, "mean_log_ratio", unclipped)
    shift = trained(run, KTO, 2)[0]["shift"]
    assert loaded == [start, first]
    monkeypatch.undo()
    assert max(shift, 0.0) == metrics(chain, KTO, 2)[0]["shift"]

    prepared = prepare(run, KTO, SINGLE, LeftOut())
    state = json.loads((Path(start) / "optimizer" / "state.json").read_text())
    plan = Plan.of(prepared.settings, prepared.order, state, prepared.whole)
    batch = [prepared.data[i] for i in plan.members(plan.first)]
    policy, reference = load_model(start), load_model(first)
    ratios = []
    for asked, said in zip(batch, [*batch[1:], batch[0]], strict=True):
        rejected = said.candidate_ids.index(choose(None, draws.NEGATIVE, sorted(said.candidate_ids[1:]), index=draws.FIRST))
        for completion in (said.completions[0], said.completions[rejected]):
            ratios.append(plain_logp(policy, asked.prompt, completion) - plain_logp(reference, asked.prompt, completion))
    assert shift == pytest.approx(sum(ratios) / len(ratios), abs=1e-4)
    assert abs(shift) > 1e-2, "its own start would give 0"
