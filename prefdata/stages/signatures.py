"""Stage `signatures`: a MinHash signature of every prompt's runs of words, for the search of duplicates (stage `dedup`)."""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha1

import numpy as np
import numpy.typing as npt
import polars as pl

from prefdata.draws import hex_id
from prefdata.recipe.job import Job, each_part
from prefdata.recipe.settings.data import DedupSettings
from prefdata.recipe.stage import Stage, without
from prefdata.recipe.units import Part
from prefdata.sources.words import ngrams, user_text, words
from prefdata.tables.views import Frames

TOGETHER = 1024
"""Prompts whose signatures are made at once: their hashes then stay in the processor's cache."""


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

    The numbers are those of datasketch's scheme affine32, whose permutations are taken (a test compares); here they are made of
    all texts at once, which the library does for one text at a time.
    """
    grams = [ngrams(own, settings.ngram) for own in listed]
    starts = np.cumsum([0, *map(len, grams[:-1])])
    digests = b"".join([sha1(gram.encode()).digest()[:4] for own in grams for gram in own])
    mixed = _mixed(np.frombuffer(digests, "<u4").astype(np.uint32))
    factors, shifts = _permutations(settings.permutations)
    made, permuted = np.empty((settings.permutations, len(grams)), np.uint32), np.empty_like(mixed)
    for row, factor, shift in zip(made, factors, shifts, strict=True):
        np.multiply(mixed, factor, out=permuted)
        np.add(permuted, shift, out=permuted)
        np.minimum.reduceat(permuted, starts, out=row)
    return made.T


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
    version=2,
    run=each_part(signatures),
    writes=("signatures",),
    units=lambda s: ["all"] if s.dedup else [],
    reads=lambda s, u: [Part("prompts", "sources")],
    columns={"prompts": ("prompt_id", "messages", "source", "source_split")},
    slice=lambda s, u: without(s.dedup, "threshold", "bands") if s.dedup else {},
)
