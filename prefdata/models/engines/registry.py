"""ENGINES: the ways to run a language model, what each can tell of itself, and the settings that choose one.

A new engine is a file beside this one (its settings and a class with `complete` and `choose`), a row, and a field of
LanguageModelSettings. Libraries are loaded when an engine is started.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, model_validator

from prefdata.draws import hex_id
from prefdata.kinds import Commit, End, Name, Template
from prefdata.models.engines.protocol import Engine
from prefdata.models.engines.server_settings import ServerSettings
from prefdata.models.engines.vllm import VllmSettings
from prefdata.models.identity import Model, is_local


class LanguageModelSettings(BaseModel, frozen=True, extra="forbid"):
    """A model and the engine that runs it: the embedded one (transformers), or vllm, or a server where one is given."""

    id: str = Field(description="run:<objective>/<variant>, a local folder, a Hub id, or the name a server knows")
    revision: Commit | None = Field(None, description="commit hash, for a Hub id")
    template: Template = Field("chat", description="how prompts are rendered (a server renders its own)")
    end: End = Field("eos", description="whether its completions end with an end token")
    vllm: VllmSettings | None = Field(None, description="run it by vLLM: {} takes the defaults")
    server: ServerSettings | None = Field(None, description="ask a server for it")

    @model_validator(mode="after")
    def _one_engine(self) -> "LanguageModelSettings":
        if len(given := self._sections()) > 1:
            raise ValueError(f"give {' or '.join(given)}, not both")
        return self

    def _sections(self) -> list[str]:
        return [name for name in ENGINES if getattr(self, name, None) is not None]

    @property
    def engine(self) -> str:
        """The name of the engine: that of the section given, else transformers."""
        return next(iter(self._sections()), "transformers")

    @property
    def facts(self) -> "EngineFacts":
        return ENGINES[self.engine]

    def identity(self) -> dict[str, Any]:
        """What can change this model's answers: not where it runs, nor how many at once."""
        own = self.model_dump(mode="json", include={"id", "revision", "template", "end"})
        return {**own, "engine": self.engine, **self.facts.identity(self)}

    def files(self) -> list[Model]:
        """The model whose files a job reads: of a server's only one that can be looked at here."""
        return [(self.id, self.revision)] if self.facts.reads_files(self) else []

    def made_with(self, revision: Callable[[str, str | None], str]) -> str:
        """What identifies its answers: the content of its files, by `revision`; of a model that only a server has the name is
        all that is known, unless a revision is given."""
        if self.files():
            return revision(self.id, self.revision)
        return self.revision or hex_id("served", self.id)


class GeneratorSettings(LanguageModelSettings, frozen=True, extra="forbid"):
    """One model that answers the prompts."""

    name: Name = Field(description="how the model is called")
    reasoning_end: str | None = Field(
        None,
        min_length=1,
        description='what ends the reasoning before an answer, such as "</think>"; only the rest is the answer',
    )


@dataclass(frozen=True)
class Start:
    """What an engine is started with. `path`: the model as transformers takes it; `producer` (model@revision) and `seed` key
    draws; `log`: what a server that is started here says; `spent`: what earlier runs of the same work have cost,
    `answered`: whether they got any answer."""

    model: LanguageModelSettings
    path: str
    producer: str
    seed: int
    log: Path
    spent: float = 0.0
    answered: bool = False


@dataclass(frozen=True)
class EngineFacts:
    """One way to run a model. The functions take the model's settings."""

    start: Callable[[Start], AbstractContextManager[Engine]]
    gpus: Callable[[LanguageModelSettings], int] = lambda model: 1
    """Devices of one job."""
    copies: Callable[[LanguageModelSettings], int] = lambda model: 1
    """Jobs that share the shards by default, each with a copy of the model."""
    runs_here: Callable[[LanguageModelSettings], bool] = lambda model: True
    """Whether the model's files must be on this machine."""
    reads_files: Callable[[LanguageModelSettings], bool] = lambda model: True
    """Whether the model's files can be looked at: they then identify it."""
    identity: Callable[[LanguageModelSettings], dict[str, Any]] = lambda model: {}
    """Settings of the engine that can change answers."""
    draws: str = "from the whole distribution at that temperature, without top-p or top-k"
    """How a token is drawn, for people."""
    draws_by_key: bool = False
    """Whether every token's draw is keyed by us, and batches are made again alike; other engines get a seed a request, and
    what they finish is kept one by one."""


@contextmanager
def _transformers(start: Start) -> Iterator[Engine]:
    from prefdata.models.engines.transformers import TransformersEngine

    model = start.model
    yield TransformersEngine(start.path, model.revision, model.template, model.end, start.producer, start.seed)


@contextmanager
def _vllm(start: Start) -> Iterator[Engine]:
    from prefdata.models.engines.vllm import VllmEngine

    model = start.model
    engine = VllmEngine(start.path, model.revision, model.template, model.end, _vllm_of(model))
    try:
        yield engine
    finally:
        engine.close()


@contextmanager
def _server(start: Start) -> Iterator[Engine]:
    from prefdata.models.engines.server import ServerEngine
    from prefdata.models.engines.server_process import served

    settings = _server_of(start.model)
    with served(start.path, settings, start.log) as url:
        engine = ServerEngine(start.model.id, settings, url, start.spent, start.answered)
        try:
            yield engine
        finally:
            engine.close()


def _vllm_of(model: LanguageModelSettings) -> VllmSettings:
    assert model.vllm is not None
    return model.vllm


def _server_of(model: LanguageModelSettings) -> ServerSettings:
    assert model.server is not None
    return model.server


ENGINES: dict[str, EngineFacts] = {
    "transformers": EngineFacts(_transformers, draws_by_key=True),
    "vllm": EngineFacts(
        _vllm,
        gpus=lambda model: _vllm_of(model).tensor_parallel,
        copies=lambda model: _vllm_of(model).data_parallel,
        identity=lambda model: _vllm_of(model).model_dump(mode="json", include={"dtype", "max_model_len"}),
    ),
    "server": EngineFacts(
        _server,
        gpus=lambda model: _server_of(model).devices if _server_of(model).command else 0,
        runs_here=lambda model: bool(_server_of(model).command),
        reads_files=lambda model: is_local(model.id),
        draws="as the server does by default at that temperature: top-p and top-k are its own",
        identity=lambda model: {} if _server_of(model).send_temperature else {"send_temperature": False},
    ),
}


def started(start: Start) -> AbstractContextManager[Engine]:
    """The engine of a model, stopped at the end."""
    return start.model.facts.start(start)
