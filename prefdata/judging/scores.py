"""Stage `judge` with a judge that scores one answer at a time: a score of every candidate, committed chunk by chunk."""

from collections import Counter
from collections.abc import Sequence

from prefdata.draws import item_key
from prefdata.judging.askings import KEYS_VERSION, require_present
from prefdata.judging.pointwise import Pointwise
from prefdata.judging.procedures.verdicts import contenders
from prefdata.models.scorer import Item, pairs
from prefdata.recipe import fill
from prefdata.recipe.job import Job
from prefdata.recipe.settings.judging import JudgeSettings
from prefdata.tables import schema
from prefdata.tables.finished import ChunkStore, Value
from prefdata.tables.views import Frames


def score_each(job: Job, settings: JudgeSettings, judge: Pointwise, store: ChunkStore) -> None:
    """A score of every candidate, committed chunk by chunk."""

    def items(frames: Frames) -> dict[str, Item]:
        kept = contenders(frames["candidates"], settings.truncated)
        return {_item_key(judge, i): i for i in pairs({**frames, "candidates": kept}, settings.splits)}

    def compute(some: Sequence[Item]) -> list[Value]:
        return [{"score": score, "reason": reason} for score, reason in judge.scores(some)]

    fill.fill(job, store, settings.chunk_prompts, settings.splits, items, fill.whole(compute))
    reasons, count = Counter[str](), 0
    for frames in job.parts(prompts=fill.AT_ONCE):
        values = store.get(list(items(frames)))
        count += len(values)
        reasons.update(v["reason"] or "missing" for v in values.values() if v["score"] is None)
    require_present(reasons, count, settings)

    def rows(frames: Frames) -> Frames:
        wanted = items(frames)
        values = store.get(list(wanted))
        place = {"judge": f"{settings.name}@{judge.revision}", "rubric": item_key("pointwise", judge.what)[:16], "round": 1}
        made = [
            {"prompt_id": i.prompt["prompt_id"], "a": i.candidate["candidate_id"], **place, **values[key]}
            for key, i in wanted.items()
        ]
        return {"verdicts": schema.frame("verdicts", made)}

    fill.write(job, rows)


def _item_key(judge: Pointwise, item: Item) -> str:
    about = (item.prompt["prompt_id"], item.prompt["answer"] or "", item.candidate["candidate_id"], item.candidate["finish"])
    return item_key("score", KEYS_VERSION, judge.revision, judge.what, *about)
