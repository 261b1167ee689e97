"""The embedded world's judge: an engine that knows the answers, reads two of them out of a request and prefers the better.

With settings it errs as real judges do: by chance, for the place that is read first, for the longer answer.
"""

import json
import math
from collections.abc import Iterable, Sequence

from prefdata.draws import uniform
from prefdata.judging.verify import score
from prefdata.models.engines.protocol import Completion, Replies, Request
from prefdata.recipe.settings import NoisySettings


class ExactJudge:
    """It is asked with a JSON object: task, answer (final, or null), first, second."""

    def __init__(self, noise: NoisySettings | None = None, seed: int = 0) -> None:
        self.noise, self.seed = noise, seed

    def complete(self, requests: Iterable[Request]) -> Replies:
        """Replies {"verdict": "A" | "B" | "tie", "margin": how much A is better}, or an error for no task."""
        for place, request in enumerate(requests):
            yield place, self._one(request)

    def _one(self, request: Request) -> Completion:
        asked = json.loads(request.messages[-1]["content"])
        first, second = (score(asked["task"], asked["answer"], asked[k]) for k in ("first", "second"))
        if first is None or second is None:
            return Completion("", "error", 0, "not_a_task")
        margin = first - second + self._error(request.id, asked)
        verdict = "tie" if margin == 0 else "A" if margin > 0 else "B"
        return Completion(json.dumps({"verdict": verdict, "margin": margin}), "stop", 0)

    def _error(self, id: str, asked: dict[str, str]) -> float:
        if self.noise is None:
            return 0.0
        u = uniform(self.seed, "noisy judge", id, 0, (asked["first"], asked["second"]))
        longer = len(asked["first"]) - len(asked["second"])
        chance = self.noise.spread * math.log(u / (1 - u))
        return chance + self.noise.first_place + self.noise.length * math.copysign(bool(longer), longer)

    def choose(self, requests: Iterable[Request], labels: Sequence[str]) -> Replies:
        """0 nats for the label it means, -inf for the others (a tie: log 1/2 each)."""
        for place, reply in self.complete(requests):
            verdict = json.loads(reply.text)["verdict"] if reply.text else None
            tie = verdict == "tie"
            logps = tuple(math.log(0.5) if tie else 0.0 if v == verdict else -math.inf for v in labels)
            yield place, Completion(reply.text, reply.finish, 0, reply.reason, logps)
