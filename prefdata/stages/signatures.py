"""Stage `signatures`: a MinHash signature of every prompt's runs of words, for the search of duplicates (stage `dedup`)."""

from collections.abc import Iterator, Sequence

import polars as pl

from prefdata.draws import hex_id
from prefdata.recipe.job import Job, each_part
from prefdata.recipe.settings.data import DedupSettings
from prefdata.recipe.stage import Stage, without
from prefdata.recipe.units import Part
from prefdata.sources.words import ngrams, user_text, words
from prefdata.tables.views import Frames


def signatures(frames: Frames, job: Job) -> Frames:
    """prompts -> a hash of each prompt's words and its MinHash signature."""
    settings = job.settings.dedup or DedupSettings()
    prompts = frames["prompts"]
    listed = [words(user_text(m)) for m in prompts["messages"].to_list()]
    made = prompts.select("prompt_id", "source", "source_split").with_columns(
        pl.Series("exact", [hex_id("words", *w) for w in listed], dtype=pl.String),
        pl.Series("signature", list(minhashes(listed, settings)), dtype=pl.List(pl.UInt32)),
    )
    return {"signatures": made}


def minhashes(listed: Sequence[Sequence[str]], settings: DedupSettings) -> Iterator[list[int]]:
    """The MinHash signature of each text's n-grams: `permutations` numbers of 32 bits."""
    from datasketch import MinHash

    grams = ([g.encode() for g in ngrams(w, settings.ngram)] for w in listed)
    for minhash in MinHash.generator(grams, num_perm=settings.permutations, scheme="affine32"):
        yield minhash.hashvalues.tolist()


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
