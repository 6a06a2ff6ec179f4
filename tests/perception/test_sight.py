from __future__ import annotations

import pytest
from PIL import Image as Pictures

from tests.conftest import Draw
from vlmguard.images import read_image
from vlmguard.perception.sight import Eyes
from vlmguard.types import Reason


@pytest.fixture(scope="module")
def eyes() -> Eyes:
    return Eyes(threads=1)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_words_are_read_in_every_format(eyes: Eyes, draw: Draw, kind: str) -> None:
    sight = eyes.look(read_image(draw("KITES FLY HIGH\nover the harbour", kind=kind)))
    assert sight.text == "KITES FLY HIGH\nover the harbour"
    assert sight.unread is None
    assert sight.uncoded is None


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "AVIF"])
def test_a_picture_that_was_cut_off_is_unreadable_and_never_empty(eyes: Eyes, draw: Draw, kind: str) -> None:
    data = draw("KITES", kind=kind)
    image = read_image(data)
    damaged = type(image)(data[: len(data) // 2], image.media_type, image.width, image.height)
    assert eyes.look(damaged).unread is Reason.UNREADABLE


def test_a_line_that_stands_twice_is_read_twice(eyes: Eyes, draw: Draw) -> None:
    assert eyes.look(read_image(draw("6f 6c 64\n20 62 6f\n6f 6c 64"))).text.splitlines() == [
        "6f 6c 64",
        "20 62 6f",
        "6f 6c 64",
    ]


def test_words_in_two_frames_come_once(eyes: Eyes, draw: Draw) -> None:
    import io

    frames = [Pictures.open(io.BytesIO(draw(text))) for text in ("THE SAME\nand one", "THE SAME\nand two")]
    file = io.BytesIO()
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:], duration=100, lossless=True)
    assert eyes.look(read_image(file.getvalue())).text.splitlines() == ["THE SAME", "and one", "and two"]


def test_the_same_picture_again_is_the_same_sight(eyes: Eyes, draw: Draw) -> None:
    data = draw("KITES")
    assert eyes.look(read_image(data)) is eyes.look(read_image(data, "elsewhere"))
