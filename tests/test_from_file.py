"""One training run from a file of its own: foreign pairs, ranked rows, a set that was published; no recipe, no Snakemake."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import yaml
from conftest import nectar, run_stages

from prefdata.errors import ConfigError, DataError
from prefdata.models import scorer
from prefdata.recipe.job import Job
from prefdata.recipe.results import Results
from prefdata.recipe.units import Part
from prefdata.stages.registry import STAGES
from prefdata.tables import schema
from prefdata.tables.files import read_table
from prefdata.tables.table_writer import write_table
from prefdata.workflow.execute import bring_up
from train import from_file
from train import run as run_
from train.left_out import LeftOut


def pairs(count: int = 12) -> list[dict[str, str]]:
    return [
        {"prompt": "S" + "abcde"[i % 5] * (i // 5 + 1), "chosen": "ab" * (i % 3 + 1), "rejected": "c"} for i in range(count)
    ]


@pytest.fixture
def settings_file(tmp_path: Path, lm: Path) -> Callable[..., Path]:
    """settings_file(objective=..., data=..., ...) -> a file that trains two steps."""

    def write(**keys: object) -> Path:
        keys = {"model": str(lm), "output": str(tmp_path / "out"), "steps": 2, "batch_prompts": 6, "threads": 1, **keys}
        path = tmp_path / "settings.yaml"
        path.write_text(yaml.safe_dump(keys))
        return path

    return write


def train(path: Path) -> list[dict[str, float]]:
    made = from_file.load(path)
    from_file.prepare(made, bring_up)
    folder = run_.train(made.recipe, made.name, made.results)
    assert folder == Path(made.settings.output)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("objective", ["dpo", "mcpo", "sft", "simpo", "dpo_noise"])
def test_text_pairs_are_read_scored_and_trained_on(
    objective: str, settings_file: Callable[..., Path], write_rows: Callable[..., str], tmp_path: Path
) -> None:
    import transformers

    rows = train(settings_file(objective=objective, data={"path": write_rows(pairs())}))
    assert len(rows) == 2
    assert all(r["grad_norm"] > 0 for r in rows)
    if objective in ("dpo", "mcpo"):
        assert rows[0]["loss"] == pytest.approx(0.693147, abs=1e-5)  # the start is the reference
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.vocab_size == len(transformers.AutoTokenizer.from_pretrained(tmp_path / "out"))
    assert "| optimizer steps | 2 |" in (tmp_path / "out" / "README.md").read_text()


def test_ranked_rows_and_held_out_prompts(settings_file: Callable[..., Path], write_rows: Callable[..., str]) -> None:
    rows = [nectar("S" + "abcde"[i % 5] * (i // 5 + 1), (("ab", 1), ("ba", 2), ("c", 3))) for i in range(20)]
    data = {"path": write_rows(rows), "format": "nectar", "validation": 0.3}
    shown = train(settings_file(objective="mcpo", data=data, evaluation={"every": 2}))
    assert "eval_loss" in shown[-1]
    assert shown[0]["ess"] == pytest.approx(2)  # both rejected answers are weighed: nothing was pruned


def test_what_is_there_is_not_done_again_and_what_changed_is(
    settings_file: Callable[..., Path], write_rows: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = settings_file(objective="dpo", data={"path": write_rows(pairs())})
    train(path)
    made = from_file.load(path)
    run = replace(made.results, stages=STAGES)
    assert all(Job(run, s, u).fresh() for s in from_file.STAGES for u in run.units(s))
    capsys.readouterr()
    from_file.prepare(made, bring_up)
    assert "made" not in capsys.readouterr().err
    more = pairs(14)
    write_rows(more)
    from_file.prepare(made, bring_up)
    assert "4 made" in capsys.readouterr().err  # the two new pairs
    sets = read_table(made.results.table(Part("sets", "sets", "preference"), 0), "sets")
    assert sets.height == 14


def test_another_set_of_files_is_another_input(
    settings_file: Callable[..., Path], write_rows: Callable[..., str], tmp_path: Path
) -> None:
    """A file that goes, or comes with an old time, changes the rows as much as one that is written anew."""
    one, two = (Path(write_rows(pairs(12)[k : k + 6], f"part{k}.jsonl")) for k in (0, 6))
    made = from_file.load(settings_file(objective="dpo", data={"path": str(tmp_path / "part*.jsonl")}))
    sets = made.results.table(Part("sets", "sets", "preference"), 0)
    for there, rows in ((True, 12), (False, 6), (True, 12)):
        two.rename(tmp_path / "aside") if not there else (tmp_path / "aside").exists() and (tmp_path / "aside").rename(two)
        from_file.prepare(made, bring_up)
        assert read_table(sets, "sets").height == rows
    assert one.exists()


# ---- published sets ----


@pytest.fixture
def published(make_run: Callable[..., Results], write_rows: Callable[..., str], lm: Path) -> Path:
    """A published folder whose reference is the tiny model."""
    rows = [nectar("S" + "abcde"[i % 5] * (i // 5 + 1), (("ab", 1), ("ba", 2), ("c", 3))) for i in range(12)]
    run = make_run(
        sources={"sources": [{"name": "s", "path": write_rows(rows), "license": "mit"}]},
        split={"train": 1, "validation": 0, "test": 0},
        score={"references": [{"name": "primary", "model": str(lm)}]},
        prune={"drop_ranks": []},
    )
    stages = ("sources", "split", "prune", "rank", "noise", "score", "sets", "report", "card", "publish")
    run_stages(run, *stages)
    return run.root / "publish" / "t"


def test_a_published_set_is_trained_on_with_its_own_log_probs(
    published: Path, settings_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = settings_file(objective="mcpo", data={"path": str(published), "format": "sets"})
    monkeypatch.setattr(scorer.Scorer, "values", lambda *_: pytest.fail("scored again"))
    rows = train(path)
    assert rows[0]["loss"] == pytest.approx(0.693147, abs=1e-5)


def test_only_references_that_a_published_set_lacks_are_scored(
    published: Path, settings_file: Callable[..., Path], lm: Path
) -> None:
    references = [{"name": "primary", "model": str(lm)}, {"name": "other", "model": str(lm)}]
    path = settings_file(objective="mrpo", data={"path": str(published), "format": "sets"}, reference_models=references)
    train(path)
    made = from_file.load(path)
    sets = read_table(made.results.table(Part("sets", "sets", "preference"), 0), "sets")
    for row in sets.to_dicts():
        for candidate in row["candidates"]:
            first, second = candidate["logps"]
            assert (first["reference"], second["reference"]) == ("primary", "other")
            assert second["logp"] == pytest.approx(first["logp"], abs=1e-5)  # the same model by another name


def test_log_probs_made_otherwise_are_refused_by_field(published: Path, settings_file: Callable[..., Path], lm: Path) -> None:
    references = [{"name": "primary", "model": str(lm), "template": "plain"}]
    path = settings_file(objective="dpo", data={"path": str(published), "format": "sets"}, reference_models=references)
    with pytest.raises(ConfigError, match="under primary differ from the settings: template 'chat', not 'plain'"):
        from_file.load(path)


def test_candidates_a_new_reference_cannot_read_are_left_out(
    published: Path, lm: Path, settings_file: Callable[..., Path]
) -> None:
    references = [{"name": "short", "model": str(lm), "max_tokens": 8}]
    path = settings_file(objective="dpo", data={"path": str(published), "format": "sets"}, reference_models=references)
    made = from_file.load(path)
    left = LeftOut()
    rows = from_file.with_logps(made.published, made.recipe.score.references[0], made.results, left)
    kept = rows.to_dicts()
    assert 0 < len(kept) < made.published.height
    assert all(len(r["candidates"]) > 1 and r["candidates"][0]["role"] == "chosen" for r in kept)
    names = [x["reference"] for r in kept for c in r["candidates"] for x in c["logps"]]
    assert set(names) == {"primary", "short"}


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda f: (f / "manifest.json").write_text("{}"), "not a manifest of ours"),
        (lambda f: [p.unlink() for p in f.glob("data/sets/*")], "no published set"),
        (lambda f: [p.write_bytes(p.read_bytes()[:-9]) for p in f.glob("data/sets/*")], "damaged Parquet"),
        (lambda f: _without_chosen(f), "a row needs one chosen candidate, the first"),
    ],
)
def test_a_published_folder_that_is_none_is_told(
    published: Path, settings_file: Callable[..., Path], break_it: Callable[[Path], object], said: str
) -> None:
    break_it(published)
    with pytest.raises((ConfigError, DataError), match=said):
        from_file.load(settings_file(objective="dpo", data={"path": str(published), "format": "sets"}))


def _without_chosen(folder: Path) -> None:
    for path in folder.glob("data/sets/*"):
        frame = pl.read_parquet(path)
        reverse = frame.with_columns(pl.col("candidates").list.reverse())
        assert set(reverse.columns) == set(schema.TABLES["sets"].columns)
        reverse.write_parquet(path)


def test_a_published_set_of_another_start_is_refused_where_the_start_is_scored(
    published: Path, settings_file: Callable[..., Path], lm: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(lm, other)
    (other / "generation_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="kto must start from the set's primary reference primary"):
        from_file.load(settings_file(objective="kto", data={"path": str(published), "format": "sets"}, model=str(other)))


def test_a_published_set_that_lacks_log_probs_asks_for_the_model(published: Path, settings_file: Callable[..., Path]) -> None:
    for path in published.glob("data/sets/*"):
        rows = pl.read_parquet(path).to_dicts()
        rows[0]["candidates"][1]["logps"] = []
        pl.DataFrame(rows, schema=pl.read_parquet_schema(path)).write_parquet(path)
    with pytest.raises(ConfigError, match="has no log-prob under primary"):
        from_file.load(settings_file(objective="dpo", data={"path": str(published), "format": "sets"}))


def test_pairs_after_a_published_set_in_the_same_output(
    published: Path, settings_file: Callable[..., Path], write_rows: Callable[..., str]
) -> None:
    train(settings_file(objective="dpo", data={"path": str(published), "format": "sets"}))
    assert len(train(settings_file(objective="dpo", data={"path": write_rows(pairs(6))}))) == 2


def test_another_reference_begins_anew(published: Path, settings_file: Callable[..., Path], lm: Path) -> None:
    """Log-probs under both are in the set; a finished run under one is no checkpoint of the other's."""
    data = {"path": str(published), "format": "sets"}
    both = [{"name": "primary", "model": str(lm)}, {"name": "other", "model": str(lm)}]
    train(settings_file(objective="mrpo", data=data, reference_models=both, checkpoint_s=1e-9))
    made = from_file.load(settings_file(objective="dpo", data=data, reference_models=both[:1], checkpoint_s=1e-9))
    from_file.prepare(made, bring_up)
    run_.train(made.recipe, made.name, made.results)
    scratch = made.results.root / "chunks" / "train" / "dpo" / "model"
    first = json.loads(next(scratch.glob("step-*/state.json")).read_text())["identity"]
    swapped = made.recipe.score.model_copy(
        update={"references": [made.recipe.score.references[0].model_copy(update={"name": "x"})]}
    )
    assert swapped.references[0].name == "x"
    sets = made.results.table(Part("sets", "sets", "preference"), 0)
    rows = read_table(sets, "sets").to_dicts()
    for row in rows:
        for candidate in row["candidates"]:
            candidate["logps"].append({**candidate["logps"][0], "reference": "x"})
    write_table(sets, "sets", pl.DataFrame(rows, schema=schema.TABLES["sets"].schema))
    run_.train(made.recipe.model_copy(update={"score": swapped}), made.name, made.results)
    assert json.loads(next(scratch.glob("step-*/state.json")).read_text())["identity"] != first


# ---- mistakes ----


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"objective": "dpoo"}, "unknown objective .did you mean 'dpo'"),
        ({"data": {"path": "x.jsonl", "format": "trl_pair"}}, "format 'trl_pair' is unknown .did you mean 'trl_pairs'"),
        ({"data": {"format": "sets"}}, "give either path .one folder. or dataset"),
        ({"data": {"dataset": "a/b"}}, "needs its revision"),
        ({"epoch": 1}, "unknown key .did you mean 'epochs'"),
        ({"output": "/etc"}, "holds something else than a model made here"),
        ({"reference_models": [], "objective": "simpo"}, "simpo compares with no reference"),
        ({"data": {"path": "x", "format": "sets", "validation": 0.1}}, "no published set"),
        ({"model": "/nowhere/model"}, "no such model folder"),
    ],
)
def test_mistakes_are_one_line(
    keys: dict[str, object], said: str, settings_file: Callable[..., Path], write_rows: Callable[..., str]
) -> None:
    with pytest.raises(ConfigError, match=said):
        made = from_file.load(settings_file(**{"objective": "dpo", "data": {"path": write_rows(pairs())}, **keys}))
        from_file.prepare(made, bring_up)


def test_the_command_line(settings_file: Callable[..., Path], write_rows: Callable[..., str], tmp_path: Path) -> None:
    """A process of its own: trains, says where; again: the same; a recipe is told apart."""
    path = settings_file(objective="dpo", data={"path": write_rows(pairs(6))}, steps=1)
    command = [sys.executable, "-m", "prefdata", "train", str(path)]
    first = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip() == str(tmp_path / "out")
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    again = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == weights
    (tmp_path / "out" / "mine.txt").write_text("a file of one's own")
    refused = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert refused.returncode == 2
    assert "holds something else than a model made here" in refused.stderr
    path.write_text("name: x\n")
    other = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert other.returncode == 2
    assert "no objective: this is no training run's file" in other.stderr
