"""The kernel's log-weights of a prompt's candidates, and how far apart two of them must be to differ at all."""

import numpy as np
import torch

from prefdata.models.forward.logprob import token_tolerance
from train.examples import Example
from train.objectives.negatives import WEIGHTS, Vector
from train.objectives.references import REFERENCES
from train.settings import TrainingSettings


def scores(example: Example, policy: Vector, first: int, references: str, settings: TrainingSettings) -> Vector:
    """Of the pool, completions[first:], with log-probs `policy`: [L], fp64. `references`: a key of REFERENCES. In differences
    to the chosen for a pairwise one, which is the same distribution (a constant per prompt drops out of the softmax)."""
    logps = torch.tensor(example.logps or [[0.0] * len(example.completions)], dtype=torch.float64).unsqueeze(1)
    pool = logps[:, :, first:]
    views = REFERENCES[references].views(logps[:, :, :1].expand_as(pool), pool, settings.references)
    reference = ((views[1] - views[0] + logps[:1, :, :1]) * views[2]).sum(0)[0].numpy()
    return _weights(example, policy, reference, first, settings)


def tolerance(example: Example, first: int, settings: TrainingSettings) -> float:
    """Scores that are no further apart than this are equal, as far as the forward can tell."""
    # A token's log-prob may differ by e between two forwards, or a run stops before its first step. Errors of n tokens have
    # no common sign, so that their sum is some e sqrt(n). Weights are linear in the fresh log-prob and in the stored one,
    # which err apart from each other: a score is off by |weight(e sqrt(n), 0)| + |weight(0, e sqrt(n))|, which is
    # 2 beta e sqrt(n) for `ratio` and beta e sqrt(n) for `policy`. Two scores are compared: twice that, of the pool's largest.
    off = token_tolerance(settings.precision == "float32") * np.sqrt([float(len(c)) for c in example.completions[first:]])
    nothing = np.zeros_like(off)
    fresh, stored = (_weights(example, *errors, first, settings) for errors in ((off, nothing), (nothing, off)))
    return float(2 * (np.abs(fresh) + np.abs(stored)).max())


def _weights(example: Example, policy: Vector, reference: Vector, first: int, settings: TrainingSettings) -> Vector:
    tokens = np.array([len(c) for c in example.completions[first:]], dtype=np.float64)
    own = settings.negatives
    with np.errstate(invalid="ignore"):  # infinity less infinity: refused where it would be drawn by, by the prompt's name
        return WEIGHTS[own.weight](policy, reference, tokens, own.beta or settings.loss.beta)
