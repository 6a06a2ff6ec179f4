"""Pictures on disk by the hash of their bytes: each stored once, whatever rows it stands in."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path

from vlmguard.errors import InputError
from vlmguard.images import read_image
from vlmguard.types import Image

_SUFFIX = {"image/jpeg": "jpg"}
_NAME = re.compile(r"(?:[0-9a-f]{2}/)?([0-9a-f]{64})\.[a-z0-9.+-]+")
"""Of a stored picture: nothing else is opened, linked or copied, so that a row cannot name a file outside of the store."""


class PictureStore:
    """A folder of pictures, named by SHA-256 and spread over 256 subfolders."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read = lru_cache(maxsize=256)(self._open)

    def put(self, image: Image) -> str:
        """Stores a picture; returns its name in the store. A kill leaves the whole file or none."""
        suffix = _SUFFIX.get(image.media_type, image.media_type.split("/")[1])
        name = f"{image.sha256[:2]}/{image.sha256}.{suffix}"
        file = self._folder / name
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            fresh = file.with_suffix(f".{os.getpid()}.new")
            fresh.write_bytes(image.data)
            fresh.replace(file)
        return name

    def path(self, name: str) -> Path:
        """Where a stored picture lies. Raises ``InputError`` when the name is none of a store's."""
        _hash_in(name)
        return self._folder / name

    def get(self, name: str) -> Image:
        """A stored picture. Raises ``InputError`` when it is gone or is not what its name says."""
        _hash_in(name)
        return self._read(name)

    def _open(self, name: str) -> Image:
        try:
            data = self.path(name).read_bytes()
        except OSError as error:
            raise InputError(f"the picture {name} is gone from {self._folder}: run the preparation again") from error
        image = read_image(data, name)
        if image.sha256 != _hash_in(name):
            raise InputError(
                f"the picture {name} in {self._folder} is not the one that was stored: delete it, prepare again"
            )
        return image


def _hash_in(name: object) -> str:
    """The hash that a picture's name tells. Raises ``InputError``."""
    if not isinstance(name, str) or not (found := _NAME.fullmatch(name)):
        raise InputError(
            f"{name!r} is no picture's name: those are SHA-256 and a suffix, as vlmguard synth writes them"
        )
    return found[1]
