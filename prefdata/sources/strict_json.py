"""JSON, strictly: what our own tables could not hold, or readers disagree about, is an error."""

import json
from typing import Any

from prefdata.errors import DataError, snippet


def parse(text: str, where: str, do: str = "correct the row") -> Any:
    """A JSON value: no NaN or Infinity, no key twice, no absurd numbers or nesting. Raises DataError; `do` says what to do
    about what is no JSON."""

    def no_constant(name: str) -> None:
        raise DataError(f"{name} is not JSON", where, "write null, or leave the row out")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            keys = [k for k, _ in pairs]
            double = next(k for k in keys if keys.count(k) > 1)
            raise DataError("the key stands twice in one object", f"{where}:{snippet(double)}", "leave one of them out")
        return made

    try:
        return json.loads(text, parse_constant=no_constant, object_pairs_hook=unique)
    except RecursionError as error:
        raise DataError("nested too deeply", where, "flatten the row") from error
    except ValueError as error:
        raise DataError(f"not JSON ({str(error)[:80]}): {snippet(text)}", where, do) from error
