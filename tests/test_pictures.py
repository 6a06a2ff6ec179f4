from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_llava import picture
from vlmguard import chat
from vlmguard.errors import InputError
from vlmguard.pictures import PictureStore


def test_a_picture_comes_back_by_its_name(tmp_path: Path) -> None:
    (image,) = chat("Look.", [picture("red")]).images
    name = PictureStore(tmp_path).put(image)
    assert PictureStore(tmp_path).get(name).sha256 == image.sha256


def test_a_name_cannot_lead_out_of_the_store(tmp_path: Path) -> None:
    (image,) = chat("Look.", [picture("red")]).images
    store, inside = PictureStore(tmp_path / "inside"), PictureStore(tmp_path / "inside")
    name = PictureStore(tmp_path).put(image)  # it lies outside, under its true hash
    for wrong in (f"../{name}", str(tmp_path / name), f"{name}/../{name}", "red.png", "", 3, ["red.png"]):
        with pytest.raises(InputError, match="no picture's name"):
            store.get(wrong)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="no picture's name"):
            inside.path(wrong)  # type: ignore[arg-type]
