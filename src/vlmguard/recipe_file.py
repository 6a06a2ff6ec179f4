"""A recipe from YAML: a frozen dataclass whose fields are the settings, read and checked the same way for every command."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from vlmguard.errors import InputError, MissingExtraError

T = TypeVar("T")


def read_recipe(path: Path, kind: type[T], extra: str) -> T:
    """The recipe in a YAML file. ``folder``, where it lies, is no setting but is filled in: paths are relative to it.

    Args:
        path: the file.
        kind: a dataclass with a field ``folder``; fields without a default are required.
        extra: what to install for it.

    Raises:
        InputError: an unknown or missing setting, or a value of the wrong kind: with the key and the reason.
        MissingExtraError: no YAML reader is installed.
    """
    table = _table(path, extra)
    assert dataclasses.is_dataclass(kind)
    fields = [item for item in dataclasses.fields(kind) if item.name != "folder"]
    known = [item.name for item in fields]
    for key in table:
        if key not in known:
            raise InputError(f"{path}: unknown setting {key!r}; the settings are {', '.join(known)}")
    for item in fields:
        if (
            item.default is dataclasses.MISSING
            and item.default_factory is dataclasses.MISSING
            and item.name not in table
        ):
            raise InputError(f"{path}: {item.name!r} is missing")
    hints = get_type_hints(kind)
    try:
        values = {key: _value(key, value, hints[key]) for key, value in table.items()}
        return cast(Callable[..., T], kind)(**values, folder=path.parent.resolve())
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _table(path: Path, extra: str) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError("a recipe", extra) from error
    try:
        text = path.read_text(encoding="utf-8")
        if twice := _set_twice(yaml.compose(text, yaml.SafeLoader)):
            raise InputError(f"the recipe {path} sets {twice[0]} twice: YAML would take the last one and say nothing")
        table = yaml.safe_load(text)
    except OSError as error:
        raise InputError(f"the recipe {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"the recipe {path} is no YAML: {error}") from error
    if not isinstance(table, dict):
        raise InputError(f"the recipe {path} is no table of settings")
    return table


def _set_twice(root: Any) -> list[str]:
    """Names that a table in a YAML document has twice."""
    import yaml

    left, seen = [root], set()
    found: list[str] = []
    while left:
        node = left.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
            found += sorted({name for name in names if names.count(name) > 1})
            left += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            left += node.value
    return found


def _value(key: str, value: Any, hint: Any) -> Any:
    """The value as its field wants it. One of several kinds is taken as it is where it is of any of them."""
    kinds = get_args(hint) if get_origin(hint) not in (tuple, Mapping, None) and get_args(hint) else (hint,)
    origins = [get_origin(kind) or kind for kind in kinds]
    if tuple in origins:
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
            raise InputError(f"{key} is a list of strings")
        return tuple(values)
    if Mapping in origins and isinstance(value, dict):
        return value
    if float in origins and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if value is None and str in origins:
        return ""
    plain = tuple(origin for origin in origins if isinstance(origin, type) and origin is not Mapping)
    if not isinstance(value, plain) or (bool not in plain and isinstance(value, bool)):
        names = " or ".join(
            "table" if origin is Mapping else getattr(origin, "__name__", "nothing") for origin in origins
        )
        raise InputError(f"{key} is of the kind {names}, not {value!r}")
    return value
