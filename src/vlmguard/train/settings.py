"""Settings of TRL and PEFT: passed on as they are, with an error for people where a library does not know or take one."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from types import UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from vlmguard.errors import InputError

T = TypeVar("T")
Fixed = Mapping[str, tuple[Any, str]]
"""Setting → the one value it has, and why no recipe may give it another."""
_PUBLISHED = "nothing is sent to a hub while it is trained: look at RUN/model first, then hf upload"
_EXACT = "a run that was stopped would not go on as if it had not been"
_BUILT = "rows are read from the dataset's folder and built when they are asked for"
OWNED: Fixed = {
    "max_length": (None, "TRL would cut rows, and image tokens among them"),
    "remove_unused_columns": (False, _BUILT),
    "dataset_num_proc": (None, f"{_BUILT}, in trl.dataloader_num_workers processes"),
    "label_names": (None, "what is learned is the trace"),
    "trust_remote_code": (False, "say it in trl.model_init_kwargs, with which the model is loaded"),
    "disable_tqdm": (True, "the progress bar is ours"),
    "logging_nan_inf_filter": (False, "it would hide what a run stops at"),
    "resume_from_checkpoint": (None, "the same command goes on from the last whole checkpoint by itself"),
    "save_only_model": (False, _EXACT),
    "ignore_data_skip": (False, _EXACT),
    "restore_callback_states_from_checkpoint": (True, _EXACT),
    "enable_jit_checkpoint": (False, "what it had half written would be taken for whole; lower save_steps"),
    "save_on_each_node": (False, "a run has one folder"),
    "auto_find_batch_size": (False, "it changes what is learned and says nothing; set per_device_train_batch_size"),
    "push_to_hub": (False, _PUBLISHED),
    "hub_token": (None, f"{_PUBLISHED}, and a token does not belong into a recipe"),
    "hub_model_id": (None, _PUBLISHED),
    "hub_strategy": ("every_save", _PUBLISHED),
    "hub_private_repo": (None, _PUBLISHED),
    "hub_always_push": (False, _PUBLISHED),
    "hub_revision": (None, _PUBLISHED),
}
"""What every stage of training owns of TRL's settings."""
_ABOVE_ZERO = (
    "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "learning_rate", "logging_steps",
    "save_steps", "eval_steps", "save_total_limit",
)  # fmt: skip
_NOT_BELOW_ZERO = ("dataloader_num_workers", "warmup_steps", "weight_decay", "max_grad_norm", "eval_delay")
"""Numbers that TRL would take as they are, and stumble over or read as another wish."""
_NEVER = {
    "logging_strategy": ("no", "the curve of the loss is part of a run; a large trl.logging_steps logs it seldom"),
    "train_sampling_strategy": ("group_by_length", f"lengths cannot be looked up beforehand, since {_BUILT}"),
}
"""Values that cannot be had of a setting, and why."""
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


def trainer_settings(kind: type[T], given: Mapping[str, Any], fixed: Fixed) -> T:
    """The configuration of a trainer of TRL's, from a recipe's table ``trl``.

    Args:
        kind: its dataclass.
        given: what the recipe says.
        fixed: what the stage owns beside ``OWNED``.

    Raises:
        InputError: as ``settings_of``, and for values that would break what a run promises.
    """
    read = {key: "no" if key.endswith("_strategy") and value is False else value for key, value in given.items()}
    config: Any = settings_of(kind, "trl", read, {**OWNED, **fixed})  # (YAML reads no as false)
    for name in (*_ABOVE_ZERO, *_NOT_BELOW_ZERO):
        value = getattr(config, name)
        if value is not None and not (value > 0 or (value == 0 and name in _NOT_BELOW_ZERO)):
            meant = "not below 0" if name in _NOT_BELOW_ZERO else "above 0"
            raise InputError(f"trl.{name} is {value}, and has to be {meant}")
    _check_length(config)
    for name, (value, why) in _NEVER.items():
        if getattr(config, name) == value:
            raise InputError(f"trl.{name} cannot be {value}: {why}")
    if config.dataloader_persistent_workers and not config.dataloader_num_workers:
        raise InputError("trl.dataloader_persistent_workers needs workers: set trl.dataloader_num_workers")
    return cast(T, config)


def model_init(given: dict[str, Any]) -> dict[str, Any]:
    """The keywords of ``from_pretrained``, taken out of a recipe's table ``trl``. Raises ``InputError``."""
    init = given.pop("model_init_kwargs", None) or {}
    if not isinstance(init, dict):
        raise InputError(f"trl.model_init_kwargs is a table of from_pretrained's keywords, not {init!r}")
    return init


def _check_length(config: Any) -> None:
    """That a run has an end, and something before it. Raises ``InputError``."""
    if config.max_steps != -1 and config.max_steps <= 0:
        raise InputError(
            f"trl.max_steps is {config.max_steps}, and has to be above 0; leave it out (or say -1) where trl.num_train_epochs"
            " says how long to train"
        )
    if config.max_steps == -1 and not config.num_train_epochs > 0:
        raise InputError(
            f"trl.num_train_epochs is {config.num_train_epochs}, so that nothing would be trained: set it above 0"
        )


def settings_of(kind: type[T], name: str, given: Mapping[str, Any], fixed: Fixed) -> T:
    """The configuration of a library.

    Args:
        kind: its dataclass.
        name: of the recipe's table.
        given: what the recipe says.
        fixed: what no recipe may set otherwise; what ``kind`` does not know of it is left out.

    Raises:
        InputError: an unknown setting, one that is fixed, or a value that the library refuses.
    """
    assert dataclasses.is_dataclass(kind)
    known = [item.name for item in dataclasses.fields(kind) if item.init]
    for key, value in given.items():
        if key in fixed and value != fixed[key][0]:
            raise InputError(f"{name}.{key} is not for a recipe to set: {fixed[key][1]}")
        if key not in known:
            near = " or ".join(get_close_matches(key, known, 3))
            raise InputError(f"{name}: {kind.__name__} knows no {key!r}{f'; did you mean {near}?' if near else ''}")
    hints = get_type_hints(kind)
    read = {key: _read(f"{name}.{key}", value, hints[key]) for key, value in given.items()}
    try:
        return kind(**read | {key: value for key, (value, _) in fixed.items() if key in known})
    except (TypeError, ValueError, ImportError) as error:
        raise InputError(f"{name}: {kind.__name__} refuses these settings: {error}") from error


def _read(name: str, value: Any, hint: Any) -> Any:
    """A value where the library wants a number or a switch, since it would notice much later; others are the library's to check.

    YAML reads ``1e-4`` (no dot) as text. Raises ``InputError``.
    """
    kinds = set(get_args(hint) if get_origin(hint) in (Union, UnionType) else [hint]) - {type(None)}
    if value is None or not kinds or not kinds <= {int, float, bool} or type(value) in kinds:
        return value
    if kinds == {bool}:
        raise InputError(f"{name} is true or false, not {value!r}")
    try:
        number = float("" if isinstance(value, bool) else value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is a number, not {value!r}") from error
    if float in kinds:
        return number
    if not number.is_integer():
        raise InputError(f"{name} is a whole number, not {value!r}")
    return int(number)
