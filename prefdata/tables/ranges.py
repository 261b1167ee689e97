"""Several sorted streams of prompts side by side: what each has of the same range of prompt ids, in bounded memory."""

from collections.abc import Iterable, Iterator, Sequence

import polars as pl

from prefdata.errors import DataError


def ranges(streams: Sequence[Iterable[pl.DataFrame]], empty: pl.DataFrame) -> Iterator[list[pl.DataFrame]]:
    """Yield consecutive ranges of prompt ids: one frame a stream, `empty` where it has no row there.

    Each stream has one row a prompt and ascends by prompt_id, over its frames too (`ascending`).
    """
    sources = [iter(stream) for stream in streams]
    held = [_next(source) for source in sources]
    while any(frame is not None for frame in held):
        bound = min(frame["prompt_id"][-1] for frame in held if frame is not None)
        taken = []
        for k, frame in enumerate(held):
            if frame is None:
                taken.append(empty)
                continue
            rows = int(frame["prompt_id"].search_sorted(bound, side="right"))
            taken.append(frame.head(rows))
            held[k] = frame.slice(rows) if rows < frame.height else _next(sources[k])
        yield taken


def _next(source: Iterator[pl.DataFrame]) -> pl.DataFrame | None:
    """The next frame that has rows."""
    return next((frame for frame in source if frame.height), None)


def ascending(frames: Iterable[pl.DataFrame], where: str) -> Iterator[pl.DataFrame]:
    """The frames, each sorted by prompt_id already, checked to follow one another. Raises DataError."""
    last = ""
    for frame in frames:
        if frame.height:
            if frame["prompt_id"][0] <= last:
                raise DataError(f"prompt {frame['prompt_id'][0]} comes after {last}", where, "publish the set again")
            last = frame["prompt_id"][-1]
        yield frame
