"""The peer of our step: what a good engineer writes without a shared prefix."""

from collections.abc import Sequence
from typing import Any

import llama
import numpy as np
import torch
from steps import BETA, MICRO_TOKENS
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from train.examples import Example

Row = tuple[list[int], list[int]]


class Rows:
    """DPO or MC-PO over padded rows."""

    def __init__(self, data: list[Example], kernel: bool) -> None:
        self.model, self.data, self.kernel = llama.small(), data, kernel
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6, fused=True)
        self.draw = np.random.default_rng(0)

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        drawn = self.drawn() if self.kernel else [1] * len(self.data)
        order = sorted(range(len(self.data)), key=lambda i: len(self.data[i].prompt) + len(self.data[i].completions[0]))
        rows = 2 * max(sum(map(len, self.row(i, 0))) for i in order)
        width = max(1, MICRO_TOKENS // rows)
        for start in range(0, len(order), width):
            some = order[start : start + width]
            logps = sums(self.model, [self.row(i, k) for i in some for k in (0, drawn[i])]).view(-1, 2)
            reference = torch.tensor([[self.data[i].logps[0][k] for k in (0, drawn[i])] for i in some])
            ratio = logps - reference
            (-logsigmoid(BETA * (ratio[:, 0] - ratio[:, 1])).sum() / len(order)).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()

    def row(self, number: int, place: int) -> Row:
        return self.data[number].prompt, self.data[number].completions[place]

    def drawn(self) -> list[int]:
        """The kernel's draw for each prompt: every rejected row once, without gradient, like lengths together."""
        places = [(i, k) for i, e in enumerate(self.data) for k in range(1, len(e.completions))]
        places.sort(key=lambda p: sum(map(len, self.row(*p))))
        scores: list[list[float]] = [[0.0] * (len(e.completions) - 1) for e in self.data]
        width = max(1, MICRO_TOKENS // sum(map(len, self.row(*places[-1]))))
        with torch.no_grad():
            for start in range(0, len(places), width):
                some = places[start : start + width]
                for (i, k), value in zip(some, sums(self.model, [self.row(*p) for p in some]).tolist(), strict=True):
                    scores[i][k - 1] = BETA * (value - self.data[i].logps[0][k])
        return [1 + int(np.argmax(np.array(s) + self.draw.gumbel(size=len(s)))) for s in scores]


def sums(policy: Any, rows: Sequence[Row]) -> Tensor:
    """Log-probs of the completions by one padded forward: [rows]."""
    longest = max(len(p) + len(c) for p, c in rows)
    ids = torch.tensor([[*p, *c, *[0] * (longest - len(p) - len(c))] for p, c in rows])
    starts, stops = (
        torch.tensor(v).unsqueeze(1) for v in zip(*[(len(p) - 1, len(p) + len(c) - 1) for p, c in rows], strict=True)
    )
    places = torch.arange(longest - 1)
    hidden = policy.model(input_ids=ids[:, :-1], attention_mask=(places < stops).long(), use_cache=False).last_hidden_state
    scored = (places >= starts) & (places < stops)
    logps = -cross_entropy(policy.lm_head(hidden[scored]), ids[:, 1:][scored], reduction="none")
    return torch.stack([part.sum() for part in torch.split(logps, [len(c) for _, c in rows])])
