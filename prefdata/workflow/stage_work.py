"""What each stage that runs models asks of them, in tokens. Training's own work is the trainer's to tell."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from prefdata.errors import ConfigError
from prefdata.judging.procedures import PROCEDURES
from prefdata.judging.registry import KINDS
from prefdata.models.engines.registry import LanguageModelSettings
from prefdata.recipe.settings.judging import JudgeSettings
from prefdata.recipe.settings.online import Segment
from prefdata.recipe.settings.segments import recipe_of
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.work import Extent, Phase, Work, candidates, generated, prompts

ORDERS = 2


@dataclass(frozen=True)
class Task:
    """A task of lm-evaluation-harness: questions, rows a question (answers that are compared), tokens that a row has and that
    an answer is given in."""

    questions: float
    rows: float
    read: float
    written: float


def stages(settings: Settings, extent: Extent, tasks: Mapping[str, Task]) -> list[Work]:
    """Of every stage, each segment of an online run included. Raises ConfigError."""
    made = list(_of_set(settings, extent, ""))
    for segment in settings.segments:
        made += _of_set(recipe_of(settings, segment), extent, f"{segment.run}, ")
        made += _greedy(settings, segment, extent)
    made += _evaluated(settings, extent)
    made += _compared(settings, extent)
    return [w for w in [*made, *_harness(settings, tasks)] if w.count]


def _of_set(settings: Settings, extent: Extent, prefix: str) -> Iterator[Work]:
    """Answers, verdicts and log-probs that a set is made of."""
    lengths, own = extent.lengths, settings.generate
    for model in own.models:
        asked = prompts(settings, extent, own.splits) * generated(settings) / len(own.models)
        written = min(lengths.completion, own.max_tokens)
        yield Work(
            "generate",
            prefix.removesuffix(", ") or model.name,
            asked,
            "answers",
            answering(model, asked, lengths.prompt, written),
        )
    for judge in settings.judge:
        found = candidates(settings, extent, judge.name)
        compared, asked = found["source"] + found["generated"], prompts(settings, extent, judge.splits)
        yield judged(judge, prefix + judge.name, asked * _most(judge, compared), asked * compared, extent, settings)
    found = candidates(settings, extent, settings.sets.method)
    scored = sum(found.values())
    rows = prompts(settings, extent, settings.sets.splits) if scored else 0
    for reference in settings.score.references:
        phase = Phase("score", rows * lengths.shared(scored), reference.model, dtype=settings.score.dtype)
        yield Work("score", prefix + reference.name, rows * scored, "log-probs", (phase,))


def answering(model: LanguageModelSettings, asked: float, read: float, written: float) -> tuple[Phase, ...]:
    """Passes that read and write so many tokens an answer; of a server elsewhere they are bought."""
    dtype = "float32" if model.facts.draws_by_key else "bfloat16"  # our own engine loads the model in fp32
    read_, written_ = (Phase(f"{rate}.{model.engine}", 0, model.id, dtype=dtype) for rate in ("read", "write"))
    if not model.facts.runs_here(model):
        prices = (model.server.price_in, model.server.price_out) if model.server else (0.0, 0.0)
        read_, written_ = replace(read_, bought="in", price=prices[0]), replace(written_, bought="out", price=prices[1])
    return replace(read_, tokens=asked * read), replace(written_, tokens=asked * written)


def _most(judge: JudgeSettings, compared: float) -> float:
    return PROCEDURES[judge.procedure].most(round(compared))


def judged(judge: JudgeSettings, unit: str, comparisons: float, answers: float, extent: Extent, settings: Settings) -> Work:
    """A judge's calls, in both orders; of one that scores each answer by itself, its forwards."""
    lengths, model = extent.lengths, judge.model
    if KINDS[judge.kind].compares:
        read, asked = lengths.rubric + lengths.shared(2), ORDERS * comparisons
        written = 1 if judge.verdicts == "labels" else min(lengths.verdict, judge.max_tokens)
        return Work("judge", unit, asked if model else 0, "calls", answering(model, asked, read, written) if model else ())
    phase = [Phase("score", answers * lengths.shared(1), model.id, dtype=settings.score.dtype)] if model else []
    return Work("judge", unit, answers if model else 0, "scores", tuple(phase))


def _greedy(settings: Settings, segment: Segment, extent: Extent) -> Iterator[Work]:
    """The sample of a segment's prompts that its start answers greedily too, judged against its best answer."""
    recipe, online, lengths = recipe_of(settings, segment), settings.online, extent.lengths
    assert online is not None
    asked = min(float(online.greedy_prompts), prompts(recipe, extent, ["train"]))
    model, first = recipe.generate.models[0], settings.parts(segment.run)[0].start
    phases = answering(model, asked, lengths.prompt, min(lengths.completion, recipe.generate.max_tokens))
    verdicts = judged(recipe.judge[0], "", asked, 2 * asked, extent, settings)
    scored = [Phase("score", asked * lengths.shared(1), m, dtype=settings.score.dtype) for m in (segment.start, first)]
    yield Work("online", f"{segment.run}, greedy", asked, "answers", (*phases, *verdicts.phases, *scored))


def _evaluated(settings: Settings, extent: Extent) -> Iterator[Work]:
    """Answers to held-out prompts, and log-probs, which are fp32: of held-out pairs, and of the samples under the run and the
    primary reference."""
    own, lengths = settings.evaluate, extent.lengths
    held = prompts(settings, extent, [own.split])
    for name in settings.evaluated:
        model = LanguageModelSettings(id=f"run:{name}", vllm=own.vllm, server=own.server)
        asked, written = held * (1 + own.samples), min(lengths.completion, own.max_tokens)
        phases = answering(model, asked, lengths.prompt, written)
        pairs = sum(candidates(settings, extent, settings.sets.method).values()) > 1
        scored = [Phase("score", pairs * held * lengths.shared(2), model.id, dtype="float32")]
        for reference in settings.score.references[:1] if settings.evaluate.kl else ():
            sampled = held * (lengths.prompt + own.samples * written)
            scored += [Phase("score", sampled, m, dtype="float32") for m in (model.id, reference.model)]
        yield Work("evaluate", whole(settings, name), asked, "answers", (*phases, *scored))


def _compared(settings: Settings, extent: Extent) -> Iterator[Work]:
    """A judge's comparisons of greedy answers with the first run's, or with fixed ones."""
    own = settings.evaluate
    if own.judge is None:
        return
    judge = next(j for j in settings.judge if j.name == own.judge)
    others = len(settings.evaluated) - (own.baseline is None)
    pairs = others * prompts(settings, extent, [own.split])
    work = judged(judge, judge.name, pairs, 2 * pairs, extent, settings)
    yield Work("win_rate", work.unit, work.count, work.what, work.phases)


def _harness(settings: Settings, tasks: Mapping[str, Task]) -> Iterator[Work]:
    if settings.harness is None:
        return
    own = settings.harness
    if unknown := [t for t in own.tasks if t not in tasks]:
        raise ConfigError(
            f"the size of {unknown[0]} is not known", "harness.tasks", "add it to a file of rates: --rates FILE, tasks"
        )
    for name in settings.evaluated:
        yield _asked(whole(settings, name), f"run:{name}", [tasks[t] for t in own.tasks], own.limit, own.dtype)


def _asked(unit: str, model: str, tasks: Sequence[Task], limit: int | None, dtype: str) -> Work:
    asked = [(min(t.questions, limit or t.questions), t) for t in tasks]
    read = Phase("read.transformers", sum(n * t.rows * t.read for n, t in asked), model, dtype=dtype)
    written = Phase("write.transformers", sum(n * t.written for n, t in asked), model, dtype=dtype)
    return Work("harness", unit, sum(n for n, _ in asked), "task questions", (read, written))


def whole(settings: Settings, name: str) -> str:
    """The run that a part belongs to; any other run is itself."""
    return next((s.run for s in settings.segments if s.model == name), name)
