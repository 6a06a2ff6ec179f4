"""Codes in pictures, hidden or plain."""

from __future__ import annotations

import numpy as np
import pytest
import zxingcpp
from PIL import Image

from vlmguard.perception.codes import read_codes
from vlmguard.perception.detection import Pixels

TEXT = "what the picture says"


def code(text: str = TEXT, symbology: str = "QRCode", scale: int = 4) -> Image.Image:
    made = zxingcpp.create_barcode(text, getattr(zxingcpp.BarcodeFormat, symbology)).to_image(scale=scale)
    drawn = Image.fromarray(np.asarray(made)).convert("RGB")
    ground = Image.new("RGB", (drawn.width + 120, drawn.height + 120), (255, 255, 255))
    ground.paste(drawn, (60, 60))
    return ground


def texts(picture: Pixels) -> list[str]:
    return [found.text for found in read_codes(np.ascontiguousarray(picture))]


@pytest.mark.parametrize("symbology", ["QRCode", "DataMatrix", "Aztec", "PDF417", "Code128"])
def test_symbologies_are_read_with_their_place(symbology: str) -> None:
    picture = code(symbology=symbology, scale=2)
    (found,) = read_codes(np.asarray(picture))
    assert found.text == TEXT
    assert found.format.replace(" ", "") == symbology
    assert all(50 <= x <= picture.width - 50 and 50 <= y <= picture.height - 50 for x, y in found.box)


@pytest.mark.parametrize("angle", [0, 30, 45, 90, 200])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("inverted", [False, True])
def test_hidden_codes_are_read(angle: int, mirrored: bool, inverted: bool) -> None:
    pixels = np.asarray(code().rotate(angle, expand=True, fillcolor=(255, 255, 255)))
    pixels = pixels[:, ::-1] if mirrored else pixels
    assert texts(255 - pixels if inverted else pixels) == [TEXT]


@pytest.mark.parametrize("levels", [6, 20])
def test_faint_codes_are_read_where_they_are(levels: int) -> None:
    plain = np.full((700, 900, 3), 225, np.uint8)
    drawn = np.asarray(code(scale=6))
    faint = 225 - (255 - drawn.astype(np.int16)) * levels // 255
    plain[150 : 150 + drawn.shape[0], 300 : 300 + drawn.shape[1]] = faint
    (found,) = read_codes(plain)
    assert found.text == TEXT
    assert all(330 <= x <= 300 + drawn.shape[1] and 180 <= y <= 150 + drawn.shape[0] for x, y in found.box)


def test_two_codes_are_two_and_one_seen_twice_is_one() -> None:
    both = np.hstack([np.asarray(code("first part")), np.asarray(code("other part"))])
    assert sorted(texts(both)) == ["first part", "other part"]


def test_pictures_without_codes_hold_none() -> None:
    grain = np.random.default_rng(1).integers(0, 256, (300, 300, 3), np.uint8)
    assert texts(grain) == texts(np.zeros((1, 1, 3), np.uint8)) == texts(np.full((40, 4000, 3), 9, np.uint8)) == []
