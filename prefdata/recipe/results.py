"""The results folder of a recipe: where everything lies."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from prefdata.draws import hex_id
from prefdata.models.identity import RECEIPT, content_files, revision_of
from prefdata.models.settings import LanguageModelSettings
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Stage
from prefdata.recipe.units import Part, generator, judge, win_rate_judge
from prefdata.tables.schema import TABLES


def _stages() -> dict[str, Stage]:
    from prefdata.stages.registry import STAGES

    return STAGES


class Run:
    """The folder results/<name> of one recipe. `models`: folders of training runs that shall lie elsewhere."""

    def __init__(self, settings: Settings, results: Path = Path("results"), models: Mapping[str, Path] | None = None) -> None:
        self.settings, self.models = settings, dict(models or {})
        self.root = results / settings.name

    @property
    def shards(self) -> list[int]:
        return list(range(self.settings.num_shards))

    def shard_name(self, shard: int) -> str:
        """The number of shards is in the name: another number never mistakes an old file for its own."""
        return f"{shard:05d}-of-{self.settings.num_shards:05d}"

    def table(self, part: Part, shard: int | str) -> Path:
        """One file; `shard` may be a Snakemake wildcard such as {shard}."""
        name = self.shard_name(shard) if isinstance(shard, int) else shard
        return self.root / "tables" / part.table / part.stage / part.unit / f"{name}.parquet"

    def files(self, parts: Sequence[Part], shards: Sequence[int | str] | None = None) -> list[str]:
        """Every file of the parts, as Snakemake names them."""
        return [str(self.table(p, s)) for p in parts for s in (self.shards if shards is None else shards)]

    def inputs(self, stage: str, unit: str = "all", shards: Sequence[int | str] | None = None) -> list[str]:
        """What a job reads: its tables and the models trained in this run."""
        row = _stages()[stage]
        parts = [p for p in row.reads(self.settings, unit) if p.table in TABLES]
        models = [f for ref, _ in row.models(self.settings, unit) for f in self.model_files(ref)]
        return self.files(parts, shards) + list(dict.fromkeys(models))

    def outputs(self, stage: str, unit: str = "all", shards: Sequence[int | str] | None = None) -> list[str]:
        """What a job writes."""
        return self.files([Part(t, stage, unit) for t in _stages()[stage].writes], shards)

    def groups(self, stage: str, unit: str) -> list[list[int]]:
        """The shards of each job of an engine stage's unit."""
        section = judge(self.settings, unit) if stage == "judge" else getattr(self.settings, stage)
        size = section.shards_per_engine or -(-len(self.shards) // self._copies(stage, unit))
        return [self.shards[i : i + size] for i in range(0, len(self.shards), size)]

    def units(self, stage: str) -> list[str]:
        return _stages()[stage].units(self.settings)

    def engine_jobs(self, stage: str) -> list[tuple[str, list[int]]]:
        """(unit, shards) of every job of an engine stage."""
        return [(unit, group) for unit in self.units(stage) for group in self.groups(stage, unit)]

    def gpus(self, stage: str, unit: str) -> int:
        """Devices that a job of generate, judge or win_rate needs: none where no model is run here."""
        asked = self._language_model(stage, unit)
        if asked is None or (asked.server is not None and not asked.server.command):
            return 0
        return asked.vllm.tensor_parallel if asked.vllm else 1

    def _copies(self, stage: str, unit: str) -> int:
        """How many copies of a unit's model shall run."""
        asked = self._language_model(stage, unit)
        return asked.vllm.data_parallel if asked is not None and asked.vllm is not None else 1

    def _language_model(self, stage: str, unit: str) -> LanguageModelSettings | None:
        """The model that a job of generate, judge or win_rate runs or asks."""
        if stage == "generate":
            return generator(self.settings, unit)
        if stage in ("judge", "win_rate"):
            return judge(self.settings, unit if stage == "judge" else win_rate_judge(self.settings)).model
        return None

    def trigger(self, stage: str, unit: str = "all") -> str:
        """What re-runs a job when it changes: the stage's version and its slice of the settings."""
        return json.dumps({"version": version(stage), **_stages()[stage].slice(self.settings, unit)}, sort_keys=True)

    def model_path(self, ref: str) -> str:
        """A reference to a model as transformers takes it: run:<objective>/<variant> and toy:<tokenizer> are ours."""
        if ref.startswith("run:"):
            return str(self.models.get(ref[4:], self.root / "models" / ref[4:]))
        if ref.startswith("toy:"):
            return str(self.root / "toy" / "tokenizers" / ref[4:])
        return str(Path(ref).expanduser()) if ref.startswith("~") else ref

    def model_files(self, ref: str) -> list[str]:
        """Files of a model made in this run or of a local folder, for Snakemake; none for one on the Hub."""
        if ref.startswith("run:"):
            return [f"{self.model_path(ref)}/{f}" for f in ("model.safetensors", "config.json", "tokenizer.json", RECEIPT)]
        if ref.startswith("toy:"):
            return [f"{self.model_path(ref)}/tokenizer.json"]
        folder = Path(ref).expanduser()
        return [str(p) for p in content_files(folder)] if folder.is_dir() else []

    def known_revisions(self, stage: str, unit: str) -> dict[str, str]:
        """What identifies a stage's models now."""
        return {ref: self.revision(ref, revision) for ref, revision in _stages()[stage].models(self.settings, unit)}

    def revision(self, ref: str, revision: str | None) -> str:
        """What identifies a model: its pinned commit, its receipt, or a hash of its folder's content, kept until a file's
        size or time changes."""
        path = self.model_path(ref)
        known = self.root / "chunks" / "revisions" / f"{hex_id(path)}.json"
        return revision_of(path, revision, known)

    def chunks(self, stage: str, unit: str) -> Path:
        return self.root / "chunks" / stage / f"{unit}.sqlite"


def version(stage: str) -> int:
    """STAGE_VERSION of the stage's module, read without running it (imports of heavy libraries stay out)."""
    import importlib

    module = importlib.import_module(_stages()[stage].function.partition(":")[0])
    number: int = module.STAGE_VERSION
    return number
