"""Stage `signatures`: a MinHash signature of every prompt's runs of words, for the search of duplicates (stage `dedup`)."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain

import numpy as np
import numpy.typing as npt
import polars as pl

from prefdata.draws import hash64, hex_id
from prefdata.recipe.job import Job, each_part
from prefdata.recipe.settings.data import DedupSettings
from prefdata.recipe.stage import Stage, without
from prefdata.recipe.units import Part
from prefdata.sources.words import user_text, words
from prefdata.tables.views import Frames

TOGETHER = 1024
"""Prompts whose signatures are made at once: their hashes then stay in the processor's cache."""
HELD, LONGEST = 2**18, 32
"""Words whose hashes are remembered, and their characters: longer ones seldom come again, and would take the memory."""
FACTOR = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that a product with it loses nothing; the golden ratio's bits."""


def signatures(frames: Frames, job: Job) -> Frames:
    """prompts -> a hash of each prompt's words and its MinHash signature."""
    settings = job.settings.dedup or DedupSettings()
    prompts = frames["prompts"]
    exact, signed = list[str](), [np.empty((0, settings.permutations), np.uint32)]
    for some in prompts["messages"].to_frame().iter_slices(TOGETHER):
        listed = [words(user_text(m)) for m in some["messages"].to_list()]
        exact += [hex_id("words", *w) for w in listed]
        signed.append(minhashes(listed, settings))
    made = prompts.select("prompt_id", "source", "source_split").with_columns(
        pl.Series("exact", exact, dtype=pl.String),
        pl.Series("signature", np.concatenate(signed), dtype=pl.Array(pl.UInt32, settings.permutations)).cast(
            pl.List(pl.UInt32)
        ),
    )
    return {"signatures": made}


def minhashes(listed: Sequence[Sequence[str]], settings: DedupSettings) -> npt.NDArray[np.uint32]:
    """The MinHash signature of each text's n-grams: shape [texts, permutations].

    The permutations are those of datasketch's scheme affine32, the numbers what it makes of the same hashes (a test compares);
    here they are made of all texts at once, which the library does for one text at a time.
    """
    hashes, starts = runs(listed, settings.ngram)
    mixed = _mixed(hashes)
    factors, shifts = _permutations(settings.permutations)
    made, permuted = np.empty((settings.permutations, len(starts)), np.uint32), np.empty_like(mixed)
    for row, factor, shift in zip(made, factors, shifts, strict=True):
        np.multiply(mixed, factor, out=permuted)
        np.add(permuted, shift, out=permuted)
        np.minimum.reduceat(permuted, starts, out=row)
    return made.T


def runs(listed: Sequence[Sequence[str]], n: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """A hash of every run of n words of each text, a shorter text being one run: those of all texts one behind the other, and
    where each text's begin.

    A run's is a polynomial of its words' 64 bits (Karp and Rabin, IBM J. Res. Dev. 31, 1987), of which the upper half is kept:
    words repeat, so that few are hashed, and runs seldom do.
    """
    hashed = np.fromiter(map(_of_word.__getitem__, chain.from_iterable(listed)), np.uint64)
    lengths = np.array([len(own) for own in listed])
    counts = np.maximum(lengths - n + 1, 1)
    starts, words_before = np.cumsum(counts) - counts, np.cumsum(lengths) - lengths
    first = np.arange(counts.sum()) + np.repeat(words_before - starts, counts)
    after = np.repeat(words_before + lengths, counts)
    made = np.zeros(len(first), np.uint64)
    for place in range(n):
        there = first + place < after
        made *= np.where(there, FACTOR, np.uint64(1))
        made += np.where(there, hashed[np.minimum(first + place, after - 1)], np.uint64(0))
    return (made >> np.uint64(32)).astype(np.uint32), starts


class _Words(dict[str, int]):
    """64 bits of each word, hashed when it is asked for first."""

    def __missing__(self, word: str) -> int:
        made = hash64("word", word)
        if len(self) >= HELD:
            self.clear()
        if len(word) <= LONGEST:
            self[word] = made
        return made


_of_word = _Words()


@lru_cache(maxsize=1)
def _permutations(count: int) -> npt.NDArray[np.uint32]:
    """Factors and shifts: shape [2, count]."""
    from datasketch import MinHash

    made: npt.NDArray[np.uint32] = MinHash(num_perm=count, scheme="affine32").permutations
    return made


def _mixed(hashes: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """MurmurHash3's last step, which the scheme begins with; products wrap around."""
    hashes = (hashes ^ (hashes >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    hashes = (hashes ^ (hashes >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return hashes ^ (hashes >> np.uint32(16))


STAGE = Stage(
    name="signatures",
    help="Hash every prompt's words for the search of duplicates.",
    version=3,
    run=each_part(signatures),
    writes=("signatures",),
    units=lambda s: ["all"] if s.dedup else [],
    reads=lambda s, u: [Part("prompts", "sources")],
    columns={"prompts": ("prompt_id", "messages", "source", "source_split")},
    slice=lambda s, u: without(s.dedup, "threshold", "bands") if s.dedup else {},
)
