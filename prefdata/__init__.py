"""prefdata: candidate sets, reference scores, preference sets and their publication."""

__version__ = "0.1.0"
