"""A row as compact JSON in ASCII with its keys in order, which its id is made of."""

from collections.abc import Mapping
from json.encoder import c_make_encoder  # type: ignore[attr-defined]
from typing import Any

from prefdata.draws import quoted

_HELD = 256
"""Texts that are remembered: those of a row, and more than it has."""


class _Quoted(dict[str, str]):
    """Texts as JSON, each escaped when it is asked for first."""

    def __missing__(self, text: str) -> str:
        made = self[text] = quoted(text)
        return made


class RowJson:
    """Writes rows; the texts of the last one, most of what there is to write, can be had again as they were written.

    The result is that of `json.dumps(row, sort_keys=True, separators=(",", ":"), default=str)`, by the encoder in C that it
    calls too.
    """

    def __init__(self) -> None:
        texts = self._texts = _Quoted()
        self.quoted = texts.__getitem__
        # circles are not looked for, no default but str, no indent; as `json.JSONEncoder` calls it
        self._encode: Any = c_make_encoder(None, str, self.quoted, None, ":", ",", True, False, True)

    def __call__(self, row: Mapping[str, Any]) -> str:
        if len(self._texts) > _HELD:
            self._texts.clear()
        return "".join(self._encode(row, 0))
