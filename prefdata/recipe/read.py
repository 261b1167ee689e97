"""Reading a recipe: one validation, every mistake reported together, the nearest key named; and what its keys mean."""

import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from prefdata.errors import ConfigError, did_you_mean, snippet
from prefdata.recipe.settings.whole import Settings


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that refuses a key written twice; YAML would silently keep the last."""


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.YAMLError(f"line {key_node.start_mark.line + 1}: the key {key!r} is written twice")
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def read_recipe(path: Path) -> Settings:
    """Read and validate a recipe. Raises ConfigError with every mistake, one line each."""
    return validate_recipe(read_yaml(path), str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as a mapping, strictly. Raises ConfigError."""
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ConfigError("no such settings file", str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"not YAML ({' '.join(str(error).split())})", str(path)) from error
    if not isinstance(raw, dict):
        raise ConfigError("settings must be a mapping of keys", str(path))
    return raw


def validate_recipe(raw: Any, where: str) -> Settings:
    """Validate settings already read (Snakemake merges files and --config before it hands them over)."""
    if not isinstance(raw, dict):
        raise ConfigError("settings must be a mapping of keys", where)
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(explain(error, Settings, where)) from error


def explain(error: ValidationError, model: type[BaseModel], where: str, keys: str = "prefdata settings") -> list[str]:
    """One line a mistake: file: key: what, and for an unknown key the nearest known one."""
    lines = []
    # unknown keys first: what is said to be missing is often one of them
    for problem in sorted(error.errors(include_url=False), key=lambda p: p["type"] != "extra_forbidden"):
        loc = [str(p) for p in problem["loc"]]
        if problem["type"] == "extra_forbidden":
            known = list(_keys_at(model, problem["loc"][:-1]))
            lines.append(f"{where}: {'.'.join(loc)}: unknown key{did_you_mean(loc[-1], known)}")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            if problem["type"] not in ("missing", "value_error"):
                message = f"{message}, not {snippet(problem['input'])}"
            lines.append(f"{where}: {'.'.join(loc) or 'settings'}: {message}; `{keys}` explains every key")
    return lines


def _keys_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> dict[str, Any]:
    fields: dict[str, Any] = dict(model.model_fields)
    for step in loc:
        if isinstance(step, int) or step not in fields:
            continue
        inner = _model_in(fields[step].annotation)
        fields = dict(inner.model_fields) if inner else {}
    return fields


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The settings class inside `X`, `X | None` or `list[X]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if found := _model_in(argument):
            return found
    return None


def print_settings(model: type[BaseModel], prefix: str = "") -> None:
    """Print every key with its default and its reason."""
    for key, default, reason in describe(model, prefix):
        print(f"{key}  [{default}]\n    {reason}" if default else f"\n{key}: {reason}")


def describe(model: type[BaseModel], prefix: str = "") -> list[tuple[str, str, str]]:
    """(key, default, reason) of every setting, for `prefdata settings`."""
    rows: list[tuple[str, str, str]] = []
    for name, field in model.model_fields.items():
        inner = _model_in(field.annotation)
        if inner is None:
            default = "required" if field.is_required() else json.dumps(field.get_default(call_default_factory=True))
            rows.append((prefix + name, default, field.description or ""))
        else:
            rows.append((prefix + name, "", (inner.__doc__ or "").splitlines()[0]))
            inside = "[]." if "list[" in str(field.annotation) else "."
            rows.extend(describe(inner, prefix + name + inside))
    return rows
