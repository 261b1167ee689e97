"""A process that forks: children start at once, run the real command line or an operation of prefdata.files, and may die.

Told by lines of JSON what to run, it answers with lines of JSON. It imports nothing that starts threads.
"""

import importlib
import io
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import TracebackType
from typing import Any

Task = dict[str, Any]


class Zygote:
    """The process, for a `with` block."""

    def __init__(
        self, preload: Sequence[str] = ("prefdata.stages.sources", "prefdata.tables.files"), **environment: str
    ) -> None:
        self._preload, self._environment = preload, environment

    def __enter__(self) -> "Zygote":
        keep = {k: v for k, v in os.environ.items() if k != "PREFDATA_RUN_PID"}
        keep |= {"OMP_NUM_THREADS": "1", **self._environment}  # as the command sets it; here torch may be there before it
        self._process = subprocess.Popen(
            [sys.executable, __file__, *self._preload], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=keep
        )
        return self

    def run(self, folder: Path, *words: str, **task: Any) -> dict[str, Any]:
        """{code, signal, out, err} of `prefdata WORDS` (with the folder's recipe) or of an operation, in the folder.

        `kill` = (call, n): SIGKILL before the nth call; `limits`: soft limits by name; `die`: a write past
        RLIMIT_FSIZE kills; `operation`: a function of OPERATIONS instead of the command line, with these words.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"folder": str(folder), "words": words, **task}), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.wait(timeout=30)


def serve() -> None:
    for name in ("prefdata.workflow.cli", *sys.argv[1:]):
        importlib.import_module(name)
    for line in sys.stdin:
        task = json.loads(line)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            signal.alarm(60)
            os.write(write, json.dumps(obey(task)).encode())
            os._exit(0)
        os.close(write)
        with open(read) as pipe:
            said = pipe.read()
        _, status = os.waitpid(child, 0)
        answer = json.loads(said) if said else {"code": None, "out": "", "err": ""}
        print(json.dumps({**answer, "signal": status & 127}), flush=True)


def obey(task: Task) -> dict[str, Any]:
    """In the child: the limits and the kill, then the work."""
    os.chdir(task["folder"])
    out, err = io.StringIO(), io.StringIO()
    if "kill" in task:
        kill_before(*task["kill"])
    if task.get("die"):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    old = {getattr(resource, k): resource.getrlimit(getattr(resource, k)) for k in task.get("limits", {})}
    for name, soft in task.get("limits", {}).items():
        kind = getattr(resource, name)
        resource.setrlimit(kind, (soft, old[kind][1]))
    with redirect_stdout(out), redirect_stderr(err):
        code = code_of(lambda: work(task))
    for kind, both in old.items():
        resource.setrlimit(kind, both)
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def code_of(call: Callable[[], object]) -> int:
    try:
        call()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def work(task: Task) -> None:
    if "operation" in task:
        OPERATIONS[task["operation"]](*task["words"])
        return
    from prefdata.workflow import cli

    sys.argv = ["prefdata", *task["words"], "--settings", "recipe.yaml"]
    cli.run_command()


def kill_before(call: str, nth: int) -> None:
    """SIGKILL ourselves before the nth call of os.<call>, exchange of folders or commit of a sqlite store."""
    count = 0

    def counted() -> None:
        nonlocal count
        count += 1
        if count == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    if call == "commit":

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
                if sql == "COMMIT":
                    counted()
                return super().execute(sql, *arguments)

        real_connect = sqlite3.connect
        sqlite3.connect = lambda *a, **k: real_connect(*a, **{**k, "factory": Connection})  # type: ignore[assignment]
        return
    atomic = importlib.import_module("prefdata.tables.atomic")
    place: tuple[Any, str] = (atomic, "_exchange") if call == "exchange" else (os, call)
    real = getattr(*place)

    def before(*arguments: Any, **keys: Any) -> Any:
        counted()
        return real(*arguments, **keys)

    setattr(*place, before)


# ---- operations of prefdata.files over an older version; `version` says which text or rank is written ----

ROWS = 400


def ranks(version: int) -> Any:
    from prefdata.draws import hex_id
    from prefdata.tables import schema

    ids = [{"prompt_id": hex_id("p", i), "candidate_id": hex_id("c", i)} for i in range(ROWS)]
    return schema.frame("ranks", [{**i, "method": "m", "rank": version} for i in ids])


def text(version: int) -> str:
    return f"version {version}\n" * 400


def atomic_text(path: str, version: int) -> None:
    from prefdata.tables import atomic

    atomic.atomic_text(Path(path), text(version))


def atomic_write(path: str, version: int) -> None:
    from prefdata.tables import atomic

    def write(temporary: Path) -> None:
        with temporary.open("w") as file:
            for line in text(version).splitlines(keepends=True):
                file.write(line)
                file.flush()

    atomic.atomic_write(Path(path), write)


def atomic_folder(path: str, version: int) -> None:
    from prefdata.tables import atomic

    def write(folder: Path) -> None:
        for name in ("a", "b", "c"):
            (folder / name).write_text(text(version))

    atomic.atomic_folder(Path(path), write)


def write_table(path: str, version: int) -> None:
    from prefdata.tables import table_writer as writers

    writers.write_table(Path(path), "ranks", ranks(version), {"stage": "s"})


def table_writer(path: str, version: int) -> None:
    """In four parts."""
    from prefdata.tables import schema
    from prefdata.tables import table_writer as writers

    rows = ranks(version)
    with writers.TableWriter(Path(path), schema.TABLES["ranks"], {"stage": "s"}) as writer:
        for start in range(0, ROWS, ROWS // 4):
            writer.write(rows[start : start + ROWS // 4])


OPERATIONS: dict[str, Callable[..., None]] = {
    f.__name__: f for f in (atomic_text, atomic_write, atomic_folder, write_table, table_writer)
}


if __name__ == "__main__":
    serve()
