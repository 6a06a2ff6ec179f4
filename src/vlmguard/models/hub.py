"""Whether a model can be had at all, asked once before loaders are let at it: those ask a hub that does not answer for minutes."""

from __future__ import annotations

import os
from pathlib import Path

from vlmguard.errors import MissingExtraError, ModelError

_SECONDS = 10.0
"""The longest that a hub is waited for."""


def at_home(where: str) -> str:
    """A name with the user's home in place of a leading ``~``, which no shell expands in a recipe or behind ``local:``."""
    return os.path.expanduser(where)  # noqa: PTH111 - a Path would make ./name, which is a folder's, a hub id


def check_known(where: str) -> None:
    """That a name is a folder, a model in the hub's cache, or one that the hub has.

    Raises:
        MissingExtraError: the hub's library is not installed.
        ModelError: it is none of these; the message says which, and what to do.
    """
    if Path(where).is_dir():
        return
    if Path(where).exists():
        raise ModelError(f"{where} is a file: give the folder that it lies in")
    try:
        from huggingface_hub import HfApi, try_to_load_from_cache
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
        )
        from huggingface_hub.utils._validators import validate_repo_id
    except ImportError as error:
        raise MissingExtraError("a local model", "local") from error
    try:
        validate_repo_id(where)
    except HFValidationError as error:
        raise ModelError(
            f"there is no folder {where}, and no model of a hub is called so: give a model's folder, or a hub id such as"
            " Qwen/Qwen2-VL-7B-Instruct"
        ) from error
    if isinstance(try_to_load_from_cache(where, "config.json"), str):
        return
    fetch = f"give a model's folder, or fetch it where there is a network (hf download {where})"
    try:
        HfApi().model_info(where, timeout=_SECONDS)
    except OfflineModeIsEnabled as error:
        raise ModelError(
            f"there is no folder {where}, the hub's cache does not hold it, and HF_HUB_OFFLINE forbids to ask the hub: {fetch}"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"there is no folder {where}, and the hub shows no such model: mend the name, or log in where it is private"
            " (hf auth login)"
        ) from error
    except HfHubHTTPError:
        return  # the hub answers: the loaders have more to say of what is wrong
    except Exception as error:  # what the hub's HTTP library raises is its own affair
        raise ModelError(
            f"there is no folder {where}, the hub's cache does not hold it, and the hub cannot be reached ({error}): {fetch}"
        ) from error
