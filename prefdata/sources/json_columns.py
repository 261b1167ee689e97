"""JSON in columns (Arrow's JSON type, as published sets have it for tool calls): each value is what its text says.

A column gives every object all keys of the file, so that a null key says nothing; an object of a JSON value has no keys but its
own, and its null keys are kept (`Exact`).
"""

from collections.abc import Mapping
from typing import Any

from prefdata.sources.conversations import Exact
from prefdata.sources.strict_json import parse

Places = bool | list["Places"] | dict[str, "Places"]
"""Where JSON is in a column's values: the value itself (or nowhere in it), in the items of a list, under keys of objects."""


def places_of(dtype: Any) -> Places:
    """Of an Arrow type."""
    import pyarrow as pa
    from pyarrow import types

    if isinstance(dtype, pa.JsonType):
        return True
    if types.is_list(dtype) or types.is_large_list(dtype) or types.is_fixed_size_list(dtype):
        return _listed(places_of(dtype.value_type))
    return _keyed({f.name: places_of(f.type) for f in dtype}) if types.is_struct(dtype) else False


def places_in(feature: Any) -> Places:
    """Of a feature of `datasets`."""
    import datasets

    if isinstance(feature, datasets.Json):
        return True
    if isinstance(feature, datasets.List | datasets.LargeList):
        return _listed(places_in(feature.feature))
    return _keyed({k: places_in(f) for k, f in feature.items()}) if isinstance(feature, Mapping) else False


def _listed(inner: Places) -> Places:
    return [inner] if inner else False


def _keyed(inner: dict[str, Places]) -> Places:
    return {k: places for k, places in inner.items() if places} or False


def read(value: Any, places: Places, at: str | None = None) -> Any:
    """A value of a column with its JSON as what it says; `at`: the JSON is text yet, of this place. Raises DataError."""
    if value is None or not places:
        return value
    if places is True:
        return exact(value if at is None else parse(value, at))
    if isinstance(places, list):
        return [read(v, places[0], at and f"{at}[{i}]") for i, v in enumerate(value)]
    return {**value, **{k: read(value.get(k), inner, at and f"{at}.{k}") for k, inner in places.items()}}


def exact(value: Any) -> Any:
    """The value with all of its objects as `Exact`."""
    if isinstance(value, Mapping):
        return Exact({k: exact(v) for k, v in value.items()})
    return [exact(v) for v in value] if isinstance(value, list) else value
