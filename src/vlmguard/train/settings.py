"""Settings of TRL and PEFT: passed on as they are, with an error for people where a library does not know or take one."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from vlmguard.errors import InputError

T = TypeVar("T")
_NOT_OURS = (
    # TRL sets and reads these by their old names
    ("`(gradient_checkpointing|is_gradient_checkpointing)\\w*` is deprecated", FutureWarning),
)
"""Warnings of one library about another's use of it: message and kind. Nobody who runs this can do anything about them."""


@contextmanager
def without_foreign_warnings() -> Iterator[None]:
    """Silences ``_NOT_OURS`` and nothing else."""
    with warnings.catch_warnings():
        for message, kind in _NOT_OURS:
            warnings.filterwarnings("ignore", message, kind)
        yield


def settings_of(kind: type[T], name: str, given: Mapping[str, Any], fixed: Mapping[str, tuple[Any, str]]) -> T:
    """The configuration of a library.

    Args:
        kind: its dataclass.
        name: of the recipe's table.
        given: what the recipe says.
        fixed: setting → its value and why no recipe may set it.

    Raises:
        InputError: an unknown setting, one that is fixed, or a value that the library refuses.
    """
    assert dataclasses.is_dataclass(kind)
    known = [item.name for item in dataclasses.fields(kind) if item.init]
    for key in given:
        if key in fixed:
            raise InputError(f"{name}.{key} is not for a recipe to set: {fixed[key][1]}")
        if key not in known:
            near = " or ".join(get_close_matches(key, known, 3))
            raise InputError(f"{name}: {kind.__name__} knows no {key!r}{f'; did you mean {near}?' if near else ''}")
    hints = get_type_hints(kind)
    read = {key: _read(f"{name}.{key}", value, hints[key]) for key, value in given.items()}
    try:
        return kind(**read, **{key: value for key, (value, _) in fixed.items()})
    except (TypeError, ValueError, ImportError) as error:
        raise InputError(f"{name}: {kind.__name__} refuses these settings: {error}") from error


def _read(name: str, value: Any, hint: Any) -> Any:
    """A value where the library wants a number or a switch, since it would notice much later; others are the library's to check.

    YAML reads ``1e-4`` (no dot) as text. Raises ``InputError``.
    """
    kinds = set(get_args(hint) if get_origin(hint) in (Union, UnionType) else [hint]) - {type(None)}
    if not kinds or not kinds <= {int, float, bool} or not isinstance(value, str | list | dict):
        return value
    if kinds == {bool}:
        raise InputError(f"{name} is true or false, not {value!r}")
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is a number, not {value!r}") from error
    return int(number) if float not in kinds and number.is_integer() else number
