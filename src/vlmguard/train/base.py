"""The base model: loaded, fit to be trained as a rewriter, and what of it is trained."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vlmguard.errors import InputError, ModelError
from vlmguard.models.hub import check_known
from vlmguard.train.recipe import Recipe

_CARRIES = ("projector", "connector", "merger")
"""How families call what carries the tower's output into the language model."""
_SHOWN = 6


def check_base(recipe: Recipe, setting: str = "base") -> None:
    """That the base model, which a setting names, can be had at all. Raises ``InputError``."""
    try:
        check_known(recipe.base_place)
    except ModelError as error:
        raise InputError(f"{setting}: {error}; a recipe's paths count from its own folder") from error


def own_template(recipe: Recipe, trl: dict[str, Any]) -> Path | None:
    """The Jinja file of ``trl.chat_template_path``, taken out of the table; a model's, whose template is cloned, is left to TRL.

    Raises ``InputError`` when it is neither.
    """
    named = str(trl.get("chat_template_path") or "")
    place = recipe.folder / named
    if not named:
        return None
    if place.is_file():
        del trl["chat_template_path"]
        return place
    if place.is_dir():
        trl["chat_template_path"] = str(place.resolve())
        return None
    try:
        check_known(named)
    except ModelError as error:
        raise InputError(f"trl.chat_template_path: there is no file {place}, and {error}") from error
    return None


def load_processor(recipe: Recipe, template: Path | None) -> Any:
    """The base model's processor, with the chat template of a file where one is given.

    Raises ``InputError`` when it cannot be loaded, has no chat template, or is no vision-language model's.
    """
    from transformers import AutoProcessor

    try:
        processor: Any = AutoProcessor.from_pretrained(recipe.base_place)
    except Exception as error:  # loaders raise nearly anything
        raise InputError(
            f"the processor of {recipe.base} cannot be loaded ({type(error).__name__}: {error})"
        ) from error
    if getattr(processor, "tokenizer", None) is None:
        raise InputError(
            f"{recipe.base} has no processor for pictures: a rewriter is trained on a vision-language model"
        )
    if template is not None:
        processor.chat_template = template.read_text(encoding="utf-8")
    if not processor.chat_template:
        raise InputError(
            f"{recipe.base} has no chat template, and a rewriter is asked in turns: take the model's instruct version, or"
            " name a Jinja file with trl.chat_template_path"
        )
    return processor


def load_model(recipe: Recipe, init: dict[str, Any]) -> Any:
    """The base model. ``init`` are the keywords of ``from_pretrained`` (``trl.model_init_kwargs``). Raises ``InputError``."""
    from transformers import AutoModelForImageTextToText

    try:
        return AutoModelForImageTextToText.from_pretrained(recipe.base_place, **init)
    except Exception as error:  # loaders raise nearly anything
        raise InputError(
            f"{recipe.base} cannot be loaded as a vision-language model ({type(error).__name__}: {error}): give a folder or hub"
            " id that transformers' AutoModelForImageTextToText takes"
        ) from error


def longest(model: Any) -> int:
    """Tokens that the model can take."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", 0)) or 2**31


def ends_of(model: Any) -> list[int]:
    """Tokens at which a generation ends."""
    ends = model.generation_config.eos_token_id
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def parts_of(model: Any) -> Callable[[str], str]:
    """Tells of a parameter's or module's name in which of ``recipe.PARTS`` it is."""
    decoder = model.get_decoder()
    place = next(name for name, module in model.named_modules() if module is decoder)

    def part(name: str) -> str:
        if name == place or name.startswith((f"{place}.", "lm_head")):
            return "language"
        return "projector" if any(word in name for word in _CARRIES) else "vision"

    return part


def check_lora(model: Any, config: Any, recipe: Recipe) -> None:
    """That an adapter's names match something, and nothing outside the recipe's parts. Raises ``InputError``."""
    import torch

    if config.target_modules is None:
        raise InputError("lora.target_modules is missing: name the language model's linear layers, best by a regex")
    if config.target_modules == "all-linear":
        raise InputError(
            "lora.target_modules: all-linear takes the vision tower as well: name the language model's layers"
        )
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    try:
        matched = [name for name in linear if _matches(config, name)]
    except re.error as error:
        raise InputError(
            f"lora.target_modules ({config.target_modules!r}) is no regular expression: {error}"
        ) from error
    part = parts_of(model)
    if not matched:
        fitting = [name for name in linear if part(name) in recipe.parts]
        raise InputError(
            f"lora.target_modules ({config.target_modules!r}) matches no layer of {recipe.base}; there are {_some(fitting)}"
        )
    outside = [name for name in matched if part(name) not in recipe.parts]
    if outside:
        raise InputError(
            f"lora.target_modules matches {len(outside)} layers outside of {', '.join(recipe.parts)}: {_some(outside)}. Restrict"
            " it by a regex such as .*language_model.*\\.(q_proj|v_proj), or name the part in the recipe's parts"
        )


def _matches(config: Any, name: str) -> bool:
    from peft.tuners.tuners_utils import check_target_module_exists

    found = check_target_module_exists(config, name)
    return bool(found) and type(found).__name__ != "_ExcludedModule"


def freeze_others(model: Any, recipe: Recipe) -> None:
    """Of whole weights only the recipe's parts are trained."""
    part = parts_of(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part(name) in recipe.parts)


def _some(names: Iterable[str]) -> str:
    """The kinds of layers, numbers left out, a few of them."""
    kinds = list(dict.fromkeys(".".join("N" if word.isdigit() else word for word in name.split(".")) for name in names))
    return ", ".join(kinds[:_SHOWN]) + (", …" if len(kinds) > _SHOWN else "")
