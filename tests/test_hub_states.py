"""Whatever happens to a repository between and during pushes, whoever reads its main branch gets one published set, whole.

PREFDATA_PROOFS=whole: more steps, and all forty sequences of faults.
"""

import os
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub.foreign import Foreign
from hub.repos import Commit
from hub.sets import CONFIGS, REPO, either, hub, left_over, make, push, read
from hub.standin import Fault, Hub
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from prefdata.errors import PublishError
from prefdata.output.hub.hub_calls import Calls

__all__ = ["either", "hub"]
WHOLE = os.environ.get("PREFDATA_PROOFS") == "whole"
EXAMPLES, STEPS = (60, 12) if WHOLE else (10, 8)
SEEDS = range(40) if WHOLE else range(0, 40, 10)
Rows = dict[str, list[str]]


class Killed(BaseException):
    """The process ends here: nothing after it is sent."""


class Killer:
    """Ends a push at its `at`th call of the Hub, before it is sent or once it took effect."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at: int | None = None
        self.after, real = False, Calls.__call__

        def call(calls: Calls, work: Any, size: int = 0) -> Any:
            if self.at is None:
                return real(calls, work, size)
            self.at -= 1
            if self.at == 0 and self.after:
                real(calls, work, size)
            if self.at <= 0:
                raise Killed
            return real(calls, work, size)

        monkeypatch.setattr(Calls, "__call__", call)


def published(rows: Rows) -> dict[str, Rows]:
    """What each config then gives."""
    return {config: {split: sorted(texts) for split, texts in rows.items()} for config in CONFIGS}


ROWS = st.fixed_dictionaries(
    {"train": st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4)},
    optional={"test": st.lists(st.sampled_from("gh"), min_size=1, max_size=2)},
)


def machine(hub: Hub, built: Path, killer: Killer) -> type[RuleBasedStateMachine]:
    class Repository(RuleBasedStateMachine):
        """`whole`: what main holds by our last commit there, where nobody took a file away since."""

        def __init__(self) -> None:
            super().__init__()
            hub.__init__()  # type: ignore[misc]
            killer.at = None
            self.whole: Rows | None = None

        @rule(rows=ROWS, shards=st.integers(1, 3))
        def publish(self, rows: Rows, shards: int) -> None:
            push(make(built, rows, shards))
            self.whole = rows
            assert left_over(hub) == []

        @rule(rows=ROWS, shards=st.integers(1, 3), at=st.integers(1, 30), after=st.booleans())
        def publish_and_die(self, rows: Rows, shards: int, at: int, after: bool) -> None:
            before, alive = len(hub.repos.get(REPO, [])), False
            killer.at, killer.after = at, after
            try:
                push(make(built, rows, shards))
                alive = True
            except Killed:
                pass
            finally:
                killer.at = None
            made = [c for c in hub.repos.get(REPO, [])[before:] if c.title]  # the first of a repository has no title
            assert len(made) <= 1
            if made or alive:
                self.whole = rows

        @precondition(lambda self: self.whole is not None)
        @rule(choice=st.randoms(use_true_random=False), content=st.sampled_from([None, b"PAR1", b"cut"]))
        def somebody_damages_a_file(self, choice: random.Random, content: bytes | None) -> None:
            data = sorted(n for n in hub.head(REPO).files if n.startswith("data/"))
            hub.push(REPO, {choice.choice(data): content})
            self.whole = None

        @precondition(lambda self: self.whole is not None)
        @rule()
        def somebody_adds_a_file_of_our_name(self) -> None:
            files = hub.head(REPO).files
            name = next(n for n in sorted(files) if n.startswith("data/sets/train"))
            hub.push(REPO, {"data/sets/train-extra.parquet": files[name]})
            self.whole = None

        @precondition(lambda self: REPO in hub.repos)
        @rule(what=st.sampled_from(["notes.md", "data/other.txt"]))
        def somebody_adds_a_file(self, what: str) -> None:
            if what.endswith("md") or self.whole is not None:
                hub.push(REPO, {what: b"x"})

        @precondition(lambda self: REPO in hub.repos)
        @rule()
        def the_manifest_is_lost(self) -> None:
            hub.push(REPO, {"manifest.json": None})

        @precondition(lambda self: REPO in hub.repos and "README.md" in hub.head(REPO).files)
        @rule()
        def somebody_writes_into_the_card(self) -> None:
            hub.push(REPO, {"README.md": hub.head(REPO).files["README.md"] + b"\nwords\n"})

        @invariant()
        def readers_get_one_set(self) -> None:
            if self.whole is not None:
                assert read() == published(self.whole)

    return Repository


def test_readers_get_one_published_set_whatever_happens(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = settings(max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(machine(hub, tmp_path / "built", Killer(monkeypatch)), settings=limits)


# ---- sequences of faults ----

PLACES = [
    r"POST .*/commit/main",
    r"POST .*/commit/prefdata",
    r"POST .*/branch/",
    r"DELETE .*/branch/",
    r"/preupload/",
    r"objects/batch",
    r"PUT /__lfs",
    r"GET .*/refs",
    r"/tree/",
    r"GET /api/datasets/owner/set$",
    r"/resolve/",
    r"/__blob/",
    r"/repos/create",
    r".",
]


def faults(draw: random.Random) -> Iterator[Fault]:
    """One to three, anywhere on the way: refusals, cut and hanging connections, before and after the request took effect."""
    for _ in range(draw.randint(1, 3)):
        kind = draw.choice(["status", "status", "cut", "hang"])
        yield Fault(
            draw.choice(PLACES),
            draw.choice([400, 402, 403, 408, 409, 412, 429, 500, 502, 503, 504]),
            times=draw.randint(1, 3) if kind != "hang" else 1,
            after=draw.random() < 0.5,
            cut=kind == "cut",
            hang=kind == "hang",
        )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own pauses are short."""
    real = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: real(min(seconds, 0.01)))


@pytest.mark.parametrize("seed", SEEDS)
def test_faults_never_leave_a_mixed_or_broken_head(either: Hub | Foreign, tmp_path: Path, quick: None, seed: int) -> None:
    hub, draw, built = either, random.Random(seed), tmp_path / "built"
    push(make(built, ["a"]))
    hub.push(REPO, {"README.md": hub.head(REPO).files["README.md"] + b"\nMy own words\n"})
    whole: Rows = {"train": ["a"]}
    for _ in range(4):
        rows = {"train": draw.sample("abcdef", draw.randint(1, 4))} | ({"test": ["g"]} if draw.random() < 0.5 else {})
        before = hub.head(REPO)
        hub.faults[:] = faults(draw)
        try:
            done = push(make(built, rows, draw.randint(1, 3)), attempts=3, timeout_s=1.0)
            assert done.revision == hub.head(REPO).sha
            whole = rows
        except PublishError:
            pass
        finally:
            hub.faults.clear()
        whole = require_one_commit(hub, before, whole, rows)
        assert read() == published(whole)
        assert b"My own words" in hub.head(REPO).files["README.md"]
    push(make(built, {"train": ["z"]}))
    assert (read(), left_over(hub)) == (published({"train": ["z"]}), [])


def require_one_commit(hub: Hub | Foreign, before: Commit, whole: Rows, rows: Rows) -> Rows:
    """What main holds: it is where it was, or one commit further and has the new rows, whether or not we learned of it."""
    head = hub.head(REPO)
    if head.sha == before.sha:
        return whole
    assert head.parent == before.sha
    assert re.match(r"\d+ files changed", head.title)
    return rows
