"""What a run of a file leaves out, what it starts from and that it is done: said on the terminal, kept on the card."""

import json
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from prefdata.errors import ConfigError, DataError
from prefdata.workflow.execute import bring_up
from train import from_file
from train import run as run_
from train.left_out import LeftOut
from train.saving import save_tensors

PAIR = {"prompt": "Sab", "chosen": "ab", "rejected": "c"}


@pytest.fixture
def run_file(tmp_path: Path, lm: Path) -> Callable[..., Path]:
    """run_file(rows, key=...) -> a file that trains one step on these rows."""

    def write(rows: list[dict[str, object]], **keys: object) -> Path:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        data = {"path": str(tmp_path / "rows.jsonl"), **dict(keys.pop("data", {}))}  # type: ignore[call-overload]
        given = {"objective": "dpo", "model": str(lm), "output": str(tmp_path / "out"), "steps": 1, "batch_prompts": 4}
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump({**given, "threads": 1, **keys, "data": data}))
        return path

    return write


def prepared(path: Path) -> LeftOut:
    return from_file.prepare(from_file.load(path), bring_up)


def rows(count: int, **keys: str) -> list[dict[str, object]]:
    return [{**PAIR, "prompt": f"S{'ab' * i}", **keys} for i in range(count)]


def test_long_rows_are_counted_on_the_terminal_and_on_the_card(
    run_file: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = run_file([*rows(4), *({**PAIR, "prompt": "S" + "9" * (80 + i)} for i in range(6))])
    made = from_file.load(path)
    left = from_file.prepare(made, bring_up)
    assert "train: 6 of 10 rows left out: too_long 6\n" in capsys.readouterr().err
    run_.train(made.recipe, made.name, made.results, left)
    assert "6 of 10 rows left out: too\\_long 6" in (tmp_path / "out" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / "train.json").read_text())["left_out"] == "6 of 10 rows left out: too_long 6"


def test_bad_rows_count_against_the_limit_and_one_is_named(run_file: Callable[..., Path]) -> None:
    several = [*rows(6), {**PAIR, "prompt": "S\x00"}, {**PAIR, "prompt": "Sba", "chosen": " "}]
    with pytest.raises(DataError, match=r"rows and answers are bad .*raise data.max_reject_rate if this is expected"):
        prepared(run_file(several))
    left = prepared(run_file(several, data={"max_reject_rate": 0.5}))
    assert (left.rows, dict(left.reasons)) == (8, {"control_characters": 1, "empty_answer": 1})


def test_a_row_that_the_template_refuses_is_named_by_file_and_row(run_file: Callable[..., Path]) -> None:
    answer = {"role": "assistant", "content": "ab", "reasoning_content": "because"}
    other = {"prompt": [{"role": "user", "content": "Sbbb"}], "chosen": [answer], "rejected": "c"}
    with pytest.raises(DataError, match=r"^rows.jsonl:6: 1 of 18 rows and answers are bad.* refused_by_template 1.*reasoning"):
        prepared(run_file([*rows(5), other]))
    left = prepared(run_file([*rows(5), other], data={"max_reject_rate": 0.1}))
    assert str(left) == "1 of 6 rows left out: refused_by_template 1"
    with pytest.raises(DataError, match="1 of 16 rows and answers are bad"):  # an answer beside another pair of its prompt
        prepared(run_file([*rows(5), {**other, "prompt": "S"}]))


def test_where_no_row_is_left_the_reason_and_the_remedy_are_told(run_file: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="no row to train on, 2 of 2 rows left out: too_long 2 .*longer context"):
        prepared(run_file([{**PAIR, "prompt": "S" + "9" * (80 + i)} for i in range(2)]))


def test_a_row_is_left_out_once_whatever_its_answers_and_not_where_its_prompt_is_there(run_file: Callable[..., Path]) -> None:
    long = "x" * 100_001
    both = {"prompt": "Sbbb", "chosen": long, "rejected": long + "y"}
    one = {"prompt": "Saaa", "chosen": "ab", "rejected": long}
    pairs = [{"prompt": "Sba", "chosen": a, "rejected": b} for a, b in (("ab", "c"), ("c", "ab"), ("ab", "bb"))]
    left = prepared(run_file([*rows(4), both, one, *pairs], data={"max_reject_rate": 0.5}))
    assert (left.rows, dict(left.reasons)) == (7, {"no_candidate": 1, "too_many_chars": 1})


def test_errors_speak_of_the_files_own_keys(run_file: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError) as caught:
        from_file.load(run_file(rows(2), steps=None, epochs=None, references={"weights": "fixed"}))
    assert "train.runs" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        from_file.load(run_file(rows(2), loss={"margin": 1.0}, negatives={"weight": "policy"}, evaluation={"prompts": 3}))
    said = ("evaluation.prompts has no effect without", "loss.margin has no effect: dpo", "negatives.weight has no effect: dpo")
    assert all(f"run.yaml: {start}" in line for line, start in zip(str(caught.value).split("\n"), said, strict=True)), (
        caught.value
    )
    with pytest.raises(ConfigError, match=r"no file matches; correct data\.path"):
        prepared(run_file(rows(2), data={"path": "/nowhere/*.jsonl"}))


def test_a_finished_run_is_told_by_its_settings_data_and_model(run_file: Callable[..., Path], tmp_path: Path) -> None:
    path = run_file(rows(6))
    first, again = (call(path) for _ in range(2))
    assert "trained already" not in first
    assert "trained already, by these settings from this data: nothing to do" in again
    assert "trained already" not in call(run_file(rows(7)))
    assert "trained already" not in call(run_file(rows(7), seed=3))
    (tmp_path / "out" / "config.json").unlink()
    assert "trained already" not in call(run_file(rows(7), seed=3))


def call(path: Path) -> str:
    command = [sys.executable, "-m", "prefdata", "train", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_weights_are_readable_as_the_umask_says_and_a_full_disk_is_an_error_of_the_system(tmp_path: Path) -> None:
    save_tensors({"w": torch.zeros(4)}, tmp_path / "w.safetensors")
    (tmp_path / "plain").touch()
    modes = [stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("w.safetensors", "plain")]
    assert modes[0] == modes[1]
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
        with pytest.raises(OSError, match="File too large") as caught:
            save_tensors({"w": torch.zeros(4000)}, tmp_path / "large.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == 27
