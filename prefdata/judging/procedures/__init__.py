"""PROCEDURES: which comparisons of a prompt's candidates are asked next, and the ranks that come out.

A procedure is a file of this folder with a PROCEDURE; its name is the file's. Pure functions of (prompt_id, candidates, what
is settled, seed). A pair is (a, b) with a < b; a comparison without a winner (tie, inconsistent, missing) decides nothing by
itself.
"""

from importlib import import_module
from pkgutil import iter_modules

from prefdata.judging.procedures.verdicts import Procedure

_NAMES = [found.name for found in iter_modules(__path__) if found.name != "verdicts"]
PROCEDURES: dict[str, Procedure] = {name: import_module(f"{__name__}.{name}").PROCEDURE for name in _NAMES}
