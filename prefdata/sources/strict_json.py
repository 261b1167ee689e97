"""JSON, strictly: what our own tables could not hold, or readers disagree about, is an error."""

import json
from typing import Any, NoReturn

from prefdata.errors import DataError, snippet


class _Refused(Exception):
    """(what, the key it is about or "", what to do): of what JSON's own reader would let pass."""


def _no_constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is not JSON", "", "write null, or leave the row out")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        keys = [k for k, _ in pairs]
        double = next(k for k in keys if keys.count(k) > 1)
        raise _Refused("the key stands twice in one object", f":{snippet(double)}", "leave one of them out")
    return made


_decode = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_unique).decode
"""Made once: there are as many values as rows."""


def parse(text: str, where: str, do: str = "correct the row") -> Any:
    """A JSON value: no NaN or Infinity, no key twice, no absurd numbers or nesting. Raises DataError; `do` says what to do
    about what is no JSON."""
    try:
        if text.startswith("\ufeff"):
            raise json.JSONDecodeError("a mark of the encoding (BOM)", text, 0)
        return _decode(text)
    except _Refused as error:
        what, key, remedy = error.args
        raise DataError(what, f"{where}{key}", remedy) from None
    except RecursionError as error:
        raise DataError("nested too deeply", where, "flatten the row") from error
    except ValueError as error:
        raise DataError(f"not JSON ({str(error)[:80]}): {snippet(text)}", where, do) from error
