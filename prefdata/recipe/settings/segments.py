"""Online runs as ordinary ones: a segment is a training run of its own and a recipe of its own, made of the whole recipe."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prefdata.errors import did_you_mean
from prefdata.models.engines.registry import GeneratorSettings
from prefdata.models.settings import ReferenceSettings
from prefdata.recipe.settings.data import GenerateSettings, NoiseSettings, SetsSettings
from prefdata.recipe.settings.online import OnlineSettings, OverrideSettings, Segment, part_name

if TYPE_CHECKING:
    from prefdata.recipe.settings.whole import Settings

START = "segment-start"
"""The name of the primary reference where it is the segment's own start."""
OF_A_START = ("model", "revision", "init")


def online_runs(settings: "Settings") -> dict[str, int]:
    """The online runs with their numbers of segments; of one that is a list of seeds or rates, each."""
    if settings.online is None:
        return {}
    known = settings.train.runs
    return {name: count for wanted, count in settings.online.counts.items() for name in named(wanted, known) if name in known}


def named(wanted: str, known: Mapping[str, Any]) -> list[str]:
    """The runs that a name means: itself, or those of its list of seeds or rates."""
    if wanted in known:
        return [wanted]
    return [n for n in known if re.fullmatch(re.escape(wanted) + r"(-lr[0-9e_-]+)?(-s-?\d+)?", n)] or [wanted]


def segments_of(settings: "Settings", run: str) -> list[Segment]:
    """The segments of a run, in order; none where it is not online."""
    count = online_runs(settings).get(run, 0)
    if not count:
        return []
    made = [Segment(run, 1, count, *_start(settings, settings.train.runs[run]))]
    for number in range(2, count + 1):
        made.append(Segment(run, number, count, f"run:{part_name(run, number - 1, count)}"))
    return made


def _start(settings: "Settings", given: dict[str, Any]) -> tuple[str, str | None]:
    """What a run starts from and its revision: its own model, or the primary reference."""
    if given.get("model") is not None:
        return given["model"], given.get("revision")
    primary = next(iter(settings.score.references), None)
    return (primary.model, primary.revision) if primary else ("", None)


def training_runs(settings: "Settings") -> dict[str, dict[str, Any]]:
    """Every training run by name, each part of an online one in its place."""
    made: dict[str, dict[str, Any]] = {}
    for name, given in settings.train.runs.items():
        parts = segments_of(settings, name)
        made |= {part.model: _run_of(part, given) for part in parts} if parts else {name: given}
    return made


def _run_of(segment: Segment, given: dict[str, Any]) -> dict[str, Any]:
    own = dict(given, set=segment.set, split="train", part={"number": segment.number, "of": segment.count})
    if segment.number > 1:
        own = {k: v for k, v in own.items() if k not in OF_A_START} | {"continue_from": segment.start.removeprefix("run:")}
    return own | ({} if segment.number == segment.count else {"keep_optimizer": True})


def recipe_of(settings: "Settings", segment: Segment) -> "Settings":
    """The recipe of one segment: its start answers its prompts, the judge ranks, the references score, and a set is made."""
    online = settings.online
    assert online is not None
    own = online.overrides.get(segment.number, OverrideSettings())
    judge = own.judge or judge_of(settings)
    return settings.for_segment(
        segment,
        generate=_generate(settings, online, own, segment),
        judge=[j for j in settings.judge if j.name == judge],
        noise=NoiseSettings(copies=0),
        score=settings.score.model_copy(update={"references": _references(settings, online, segment)}),
        sets=SetsSettings(
            method=judge,
            sft_method=judge,
            splits=["train"],
            origins=["generated"],
            filters=settings.sets.filters,
        ),
    )


def judge_of(settings: "Settings") -> str:
    """The judge of online runs, where no override names another."""
    assert settings.online is not None
    return settings.online.judge or settings.sets.method


def _generate(settings: "Settings", online: OnlineSettings, own: OverrideSettings, segment: Segment) -> GenerateSettings:
    template, end = encoding_of(settings, segment.run)
    model = GeneratorSettings(
        name=segment.run.replace("/", "-"),
        id=segment.start,
        revision=segment.revision,
        template=template,
        end=end,
        vllm=online.vllm,
        server=online.server,
        reasoning_end=online.reasoning_end,
    )
    return GenerateSettings(
        models=[model],
        temperatures=own.temperatures or online.temperatures,
        per_temperature=own.per_temperature or online.per_temperature,
        max_tokens=own.max_tokens or online.max_tokens,
        max_failed=online.max_failed,
        splits=["train"],
        chunk_prompts=online.chunk_prompts,
        shards_per_engine=online.shards_per_engine,
    )


def encoding_of(settings: "Settings", run: str) -> tuple[Any, Any]:
    """Template and end of a run: its own, or the primary reference's."""
    given, primary = settings.train.runs[run], next(iter(settings.score.references), None)
    template = given.get("template") or (primary.template if primary else "chat")
    return template, given.get("end") or (primary.end if primary else "eos")


def _references(settings: "Settings", online: OnlineSettings, segment: Segment) -> list[ReferenceSettings]:
    if online.reference == "initial":
        return settings.score.references
    template, end = encoding_of(settings, segment.run)
    start = ReferenceSettings(name=START, model=segment.start, revision=segment.revision, template=template, end=end)
    return [start, *settings.score.references[1:]]


def problems_of(settings: "Settings") -> list[str]:
    """What is wrong with the online runs of a recipe, one line each."""
    if settings.online is None:
        return []
    found = [f"online.runs: {p}" for name in settings.online.counts for p in _run_problems(settings, name)]
    judges = [j.name for j in settings.judge]
    named = [("judge", settings.online.judge or settings.sets.method)]
    named += [(f"overrides.{k}.judge", o.judge) for k, o in settings.online.overrides.items() if o.judge]
    for key, judge in named:
        if judge not in judges:
            found.append(
                f"online.{key}: {judge!r} is no judge's name: answers of the checkpoint must be ranked by one of {judges}"
            )
        elif "train" not in next(j for j in settings.judge if j.name == judge).splits:
            found.append(f"online.{key}: {judge} judges no training prompts: its splits must have train")
    if any(r.name == START for r in settings.score.references):
        found.append(f"score.references: the name {START} is reserved for online.reference: segment")
    return found


def _run_problems(settings: "Settings", wanted: str) -> list[str]:
    known = settings.train.runs
    names = named(wanted, known)
    if names[0] not in known:
        return [f"train.runs has no run {wanted}{did_you_mean(wanted, known)}"]
    problems = []
    for name in names:
        given, primary = known[name], settings.score.references
        if given.get("lora") is not None:
            problems.append(f"{name}: adapters are merged when a part ends and cannot go on in the next: leave lora out")
        if given.get("init") is not None:
            problems.append(f"{name}: a fresh model cannot answer prompts: give model, a trained one, instead of init")
        elif given.get("model") is None and not primary:
            problems.append(f"{name}: no model to start from: give model, or score.references")
        steps, count = given.get("steps"), online_runs(settings)[name]
        if isinstance(steps, int) and steps < count:
            problems.append(f"{name}: {count} segments of {steps} steps: take fewer segments or more steps")
        for key in ("set", "split", "part", "continue_from"):
            if given.get(key) is not None:
                problems.append(f"{name}: {key} is set by online itself: leave it out")
        negatives = given.get("negatives")
        origins = negatives.get("origins") if isinstance(negatives, dict) else None
        if isinstance(origins, list) and ("generated" not in origins or "noise" in origins):
            problems.append(f"{name}: negatives.origins: a segment has generated candidates only")
        own = {f"run:{part.model}" for part in segments_of(settings, name)}
        if own & {given.get("model"), *(r.model for r in primary)}:
            problems.append(f"{name}: it cannot start from itself, nor be its own reference")
        problems += _taken(settings, name)
    return problems


def _taken(settings: "Settings", run: str) -> list[str]:
    parts = [s.model for s in segments_of(settings, run)[:-1]]
    return [f"{p} is the name of a part of {run}: call the other run otherwise" for p in parts if p in settings.train.runs]
