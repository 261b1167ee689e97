"""FAULTS C, files and resources: every clause a case."""

import contextlib
import ctypes
import json
import os
import random
import re
import resource
import shutil
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefdata import cli, files, readers, recipe, tables, workflow
from prefdata.draws import hash64
from prefdata.errors import PrefdataError
from prefdata.run import Run, lock, take_lock
from prefdata.settings import SourceSettings

from . import tiny
from .machinery import (
    Case,
    Error,
    Fault,
    Place,
    Said,
    as_errors,
    as_parameters,
    chain,
    defect,
    few_descriptors,
    good_row,
    limited,
    owned,
    phrase,
    require_error,
    require_hint,
)
from .zygote import Zygote

# ---- damaged files ----

READ_BY = {
    ("prompts", "sources"): "split",
    ("candidates", "sources"): "prune",
    ("drops", "sources"): "prune",
    ("splits", "split"): "rank",
    ("drops", "prune"): "rank",
    ("ranks", "rank"): "noise",
    ("candidates", "noise"): "score",
    ("logps", "score"): "sets",
    ("sets", "sets"): "report",
}
"""A stage that reads each of our own tables."""


def truncated(table: str, stage: str, share: float) -> Fault:
    def fault(place: Place, name: str) -> None:
        for path in place.paths(table, stage):
            path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return fault


def truncated_source(share: float) -> Fault:
    def fault(place: Place, name: str) -> None:
        path = place.folder / "rows.parquet"
        pq.write_table(pa.Table.from_pylist(place.rows), path)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        place.source["path"] = path.name

    return fault


CUTS = (0.0, 0.01, 0.5, 0.9)
DAMAGED = [
    *(Case(f"a source Parquet cut at {c:.0%}", truncated_source(c), Error(r"rows\.parquet(:0)?: (damaged|the file is empty)")) for c in CUTS),
    *(
        Case(f"{table} of {stage} cut at {c:.0%}", truncated(table, stage, c), Error(rf"tables/{table}/{stage}/.*: damaged", by), by)
        for (table, stage), by in READ_BY.items()
        for c in (CUTS if table == "candidates" else CUTS[2:3])
    ),
    Case("a table that is gone", lambda p, n: p.paths("splits", "split")[0].unlink(), Error("splits/split/.*: no such file; run the stage", "rank"), "rank"),
    Case("a table of another kind", lambda p, n: shutil.copy(p.paths("ranks", "rank")[0], p.paths("splits", "split")[0]), Error("splits/split/.*: not a splits table", "rank"), "rank"),
    Case("a folder where a table belongs", lambda p, n: _as_folder(p.paths("splits", "split")[0]), Error("splits/split/", "rank"), "rank"),
    Case("a chunk store that is none", lambda p, n: next(p.root.glob("chunks/score/*.sqlite")).write_bytes(b"nothing" * 999), Error("chunks/score/.*: not a chunk store", "score"), "score"),
    Case("a folder where the source belongs", lambda p, n: (p.folder / "sub").mkdir() or p.source.update(path="sub"), Error("sub: a folder")),
    Case("a source that is nowhere", lambda p, n: p.source.update(path="nowhere.jsonl"), Error(r"nowhere\.jsonl: no such file")),
    Case("a source of an unknown kind", lambda p, n: (p.folder / "rows.csv").write_text("a,b") and p.source.update(path="rows.csv"), Error(r"rows\.csv: unknown kind of file")),
]  # fmt: skip


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("case", as_parameters(DAMAGED))
def test_a_damaged_file_stops_with_one_line(case: Case, place: Place) -> None:
    case.run(place)


@defect("the folder's manifest is believed without a look at the files")
def test_a_published_file_that_was_cut_is_put_again(place: Place) -> None:
    """The same command makes the folder whole, or says that it is not."""
    path = next(place.dataset.rglob("*.parquet"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    said = place.run("publish")
    assert said.code == 2 or path.read_bytes() == whole


def flips(data: bytes, first: int, last: int, count: int) -> Iterator[bytes]:
    """Copies with one bit of one byte flipped, at keyed positions."""
    rng = random.Random(hash64("flip", first))
    for _ in range(count):
        flipped = bytearray(data)
        flipped[rng.randrange(first, last)] ^= 1 << rng.randrange(8)
        yield bytes(flipped)


def footer(data: bytes) -> int:
    """Where a Parquet file's footer begins."""
    return len(data) - 8 - int.from_bytes(data[-8:-4], "little")


def silent(path: Path, table: str, data: Iterator[bytes]) -> tuple[int, int]:
    """(flips refused, flips that read back as other rows or another manifest)."""
    rows, manifest = files.read_table(path, table), files.manifest(path)
    refused = other = 0
    for flipped in data:
        path.write_bytes(flipped)
        try:
            other += not (files.read_table(path, table).equals(rows) and files.manifest(path) == manifest)
        except PrefdataError:
            refused += 1
    return refused, other


@pytest.mark.parametrize(("table", "stage"), [("candidates", "sources"), ("logps", "score"), ("sets", "sets")])
def test_a_flipped_byte_of_our_own_pages_never_reads_back(place: Place, table: str, stage: str) -> None:
    path = place.paths(table, stage)[0]
    data = path.read_bytes()
    refused, other = silent(path, table, flips(data, 0, footer(data), 60))
    assert other == 0
    assert refused > 40


@defect("nothing guards the manifest in the footer")
@pytest.mark.parametrize(("table", "stage"), [("drops", "sources"), ("drops", "score")])
def test_a_flipped_byte_of_our_own_footer_never_reads_back(place: Place, table: str, stage: str) -> None:
    """The manifest lies there, and what downstream stages check by it."""
    path = place.paths(table, stage)[0]
    data = path.read_bytes()
    assert silent(path, table, flips(data, footer(data), len(data), 60))[1] == 0


def test_a_flipped_byte_of_a_source_is_refused_where_its_pages_are_checked(place: Place) -> None:
    """The publisher of a file decides whether it carries checksums; where it does they are read."""
    path = place.folder / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(place.rows), path, write_page_checksum=True)
    source, data = SourceSettings(name="s", path=str(path)), path.read_bytes()
    rows = list(readers.rows(source, [path]))
    refused = 0
    for flipped in flips(data, 0, footer(data), 60):
        path.write_bytes(flipped)
        try:
            assert list(readers.rows(source, [path])) == rows
        except PrefdataError:
            refused += 1
    assert refused > 40


def test_a_source_that_decodes_to_too_much_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_DECODED_BYTES", 1000)
    pq.write_table(pa.Table.from_pylist(place.rows), place.folder / "rows.parquet")
    place.source["path"] = "rows.parquet"
    place.write()
    require_error(place.run("sources"), r"rows\.parquet: decodes to \d+ bytes, more than 1000")


def test_a_table_of_ours_that_decodes_to_too_much_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_DECODED_BYTES", 1000)
    require_error(place.run("split"), r"tables/prompts/sources/.*: decodes to \d+ bytes, more than 1000")


@defect("the bound is on encoded sizes, which dictionaries hide")
def test_a_source_that_explodes_by_its_dictionary_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """One long text, referred to by every row: a small file, which even says that it is small."""
    monkeypatch.setattr(files, "MAX_DECODED_BYTES", 2**20)
    row = {**good_row("a"), "extra": "y" * 10_000}
    pq.write_table(pa.Table.from_pylist([{**row, "id": str(i)} for i in range(2000)]), place.folder / "rows.parquet")
    assert (place.folder / "rows.parquet").stat().st_size < 2**20
    place.source["path"] = "rows.parquet"
    place.write()
    require_error(place.run("sources"), r"rows\.parquet.*: decodes to ")


@defect("the bound is on encoded sizes, which dictionaries hide")
def test_a_table_of_ours_that_explodes_by_its_dictionary_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_DECODED_BYTES", 2**20)
    path = tmp_path / "drops.parquet"
    rows = [{"scope": "row", "source": "s", "source_row": str(i), "stage": "s", "reason": "r", "detail": "y" * 10_000} for i in range(2000)]  # fmt: skip
    files.write_table(path, "drops", tables.frame("drops", rows))
    assert path.stat().st_size < 2**20
    with pytest.raises(PrefdataError, match="decodes to "):
        files.read_table(path, "drops")


# ---- names that look like paths ----

HOSTILE = ["\x1b[2J", "\ufffe", "../../x", "/etc/x", "a\x00b", "x" * 300, "-rf", "..", "CON", "a\nb", "\u202e"]


def tree(folder: Path) -> set[Path]:
    return {p for p in folder.rglob("*") if "results" not in p.parts}


def test_hostile_names_of_sources_models_and_rows_stay_inside_the_root(place: Place, tmp_path: Path) -> None:
    place.recipe["score"] = {}
    sources = []
    for i, name in enumerate(HOSTILE):
        answers = [(phrase("hostile", i, j), j + 1, HOSTILE[i - j]) for j in range(3)]
        row = good_row(name, f"\n\nHuman: {phrase('hostile', i)}\n\nAssistant: ", answers)
        (place.folder / f"hostile{i}.jsonl").write_text(json.dumps(row), encoding="utf-8")
        sources.append({**place.source, "name": name, "path": f"hostile{i}.jsonl", "license": "mit"})
    place.recipe["sources"]["sources"] = sources
    place.write()
    before = tree(tmp_path)
    assert place.run(*chain(last="sets")).code == 0
    said = place.run_apart("report")
    assert said.code == 0, said
    assert place.run(*chain("card")).code == 0
    assert tree(tmp_path) == before, "nothing outside results"
    prompts = place.table("prompts", "sources")
    assert set(prompts["source"]) == {f"{n}@local" for n in HOSTILE}
    assert set(prompts["source_row"]) == set(HOSTILE)
    assert set(place.table("candidates", "sources")["producer"]) == set(HOSTILE)
    names = {part for p in place.root.rglob("*") for part in p.relative_to(place.root).parts}
    assert all(n.isascii() and len(n) < 80 and not n.startswith("-") and n not in ("..", "CON") for n in names)


def test_a_model_at_a_hostile_path_gets_a_safe_folder(place: Place, model: Path, tmp_path: Path) -> None:
    """A unit's folder is a slug and a hash of the name, whatever the model's path."""
    shutil.copytree(model, place.folder / "-rf ..\u202e")
    before = tree(tmp_path)
    place.reference["model"] = "./-rf ..\u202e"
    place.write()
    assert place.run(*chain("noise")).code == 0
    assert tree(tmp_path) == before
    assert all(u.name.isascii() for u in (place.root / "tables" / "logps" / "score").iterdir())


def named(*path: str | int) -> Any:
    """A recipe with one key, by its path, set to a name."""

    def fault(value: str) -> Fault:
        def inner(place: Place, name: str) -> None:
            place.recipe["judge"], place.recipe["generate"] = [{"name": "j"}], {"models": [{"name": "g", "model": "m"}]}
            place.recipe["train"] = {"runs": {"dpo/x": {}}}
            at = place.recipe
            for step in path[:-1]:
                at = at[step]  # type: ignore[index]
            if path[-1] == "runs":
                at["runs"] = {value: {}}
            else:
                at[path[-1]] = value  # type: ignore[index]

        return inner

    return fault


NAMED = {
    "name": named("name"),
    "score.references.0.name": named("score", "references", 0, "name"),
    "judge.0.name": named("judge", 0, "name"),
    "generate.models.0.name": named("generate", "models", 0, "name"),
    "train": named("train", "runs"),
}
FORBIDDEN = [
    Case(f"{key}: {ascii(name)[:20]}", fault(name), Error(rf"recipe\.yaml: {key}: "))
    for key, fault in NAMED.items()
    for name in ("../../x", "/etc/x", "a\x00b", "x" * 300, "-rf")
    if not (key == "train" and len(name) == 300)  # a run's name has no limit of its own; see below
]


@pytest.mark.parametrize("case", as_parameters(FORBIDDEN))
def test_a_name_in_the_recipe_that_looks_like_a_path_is_refused(case: Case, place: Place, tmp_path: Path) -> None:
    before = tree(tmp_path)
    case.run(place)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "run",
    [
        *(
            pytest.param(r, marks=[defect("a run's name may begin with - and be of any length")])
            for r in ("dpo/-rf", "-rf/x", f"dpo/{'x' * 300}")
        ),
        "../x",
        "dpo/..",
    ],
    ids=str,
)
def test_a_run_of_a_hostile_name_is_refused(place: Place, run: str) -> None:
    """The name becomes a folder and a word of a command line."""
    place.recipe["train"] = {"runs": {run: {}}}
    place.write()
    require_error(place.run("sources"), r"recipe\.yaml: train")


# ---- disk full ----

FULL_DISK = r"error: \S*(results|rows)\S*: .*(File too large|full|disk I/O).*; .*\n"
LEFT = "where one table cannot be written, the temporary files of the stage's others are left"
FULL = {
    "sources": "the spool's OSError has no path",
    "dedup": LEFT,
    "noise": LEFT,
    "publish": "published._Writer's OSError has no path",
}


def as_stages(defects: dict[str, str]) -> list[Any]:
    """Every stage; those with a defect are strict expected failures."""
    return [pytest.param(s, marks=[defect(defects[s])] if s in defects else []) for s in chain()]


@pytest.mark.parametrize("stage", as_stages(FULL))
def test_a_full_disk_is_an_error_with_a_path_and_keeps_the_old_files(before_stage: Callable[[str], Place], stage: str) -> None:
    """The system lets no file grow past a limit: the command stops, and without the limit it ends as ever."""
    place = before_stage(stage)
    before, problems = place.snapshot(), []
    for limit in (20, 1000, 3000):
        with limited(resource.RLIMIT_FSIZE, limit):
            said = place.run(stage)
        if said.code == 0:  # it had nothing to write that is longer
            break
        problems += [] if re.fullmatch(FULL_DISK, said.err) else [said.err]
        problems += [f"changed at {limit}"] * (owned(place.snapshot(), stage) != owned(before, stage))
        problems += place.leftovers()
    assert place.run(stage).code == 0, "the same command again"
    assert not problems


@defect("take_lock and the spool raise OSErrors without a path")
def test_a_full_disk_in_a_process_of_its_own(place: Place, zygote: Zygote) -> None:
    """The limit from the start of the process: also a lock file may not be written."""
    for limit in (0, 100):
        said = zygote.run(place.folder, "sources", limits={"RLIMIT_FSIZE": limit})
        require_error(Said("sources", said["code"], "", said["err"]), r"error: \S*results\S*: .*File too large")


# ---- permissions ----


@contextlib.contextmanager
def as_anybody() -> Iterator[None]:
    """Permissions count for root too: without the capabilities that go past them."""
    if os.geteuid() != 0:
        yield
        return
    header, old = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capget(header, old):
        pytest.skip("root ignores permissions, and its capabilities cannot be read here")
    new = (ctypes.c_uint32 * 6)(*old)
    new[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH of the effective set
    if libc.capset(header, new):
        pytest.skip("root ignores permissions, and its capabilities cannot be laid down here")
    try:
        yield
    finally:
        assert libc.capset(header, old) == 0


@contextlib.contextmanager
def mode(path: Path, bits: int) -> Iterator[None]:
    old = stat.S_IMODE(path.stat().st_mode)
    path.chmod(bits)
    try:
        yield
    finally:
        path.chmod(old)


READ_ONLY = {
    "a read-only table folder": ("split", "results/t/tables/splits/split/all"),
    "a read-only folder of tables": ("sources", "results/t/tables"),
    "a read-only lock folder": ("split", "results/t/locks/split/all"),
    "a read-only report folder": ("report", "results/t/report"),
    "a read-only publish folder": ("publish", "results/t/publish"),
    "a read-only data set": ("publish", "results/t/publish/dataset"),
    "a read-only folder of chunks": ("score", "results/t/chunks/score"),
}


@pytest.mark.parametrize("what", READ_ONLY)
def test_a_read_only_folder_is_an_error_that_names_it(before_stage: Callable[[str], Place], what: str) -> None:
    stage, folder = READ_ONLY[what]
    place = before_stage(stage)
    for lock_file in (place.root / "locks" / "split" / "all").iterdir():
        lock_file.unlink()
    before = place.snapshot()
    with mode(place.folder / folder, 0o555), as_anybody():
        said = place.run(stage)
    require_error(said, rf"error: \S*{folder}\S*: .*([Pp]ermission denied|readonly|unable to open)")
    assert owned(place.snapshot(), stage) == owned(before, stage)


UNREADABLE = {
    "an unreadable source": ("sources", "rows.jsonl"),
    "an unreadable recipe": ("sources", "recipe.yaml"),
    "an unreadable table": ("split", "results/t/tables/prompts/sources/all/00000-of-00001.parquet"),
    "an unreadable report": ("card", "results/t/report/report.json"),
    "an unreadable card": ("publish", "results/t/publish/dataset/README.md"),
}


GOOD_BUT_CLOSED = {
    "an unreadable table": [defect("a table without permission is called damaged, with the advice to delete it")]
}


@pytest.mark.parametrize("what", [pytest.param(w, marks=GOOD_BUT_CLOSED.get(w, [])) for w in UNREADABLE])
def test_an_unreadable_file_is_an_error_that_names_it(place: Place, what: str) -> None:
    stage, path = UNREADABLE[what]
    before = place.snapshot()
    with mode(place.folder / path, 0), as_anybody():
        said = place.run(stage)
    require_error(said, rf"error: \S*{path}: .*[Pp]ermission denied")
    assert "delete it" not in said.err, "the file is good: only its permissions are not"
    assert owned(place.snapshot(), stage) == owned(before, stage)


@pytest.mark.parametrize("stage", ["sources", "split", "score", "report", "publish"])
def test_a_file_where_the_results_belong_is_an_error(place: Place, stage: str) -> None:
    """ENOTDIR, which root meets too."""
    shutil.rmtree(place.root)
    place.root.write_text("a file", encoding="utf-8")
    require_error(place.run(stage), r"error: \S*results/t\S*: ")


@pytest.mark.parametrize("stage", ["sources", "rank", "sets", pytest.param("publish", marks=[defect(FULL["publish"])])])
def test_too_few_file_descriptors_are_an_error_with_a_path(before_stage: Callable[[str], Place], stage: str) -> None:
    """EMFILE, a few descriptors later each time; then the same command without the limit."""
    place = before_stage(stage)
    before, failed = place.snapshot(), 0
    for more in (0, 1, 2, 4, 8):
        with few_descriptors(more):
            said = place.run(stage)
        if said.code == 0:
            break
        failed += 1
        require_error(said, r"error: (?!system)\S+: .*(Too many open files|unable to open)")
        assert owned(place.snapshot(), stage) == owned(before, stage)
    assert failed
    assert place.run(stage).code == 0


def test_a_process_with_few_file_descriptors_says_so(place: Place, zygote: Zygote) -> None:
    said = zygote.run(place.folder, "sources", limits={"RLIMIT_NOFILE": 14})
    require_error(Said("sources", said["code"], "", said["err"]), r"error: (?!system)\S+: Too many open files")


# ---- runs that meet ----


def lasting(place: Place) -> dict[str, bytes]:
    """Tables and what is published, byte by byte; pictures of the report are made anew."""
    return {k: v for k, v in place.snapshot().items() if not k.startswith("report/")}


def test_a_second_stage_on_the_same_shard_stops_and_names_the_holder(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no patience: a stage waits half a minute for a dying holder."""
    monkeypatch.setattr(cli, "lock", partial(lock, wait_s=0))
    held = take_lock(place.root / "locks" / "split" / "all" / "0", 0)
    before = place.snapshot()
    try:
        require_error(place.run("split"), rf"locks/split/all/0: in use by process {os.getpid()}; wait for it or stop it")
    finally:
        os.close(held)
    assert place.snapshot() == before
    assert place.run("split").code == 0


def test_a_second_run_of_the_workflow_stops_and_names_the_holder(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.folder)
    run = Run(recipe.load(Path("recipe.yaml")))
    held = take_lock(run.root / ".run", 0)
    try:
        with pytest.raises(SystemExit, match=rf"another run works here: .*\.run: in use by process {os.getpid()}; "):
            workflow.begin(run)
    finally:
        os.close(held)


def test_stale_locks_and_leftovers_of_the_dead_stop_nobody(place: Place, good: Place) -> None:
    """Lock files with the number of a process that is gone, half files, a spool, a build: the same command goes on."""
    for path in [*(place.root / "locks").rglob("*"), *place.root.glob("chunks/*/*.lock")]:
        if path.is_file():
            path.write_text("4194304")
    (place.root / ".run").write_text("4194304")
    for path in [*(place.root / "tables").rglob("*.parquet"), place.root / "report" / "report.json"]:
        path.with_name(f".{path.name}.4194304.tmp").write_bytes(b"half")
    (place.root / "tables" / ".spool").mkdir()
    (place.root / "tables" / ".spool" / "0").write_text('{"half": ')
    (place.root / "publish" / ".built" / "data").mkdir(parents=True)
    said = place.run(*chain())
    assert said.code == 0, said.err
    assert lasting(place) == lasting(good)
    assert not place.leftovers()


# ---- what changed on resume ----


def changed_settings(place: Place, name: str) -> None:
    place.recipe["prune"] = {"drop_ranks": [3]}


def changed_package(place: Place, name: str) -> None:
    """A table that an earlier version of the stage made."""
    for path in place.paths("splits", "split"):
        frame, manifest = files.read_table(path, "splits"), files.manifest(path)
        manifest["slice"]["version"] = 0
        files.write_table(path, "splits", frame, manifest)


def changed_model(place: Place, name: str) -> None:
    """The model's folder holds other weights than the log-probs were made with."""
    model = place.folder / "model"
    shutil.copytree(place.reference["model"], model)
    place.reference["model"] = "model"
    place.write()
    assert place.run(*chain("noise", "score")).code == 0
    tiny.save(model, initializer_range=0.2)


def changed_seed(place: Place, name: str) -> None:
    place.recipe["seed"] = 2


STALE = "a stage does not compare its inputs' slices and revisions with the settings"
CHANGED = [
    Case("a setting changed on resume", changed_settings, Error(r"drop_ranks.*\[\].*\[3\]", "rank"), "rank", defect=STALE),
    Case("the seed changed on resume", changed_seed, Error("seed.*1.*2", "rank"), "rank", defect=STALE),
    Case("the package changed on resume", changed_package, Error("version.*0.*[1-9]", "rank"), "rank", defect=STALE),
    Case(
        "the model changed on resume", changed_model, Error("model.*[0-9a-f]{16}.*[0-9a-f]{16}", "sets"), "sets", defect=STALE
    ),
]


@pytest.mark.parametrize("case", as_parameters(CHANGED))
def test_what_changed_on_resume_is_named_with_old_and_new(case: Case, place: Place) -> None:
    case.run(place)


# ---- killed for memory ----

KILLS: dict[str, list[tuple[str, int]]] = {
    "sources": [("replace", 1), ("replace", 3), ("fsync", 2)],
    "rank": [("replace", 1), ("fsync", 1)],
    "sets": [("fsync", 3)],
    "publish": [("replace", 1), ("replace", 4), ("fsync", 9)],
}
"""What a process dies before, time after time, by stage."""


@pytest.mark.parametrize("stage", KILLS)
def test_killed_again_and_again_the_same_command_completes(
    before_stage: Callable[[str], Place], changed: Place, zygote: Zygote, stage: str
) -> None:
    """SIGKILL, as the system sends it when memory is short: before the Nth rename or fsync, and in the midst of a write."""
    place = before_stage(stage)
    for call in KILLS[stage]:
        said = zygote.run(place.folder, stage, kill=call)
        assert said["signal"] == 9, (call, said)
    for size in (300, 700):
        said = zygote.run(place.folder, stage, limits={"RLIMIT_FSIZE": size}, die=True)
        assert said["signal"] == 25, (size, said)
    assert place.run(stage).code == 0
    assert lasting(place) == lasting(changed)
    assert not place.leftovers()


def test_killed_between_chunks_only_the_rest_is_scored_again(place: Place, good: Place) -> None:
    """Three chunks of four prompts; the process dies when the store's log grows past the second."""
    shutil.rmtree(place.root / "chunks")
    with Zygote(preload=("torch", "transformers", "prefdata.score", "prefdata.logprob")) as zygote:
        said = zygote.run(place.folder, "score", kill=("commit", 3))
    assert said["signal"] == 9, said
    again = place.run("score")
    assert again.code == 0
    assert "32 of 48 items found, 16 made" in again.err
    assert lasting(place) == lasting(good)


WORDLESS = ["a table of another kind", FORBIDDEN[0].breaks]


@pytest.mark.parametrize("case", as_errors([*DAMAGED, FORBIDDEN[0], *CHANGED], WORDLESS))
def test_says_what_to_do(case: Case, place: Place) -> None:
    require_hint(case, place)
