"""Keyed random numbers: every draw is a pure function of what it is for.

u = hash64(seed, purpose, id, visit, index), blake2b, fp64, on the CPU. Results then depend neither on row order, nor
on the number of shards or workers, nor on the device. The seed None is of draws that belong to the ids alone: whoever
makes them, in whatever run, draws the same.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

Key = str | int | float
NEGATIVE = "negative"
"""The purpose of the draws of negatives, the fixed pair's among them."""
FIRST: tuple[int, int] = (0, 0)
"""The index of the first of a prompt's draws, which the fixed pair is: M negatives drawn once for the set then hold it."""


def hash64(*key: Key | None) -> int:
    """64 bits of blake2b over the key as a JSON array (unambiguous: ("a", "bc") and ("ab", "c") differ)."""
    return int.from_bytes(hashlib.blake2b(_written(key), digest_size=8).digest(), "big")


def _written(key: tuple[Key | None, ...]) -> bytes:
    """The key as a compact JSON array in ASCII, as `json.dumps` writes it, without its start for each."""
    text = f"[{','.join([_one(k) for k in key])}]" if len(key) < LONG else _COMPACT(key)
    return text.encode("ascii")


LONG = 12
"""From so many parts on the encoder's own start is paid back."""
_COMPACT = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


def _one(key: Key | None) -> str:
    kind = type(key)
    if kind is str:
        return quoted(key)
    if kind is int or (kind is float and math.isfinite(key)):  # type: ignore[arg-type]
        return repr(key)
    return json.dumps(key)


quoted: Callable[..., str] = json.encoder.encode_basestring_ascii
"""A text as JSON in ASCII: the C function that `json.dumps` calls."""


def hex_id(*key: Key) -> str:
    """The 16 hex digits used for prompt_id, candidate_id and row hashes."""
    return hashed(_written(key))


def hashed(key: bytes) -> str:
    """`hex_id` of a key that is written already, for what makes millions of one form."""
    return hashlib.blake2b(key, digest_size=8).hexdigest()


def hex_id_of_json(text: str) -> str:
    """`hex_id(text)` of a text that is JSON in ASCII: of what JSON escapes it has quotes and backslashes alone."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return hashed(f'["{escaped}"]'.encode("ascii"))


def item_key(*key: Key | None) -> str:
    """32 hex digits that name a piece of finished work in a chunk store."""
    return hashlib.blake2b(_written(key), digest_size=16).hexdigest()


def uniform(seed: int | None, purpose: str, id: str, visit: int = 0, index: Sequence[Key] = ()) -> float:
    """One fp64 number in the open interval (0, 1); 52 bits, so that neither 0 nor 1 can come out of the rounding."""
    return ((hash64(seed, purpose, id, visit, *index) >> 12) + 0.5) / 2.0**52


def gumbel(seed: int | None, purpose: str, id: str, visit: int = 0, index: Sequence[Key] = ()) -> float:
    """One standard Gumbel variate, -log(-log(u))."""
    return -math.log(-math.log(uniform(seed, purpose, id, visit, index)))


def gumbels(
    seed: int | None, purpose: str, ids: Iterable[str], visit: int = 0, index: Sequence[Key] = ()
) -> npt.NDArray[np.float64]:
    """`gumbel` for each id, the same numbers: shape [len(ids)], fp64."""
    return np.array([-math.log(-math.log(u)) for u in uniforms(seed, purpose, ids, visit, index).tolist()], dtype=np.float64)


def uniforms(
    seed: int | None, purpose: str, ids: Iterable[str], visit: int = 0, index: Sequence[Key] = ()
) -> npt.NDArray[np.float64]:
    """`uniform` for each id, the same numbers: shape [len(ids)], fp64. What the keys share is written once."""
    around = json.dumps([seed, purpose, "", visit, *index], ensure_ascii=True, separators=(",", ":"))
    split = len(json.dumps([seed, purpose], ensure_ascii=True, separators=(",", ":")))
    head, tail = around[:split].encode("ascii"), around[split + 2 :].encode("ascii")
    quoted, start = json.encoder.encode_basestring_ascii, hashlib.blake2b
    digests = b"".join(start(head + quoted(i).encode("ascii") + tail, digest_size=8).digest() for i in ids)
    return np.asarray(((np.frombuffer(digests, ">u8") >> 12) + 0.5) / 2.0**52, dtype=np.float64)


def choose(
    seed: int | None,
    purpose: str,
    ids: Sequence[str],
    log_weights: Sequence[float] | None = None,
    visit: int = 0,
    index: Sequence[Key] = (),
) -> str:
    """Draw one id with probability proportional to exp(log_weight): argmax of log-weight + Gumbel (uniform if None).

    Each id carries its own noise, so adding or removing an id changes no other id's number. Raises ValueError where
    there is nothing to draw from (no id, or every weight -inf), or a weight is NaN.
    """
    weights = np.zeros(len(ids)) if log_weights is None else np.asarray(log_weights, dtype=np.float64)
    if np.isnan(weights).any():
        raise ValueError("nothing to draw by: a log-weight is NaN")
    if len(ids) == 0 or not np.isfinite(weights).any():
        raise ValueError("nothing to draw from: no candidate has a finite log-weight")
    if len(ids) == 1:
        return ids[0]
    scores = weights + gumbels(seed, purpose, ids, visit, index)
    best = scores.max()
    return min(i for i, score in zip(ids, scores, strict=True) if score == best)
