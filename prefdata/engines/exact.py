"""The exact judge: an engine that reads two answers and the task out of a request, and prefers the better one."""

import json
from collections.abc import Sequence

from prefdata.engines import Completion, Request
from prefdata.verify import score


class ExactJudge:
    """An engine that knows the answers. It is asked with a JSON object: task, answer (final, or null), first, second."""

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Replies {"verdict": "A" | "B" | "tie", "margin": score of A - score of B}, or an error for no task."""
        return [self._one(json.loads(r.messages[-1]["content"])) for r in requests]

    def _one(self, asked: dict[str, str]) -> Completion:
        first, second = (score(asked["task"], asked["answer"], asked[k]) for k in ("first", "second"))
        if first is None or second is None:
            return Completion("", "error", 0, "not_a_task")
        verdict = "tie" if first == second else "A" if first > second else "B"
        return Completion(json.dumps({"verdict": verdict, "margin": first - second}), "stop", 0)

    def choose(self, requests: Sequence[Request], labels: Sequence[str]) -> list[list[float]]:
        """0 nats for the label it means, -inf for the others (a tie: the first label's and the second's log 1/2)."""
        half = -0.6931471805599453
        rows = []
        for completion in self.complete(requests):
            verdict = json.loads(completion.text)["verdict"] if completion.text else None
            rows.append([half if verdict == "tie" else 0.0 if v == verdict else -float("inf") for v in labels])
        return rows
