"""What would stop a run later and can be known before is said at once, one line each, and nothing is made."""

import os
import time
from pathlib import Path

import huggingface_hub.constants
import pytest
from conftest import nectar

from prefdata.workflow import snakefile

BY_ND = {"license": "cc-by-nd-4.0"}


def test_everything_that_is_missing_is_said_together(make_run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", "/nowhere/token")
    run = make_run(
        sources={"sources": [{"name": "a", "path": "/nowhere/a.jsonl"}, {"name": "b", "path": "/nowhere/*.parquet", **BY_ND}]},
        score={"references": [{"name": "p", "model": "/nowhere/model"}]},
        publish={"repo_id": "me/mine"},
    )
    said = snakefile.preflight(run)
    assert [line.split("; ")[0] for line in said] == [
        "/nowhere/a.jsonl: no such file",
        "/nowhere/*.parquet: no file matches",
        "/nowhere/model: no such model folder",
        "me/mine: no token to publish with",
        "publish.repo_id: no licence is stated for a@local",
        "publish.repo_id: the licence does not let b@local (cc-by-nd-4.0) be pushed: it allows no derivatives, and a set with "
        "ranks and other answers is one",
    ]
    assert all("; " in line for line in said)
    with pytest.raises(SystemExit, match="error: /nowhere/a.jsonl"):
        snakefile.begin(run, None)
    assert not run.root.exists()


def test_a_sound_recipe_passes_and_the_worlds_own_source_is_made_later(make_run, write_rows) -> None:
    path = write_rows([nectar()])
    assert snakefile.preflight(make_run(sources={"sources": [{"name": "s", "path": path}]})) == []
    toy = make_run(toy={}, sources={"sources": [{"name": "toy", "path": "toy:"}]})
    assert snakefile.preflight(toy) == []


def test_the_errors_of_failed_jobs_are_the_last_lines(
    make_run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(sources={"sources": [{"name": "s", "path": "x"}]})
    logs = run.root / "logs"
    logs.mkdir(parents=True)
    (logs / "old.log").write_text("error: of another run\n")
    os.utime(logs / "old.log", (1, 1))
    monkeypatch.setattr(snakefile, "_started", [time.time() - 5])
    (logs / "sources.log").write_text("reading\nerror: f:1:x: bad; mend it\n")
    snakefile.failed(run)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "error: f:1:x: bad; mend it"
    assert "the same command goes on" in second
    assert Path(logs / "old.log").exists()
