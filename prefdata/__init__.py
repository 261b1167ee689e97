"""prefdata: candidate sets, reference scores, preference sets and their publication; `prefdata.fit` trains on them."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`fit`, from the trainer, loaded when it is asked for. What a user calls train.py in the working folder is not it."""
    if name != "fit":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from prefdata.trainer import fit

    return fit()
