"""Stage `score`: the log-prob of every candidate under one reference, through THE log-prob forward.

Each reference tokenises the text with its own tokenizer, template and end; only sums over its own ids are stored.
Nothing is truncated: a row longer than the reference's context is dropped, too_long:<reference>; an answer that the
reference's tokenizer cannot give back is dropped too, lossy_tokenizer, for its log-prob would be another text's.
"""

from collections.abc import Mapping

from prefdata.models.identity import Model
from prefdata.models.scorer import VERSION, Item, Scorer, keyed, pairs, problem
from prefdata.models.settings import ReferenceSettings
from prefdata.recipe import fill
from prefdata.recipe.job import Job
from prefdata.recipe.prompts import PROMPTS
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Slice, Stage, without
from prefdata.recipe.units import reference, reference_unit
from prefdata.stages.graph import noise_parts, pool
from prefdata.tables import schema
from prefdata.tables.drops import drop
from prefdata.tables.finished import ChunkStore, Value
from prefdata.tables.views import Frames


def run(job: Job) -> None:
    """Fill the store with log-probs, write logps and drops."""
    own, score = reference(job.settings, job.unit), job.settings.score
    path = job.model_path(own.model)
    scorer = Scorer(path, own, score.dtype, score.batch_tokens)
    common = (job.revision(own.model, own.revision), score.dtype, own.template, own.end, own.max_tokens)
    policy = _policy(job, own)
    if policy is not None:
        _ = policy.limit, policy.encoder  # what cannot serve is refused before any work

    def items(frames: Frames) -> dict[str, Item]:
        return keyed(pairs(frames, job.settings.sets.splits), common)

    with job.store() as store:
        fill.fill(job, store, score.chunk_prompts, job.settings.sets.splits, items, fill.whole(scorer.values))
        fill.write(job, lambda frames: rows(frames, items(frames), store, own.name, policy))


def policy_beside(settings: Settings, unit: str) -> list[Model]:
    """The policy that the primary reference's job also checks for length, where it is another model."""
    score, own = settings.score, reference(settings, unit)
    other = score.policy is not None and own == score.references[0] and score.policy != own.model
    return [(str(score.policy), score.policy_revision)] if other else []


def _policy(job: Job, own: ReferenceSettings) -> Scorer | None:
    """The policy's own encoder and limit, checked beside the primary reference where it is another model."""
    for name, revision in policy_beside(job.settings, job.unit):
        policy = own.model_copy(update={"model": name, "revision": revision, "max_tokens": None})
        return Scorer(job.model_path(name), policy, job.settings.score.dtype, 1)
    return None


def rows(frames: Frames, items: Mapping[str, Item], store: ChunkStore, name: str, policy: Scorer | None) -> Frames:
    """logps of what was scored; drops of scope candidate for what was too long."""
    values = store.get(list(items))
    of_policy = _policy_refuses(policy, items) if policy else {}
    made, drops = [], []
    for key, item in items.items():
        own = item.candidate["candidate_id"]
        found = problem(values[key], name) or problem(of_policy.get(key, {}), "policy")
        if found:
            drops.append(drop("candidate", "score", found[0], item.prompt, own, found[1]))
        else:
            ids = {"prompt_id": item.prompt["prompt_id"], "candidate_id": own}
            made.append({**ids, "reference": name, **values[key]})
    return {"logps": schema.frame("logps", made), "drops": schema.frame("drops", drops)}


def _policy_refuses(policy: Scorer, items: Mapping[str, Item]) -> dict[str, Value]:
    """What stands against the items under the policy's tokenizer and length; an answer it cannot give back is the trainer's
    concern."""
    against = policy.encoded(list(items.values()))[2]
    return {k: v for k, v in zip(items, against, strict=True) if v and "lossy" not in v}


def _slice(settings: Settings, unit: str) -> Slice:
    own = without(settings.score, "references", "shards_per_engine", "policy", "policy_revision")
    policy = policy_beside(settings, unit)
    return {**own, "reference": without(reference(settings, unit)), "policy": policy, "splits": settings.sets.splits}


def _models(settings: Settings, unit: str) -> list[Model]:
    own = reference(settings, unit)
    return [(own.model, own.revision), *policy_beside(settings, unit)]


STAGE = Stage(
    name="score",
    help="Compute every candidate's log-prob under a reference.",
    version=VERSION,  # stored log-probs are the scorer's
    run=run,
    per="engine",
    writes=("logps", "drops"),
    units=lambda s: [reference_unit(r) for r in s.score.references],
    reads=lambda s, u: [*PROMPTS, *pool(s, s.sets.method), *noise_parts(s)],
    slice=_slice,
    models=_models,
    per_engine=lambda s, u: s.score.shards_per_engine,
    gpus=1,
)
