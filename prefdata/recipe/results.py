"""The results folder of a recipe: where everything lies, and what each job of each stage reads, writes and depends on."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from prefdata.draws import hex_id
from prefdata.models.identity import INDEX, RECEIPT, content_files, made_here, revision_of
from prefdata.recipe import places
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Stage
from prefdata.recipe.units import Part
from prefdata.tables.file_hashes import FileHashes


class Models(Protocol):
    """Whoever knows where models lie and what identifies them: the results folder, or a job, which knows its own only."""

    @property
    def settings(self) -> Settings: ...

    def model_path(self, ref: str) -> str: ...

    def revision(self, ref: str, revision: str | None) -> str: ...

    def server_log(self, stage: str, unit: str) -> Path: ...


@dataclass(frozen=True)
class Results:
    """results/<name>. `stages`: the rows that its jobs are made from; reading tables and models needs none of them.

    `folder`: what results/ is; `models`: folders of training runs that shall lie elsewhere.
    """

    settings: Settings
    stages: Mapping[str, Stage]
    folder: Path = Path("results")
    models: Mapping[str, Path] | None = None

    # ---- paths ----

    @property
    def root(self) -> Path:
        return self.folder / self.settings.name

    @property
    def shards(self) -> list[int]:
        return list(range(self.settings.num_shards))

    def shard_name(self, shard: int) -> str:
        """The number of shards is in the name: another number never mistakes an old file for its own."""
        return f"{shard:05d}-of-{self.settings.num_shards:05d}"

    def table(self, part: Part, shard: int) -> Path:
        """One file of a table."""
        return self.root / "tables" / part.table / part.stage / part.unit / f"{self.shard_name(shard)}.parquet"

    def tables(self, parts: Sequence[Part], shards: Sequence[int] | None = None) -> list[str]:
        """Every file of the parts."""
        return [str(self.table(p, s)) for p in parts for s in (self.shards if shards is None else shards)]

    def path(self, name: str) -> Path:
        """Another file, by its path in the folder (prefdata.recipe.places)."""
        return self.root / name

    def chunks(self, stage: str, unit: str) -> Path:
        """The finished items of an engine stage's unit."""
        return self.root / "chunks" / stage / f"{unit}.sqlite"

    def log(self, stage: str, unit: str, shards: Sequence[int]) -> Path:
        """What a job says: one file a job."""
        names = [stage] if unit == "all" else [stage, unit]
        names += [] if len(shards) == len(self.shards) else [str(shards[0])]
        return self.root.joinpath("logs", *names[:-1], f"{names[-1]}.log")

    def server_log(self, stage: str, unit: str) -> Path:
        """What a server says that a job starts."""
        return self.root / "logs" / stage / unit / "server.log"

    def lock(self, stage: str, unit: str, shard: int) -> Path:
        return self.root / "locks" / stage / unit / str(shard)

    # ---- models ----

    def model_path(self, ref: str) -> str:
        """A reference to a model as transformers takes it: run:<objective>/<variant> and toy:<tokenizer> are made here."""
        if ref.startswith("run:"):
            return str((self.models or {}).get(ref[4:], self.root / "models" / ref[4:]))
        if ref.startswith("toy:"):
            return str(self.path(places.toy_tokenizer(ref[4:])))
        return str(Path(ref).expanduser()) if ref.startswith("~") else ref

    def model_files(self, ref: str) -> list[str]:
        """Files of a model made in this run or of a local folder; none for one on the Hub. A trained model's weights are known
        by their index: how many files they are is not known before."""
        if ref.startswith("run:"):
            return [f"{self.model_path(ref)}/{f}" for f in (INDEX, "config.json", *places.TOKENIZER_FILES, RECEIPT)]
        if ref.startswith("toy:"):
            return [f"{self.model_path(ref)}/{f}" for f in places.TOKENIZER_FILES]
        folder = Path(ref).expanduser()
        return [str(p) for p in content_files(folder)] if folder.is_dir() else []

    def revision(self, ref: str, revision: str | None) -> str:
        """What identifies a model: its pinned commit, its receipt, or a hash of its folder's content, kept until a file's
        size or time changes."""
        path = self.model_path(ref)
        return revision_of(path, revision, self.root / "chunks" / "revisions" / f"{hex_id(path)}.json")

    # ---- jobs ----

    def units(self, stage: str) -> list[str]:
        return self.stages[stage].units(self.settings)

    def jobs(self, stage: str) -> list[tuple[str, list[int]]]:
        """(unit, shards) of every job of a stage."""
        return [(unit, group) for unit in self.units(stage) for group in self.groups(stage, unit)]

    def groups(self, stage: str, unit: str) -> list[list[int]]:
        """The shards of each job of a unit."""
        size = self.stages[stage].group_size(self.settings, unit)
        return [self.shards[i : i + size] for i in range(0, len(self.shards), size)]

    def inputs(self, stage: str, unit: str = "all", shards: Sequence[int] | None = None) -> list[str]:
        """Every file that a job reads."""
        row = self.stages[stage]
        files = [str(self.path(f)) for f in row.reads_files(self.settings, unit)]
        models = [f for ref, _ in row.models(self.settings, unit) if made_here(ref) for f in self.model_files(ref)]
        return list(dict.fromkeys([*self.tables(row.reads(self.settings, unit), shards), *files, *models]))

    def outside(self, stage: str, unit: str = "all") -> list[str]:
        """Files of the user that a job reads: sources, evaluation sets, local models. What they hold counts, not their
        times."""
        row = self.stages[stage]
        models = [f for ref, _ in row.models(self.settings, unit) if not made_here(ref) for f in self.model_files(ref)]
        return list(dict.fromkeys([*map(str, row.reads_outside(self.settings, unit)), *models]))

    @cached_property
    def hashes(self) -> FileHashes:
        """Of the user's files."""
        return FileHashes(self.root / "chunks" / "files.json")

    def outputs(self, stage: str, unit: str = "all", shards: Sequence[int] | None = None) -> list[str]:
        """Every file that a job writes."""
        row = self.stages[stage]
        files = [str(self.path(f)) for f in row.writes_files(self.settings, unit)]
        return self.tables([Part(t, stage, unit) for t in row.writes], shards) + files

    def trigger(self, stage: str, unit: str = "all") -> str:
        """What runs a job again when it changes: the stage's version and its slice of the settings."""
        row = self.stages[stage]
        return json.dumps({"version": row.version, **row.slice(self.settings, unit)}, sort_keys=True)

    def known_revisions(self, stage: str, unit: str) -> dict[str, str]:
        """What identifies a stage's models now."""
        return {ref: self.revision(ref, revision) for ref, revision in self.stages[stage].models(self.settings, unit)}


BringUp = Callable[[Results, Sequence[str], Sequence[Path]], None]
"""Runs data stages in this process, as far as their tables are not there; the last are the files that sources are made from."""
