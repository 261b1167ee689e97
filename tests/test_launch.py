"""A run's command becomes torchrun: what it calls, whom the ranks die with, one log, and how it ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from prefdata.recipe.results import Results
from train import from_file, launch, rules
from train.resolve import resolve
from train.settings import what_identifies

BECOME = "import sys; from pathlib import Path; from train import launch; launch.command = lambda n, words: ['/bin/sh', '-c', *words]; "


def become(script: str, log: Path | None, **environment: str) -> "subprocess.Popen[str]":
    """A process that becomes a shell instead of torchrun."""
    code = f"{BECOME}print('before', file=sys.stderr); launch.become_torchrun(2, [sys.argv[1]], {f'Path({str(log)!r})' if log else None})"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", code, script], text=True, env={**os.environ, **environment}, **pipes)


def test_the_ranks_are_told_to_die_with_torchrun_which_is_the_process_that_was_started(tmp_path: Path) -> None:
    process = become("echo $PREFDATA_RUN_PID $$ ${PREFDATA_WARM-none}", None, PREFDATA_WARM="somewhere", PREFDATA_RUN_PID="1")
    assert process.communicate(timeout=60)[0] == f"{process.pid} {process.pid} none\n"


def test_all_that_is_said_is_in_one_log_whatever_ends_it(tmp_path: Path) -> None:
    """Two children speak, one of them after the first process and the whole group got a SIGTERM."""
    log = tmp_path / "logs" / "train.log"
    log.parent.mkdir()
    log.write_text("of an earlier run\n")
    ready = tmp_path / "ready"
    script = f"(trap '' TERM; echo first >&2; touch {ready}; sleep 1; echo last >&2) & echo second >&2; echo out; "
    script += f"while ! test -e {ready}; do sleep .1; done; kill -TERM 0; sleep 60"
    code = f"import os; os.setpgid(0, 0); {BECOME}launch.become_torchrun(2, [sys.argv[1]], Path({str(log)!r}))"
    done = subprocess.run([sys.executable, "-c", code, script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGTERM
    assert done.stdout == "out\n"
    assert sorted(done.stderr.split()) == ["first", "last", "second"]
    deadline = time.monotonic() + 60
    while len(log.read_text().split()) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert log.read_text() == done.stderr


def test_torchrun_is_called_with_time_for_a_checkpoint() -> None:
    words = launch.command(8, ["train", "--settings", "a$${local_rank}.yaml", "--run", "mcpo/m1"])
    assert words[0] == sys.executable
    assert words[words.index("--nproc-per-node") + 1] == "8"
    assert int(words[words.index("--shutdown-timeout") + 1]) > 600
    from torch.distributed.elastic.utils import macros
    from torch.distributed.run import config_from_args, parse_args

    parsed = parse_args(words[words.index("train.launch") + 1 :])
    config, script, arguments = config_from_args(parsed)
    assert (config.shutdown_timeout, script) == (launch.STOP_S, sys.executable)
    filled = macros.substitute(arguments, "3")
    assert filled == ["-P", "-m", "prefdata", "train", "--settings", "a$${local_rank}.yaml", "--run", "mcpo/m1"]


def test_who_was_started_as_a_rank_starts_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert not launch.is_rank()
    monkeypatch.setenv("WORLD_SIZE", "16")
    assert launch.is_rank()


TORCHRUN = [sys.executable, "-P", "-m", "train.launch", "--standalone", "--nproc-per-node", "2", "--no-python", "sh", "-c"]


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("exit 0", 0, ""),
        ("test $RANK = 0 || exit 2; sleep 60", 2, ""),
        ("test $RANK = 0 || kill -9 0; sleep 60", 137, "error: rank 1 "),
    ],
    ids=["well", "mistake", "killed"],
)
def test_how_it_ends_is_how_the_first_rank_ended(script: str, code: int, said: str) -> None:
    done = subprocess.run([*TORCHRUN, script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == bool(said)
    assert not said or (errors[0].startswith(said) and "was killed by SIGKILL; the same command goes on" in errors[0])


def test_a_sigterm_waits_for_the_ranks(tmp_path: Path) -> None:
    script = f"trap 'sleep 1; touch {tmp_path}/$RANK; exit 143' TERM; touch {tmp_path}/up$RANK; while :; do sleep .1; done"
    process = subprocess.Popen([*TORCHRUN, script], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while len(list(tmp_path.glob("up*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 143
    assert {p.name for p in tmp_path.iterdir()} == {"0", "1", "up0", "up1"}
    assert "Traceback" not in said


def test_devices_are_taken_before_torch_is_loaded(tmp_path: Path, write_rows: Callable[..., str]) -> None:
    """Of a run's own file and of a recipe's run: as many as it has processes."""
    write_rows([{"prompt": "a", "chosen": "b", "rejected": "c"}], "pairs.jsonl")
    (tmp_path / "file.yaml").write_text(
        "objective: dpo\ndata: {path: pairs.jsonl}\nmodel: m/x\nrevision: '" + "0" * 40 + "'\noutput: o\n"
    )
    (tmp_path / "recipe.yaml").write_text(
        "name: t\nsources: {sources: [{name: s, path: x}]}\n"
        "train: {runs: {sft/x: {set: sft, processes: 3, init: {tokenizer: 'toy:small'}}}}\n"
    )
    code = """
import sys
from prefdata.workflow import cli, lease
from train import commands
import typer
from prefdata.workflow.recipes import results_of
def taken(count):
    print(count, "torch" in sys.modules)
    sys.exit(0)
app = typer.Typer()
commands.add(app, cli.bring_up, lambda path: results_of(path).settings, taken)
app.command("other")(lambda: None)
app(sys.argv[1:])
"""
    for words, said in ((["file.yaml"], "1 False\n"), (["--settings", "recipe.yaml", "--run", "sft/x"], "3 False\n")):
        command = [sys.executable, "-c", code, "train", *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=100)
        assert done.stdout == said, done.stderr


def test_how_many_processes_is_in_no_trigger_identity_or_request(
    make_run: Callable[..., Results], write_rows: Callable[..., str], tmp_path: Path
) -> None:
    """Finished runs stay finished, and checkpoints stay the run's: how many may go on is theirs to say."""
    write_rows([{"prompt": "a", "chosen": "b", "rejected": "c"}], "pairs.jsonl")
    data, model = {"path": str(tmp_path / "pairs.jsonl")}, {"model": "m/x", "revision": "0" * 40}
    found = []
    for count in (1, 8):
        run = {"set": "sft", "processes": count, "init": {"tokenizer": "toy:small"}}
        results = make_run(sources={"sources": [{"name": "s", "path": "x"}]}, train={"runs": {"sft/x": run}})
        given = {"objective": "dpo", "data": data, "output": str(tmp_path / "o"), "processes": count, **model}
        request = from_file.request(from_file.of_settings(given, "f"))
        found.append((rules.trigger(results, "sft/x"), what_identifies(resolve(results.settings, "sft/x")), request))
    assert found[0] == found[1]
    assert "processes" not in found[0][0]
