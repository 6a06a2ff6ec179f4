"""Bytes that lie: headers, truncations and splices. Short in `make test`, long in `make soak` (hypothesis profile ``soak``)."""

from __future__ import annotations

import io
import time
from functools import cache

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pictures
from PIL import ImageDraw

from vlmguard.errors import ImageError
from vlmguard.images import read_image, verify, views

KINDS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
MOST_SECONDS = 20.0
"""Of the processor for one small hostile file: not a measure of speed, but of whether it ends."""


@cache
def valid(kind: str, animated: bool) -> bytes:
    pictures = []
    for number in range(3 if animated and kind in ("GIF", "WEBP", "PNG", "TIFF", "AVIF") else 1):
        picture = Pictures.new("RGB", (48, 32), (40 * number, 90, 200))
        ImageDraw.Draw(picture).text((4, 8), f"kite {number}", fill="white")
        pictures.append(picture)
    file = io.BytesIO()
    more = {"save_all": True, "append_images": pictures[1:]} if len(pictures) > 1 else {}
    pictures[0].save(file, kind, **more)
    return file.getvalue()


def settle(data: bytes) -> None:
    """A picture or an ``ImageError``; whatever else a decoder raises fails the test."""
    started = time.process_time()
    try:
        image = read_image(data)
        verify(image)
        assert image.width * image.height * image.frames > 0
        for pixels in views(image):
            assert pixels.ndim == 3
            assert pixels.shape[2] == 3
    except ImageError:
        pass
    assert time.process_time() - started < MOST_SECONDS


@given(kind=st.sampled_from(KINDS), animated=st.booleans(), share=st.floats(0, 1))
def test_any_truncation(kind: str, animated: bool, share: float) -> None:
    data = valid(kind, animated)
    settle(data[: round(len(data) * share)])


@given(
    kind=st.sampled_from(KINDS),
    animated=st.booleans(),
    lies=st.lists(st.tuples(st.integers(0, 127), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_a_header_that_lies(kind: str, animated: bool, lies: list[tuple[int, int]]) -> None:
    data = bytearray(valid(kind, animated))
    for place, value in lies:
        data[place % len(data)] = value
    settle(bytes(data))


@given(
    kinds=st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)),
    cut=st.floats(0, 1),
    junk=st.binary(max_size=64),
)
def test_the_head_of_one_picture_on_the_body_of_another(kinds: tuple[str, str], cut: float, junk: bytes) -> None:
    head, body = valid(kinds[0], False), valid(kinds[1], True)
    settle(head[: round(len(head) * cut)] + junk + body[round(len(body) * cut) :])
