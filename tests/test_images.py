from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pictures

from tests.conftest import Draw
from vlmguard.errors import ImageError
from vlmguard.images import Limits, read_image, unseen_frames, verify, views


def _saved(picture: Pictures.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes whose header promises width × height pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_each_kind_is_told_by_its_content(draw: Draw, kind: str) -> None:
    image = read_image(draw("hello", kind=kind), "/p")
    assert image.media_type == f"image/{kind.lower()}"
    assert (image.width, image.height, image.frames) == (640, 108, 1)
    verify(image)
    (pixels,) = views(image)
    assert pixels.shape == (108, 640, 3)
    assert pixels.min() < 60


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"hello, I am text", "not a picture of a kind we read"),
        (b"%PDF-1.7", "convert it"),
        (_bomb(12_000, 12_000), "make it smaller"),
        (_bomb(65_000, 65_000), "make it smaller"),
    ],
)
def test_what_is_no_picture_or_a_bomb_is_refused_with_advice(data: bytes, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        read_image(data, "thing.png")


def test_too_many_bytes_are_refused() -> None:
    with pytest.raises(ImageError, match="at most 10"):
        read_image(b"x" * 11, limits=Limits(max_bytes=10))


def test_a_truncated_picture_is_damaged(draw: Draw) -> None:
    for kind in ("PNG", "JPEG"):
        data = draw("hello", kind=kind)
        image = read_image(data[: len(data) * 2 // 3])
        with pytest.raises(ImageError, match="damaged or cut off"):
            verify(image)
        with pytest.raises(ImageError, match="damaged or cut off"):
            list(views(image))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "AVIF"])
def test_the_head_of_a_picture_alone_is_called_damaged_and_not_another_kind(draw: Draw, kind: str) -> None:
    data = draw("hello", kind=kind)
    for share in (0.02, 0.5):
        try:
            verify(read_image(data[: max(20, int(len(data) * share))]))
        except ImageError as error:
            assert "damaged" in str(error), str(error)  # noqa: PT017  # some decoders still find a picture


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff\xe0", b"RIFF....WEBPVP8 ", b"II*\0"]),
)
def test_any_bytes_are_a_picture_or_an_image_error(data: bytes, magic: bytes) -> None:
    try:
        image = read_image(magic + data)
        list(views(image))
    except ImageError:
        return


def test_a_long_strip_is_accepted_and_decoded() -> None:
    image = read_image(_saved(Pictures.new("L", (65_500, 2)), "PNG"))
    (pixels,) = views(image)
    assert pixels.shape == (2, 65_500, 3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "I;16", "F", "LA", "RGBA"])
def test_every_colour_mode_comes_out_as_rgb_with_its_contrast(mode: str) -> None:
    grey = np.full((40, 40), 20, dtype=np.uint8)
    grey[10:30, 10:30] = 230
    if mode == "I;16":
        picture = Pictures.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "F":
        picture = Pictures.fromarray(grey.astype(np.float32) * 9)
    else:
        picture = Pictures.fromarray(grey).convert(mode)
    image = read_image(_saved(picture, "TIFF" if mode in ("CMYK", "F") else "PNG"))
    seen = list(views(image))
    assert all(pixels.dtype == np.uint8 for pixels in seen)
    assert any(int(pixels[20, 20, 1]) - int(pixels[2, 2, 1]) > 100 for pixels in seen)


def test_exif_rotation_is_applied() -> None:
    picture = Pictures.new("RGB", (60, 20))
    exif = picture.getexif()
    exif[0x0112] = 6
    image = read_image(_saved(picture, "JPEG", exif=exif))
    (pixels,) = views(image)
    assert pixels.shape == (60, 20, 3)


def test_words_that_only_one_ground_shows_are_in_some_view() -> None:
    """White on transparent is invisible on white, and colours under full transparency appear when alpha is dropped."""
    data = np.zeros((20, 20, 4), dtype=np.uint8)
    data[5:10, 5:10] = (255, 255, 255, 255)
    data[12:16, 12:16] = (255, 0, 0, 0)
    seen = list(views(read_image(_saved(Pictures.fromarray(data), "PNG"))))
    assert len(seen) == 3
    assert any(view[7, 7, 0] != view[1, 1, 0] for view in seen)
    assert any(tuple(view[13, 13]) == (255, 0, 0) for view in seen)


def test_an_animation_is_sampled_and_what_is_left_out_is_counted() -> None:
    frames = [Pictures.new("RGB", (8, 8), (number * 12, 0, 0)) for number in range(20)]
    for kind in ("GIF", "WEBP"):
        image = read_image(_saved(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True))
        assert image.frames == 20
        assert unseen_frames(image) == 12
        reds = [int(view[0, 0, 0]) for view in views(image)]
        assert len(reds) == 8
        assert reds[0] == 0
        assert abs(reds[-1] - 19 * 12) <= 8


@pytest.mark.parametrize("outlier", [65_535.0, 1e9, float("nan"), float("inf")])
def test_one_bright_pixel_hides_nothing(outlier: float) -> None:
    values = np.full((40, 40), 20, dtype=np.float32)
    values[10:30, 10:30] = 230
    values[0, 0] = outlier
    deep = outlier == 65_535.0
    picture = Pictures.fromarray(values.astype(np.uint16) if deep else values)
    image = read_image(_saved(picture, "PNG" if deep else "TIFF"))
    assert any(int(pixels[20, 20, 0]) - int(pixels[35, 35, 0]) > 100 for pixels in views(image))


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_every_truncation_is_a_picture_or_an_image_error(kind: str) -> None:
    frames = [Pictures.new("RGB", (12, 12), (number * 60, 9, 9)) for number in range(4)]
    data = _saved(frames[0], kind, save_all=True, append_images=frames[1:])
    for end in range(len(data)):
        try:
            list(views(read_image(data[:end])))
        except ImageError:
            continue


def test_large_frames_share_one_budget_of_pixels() -> None:
    frames = [Pictures.new("L", (100, 100), number * 40) for number in range(5)]
    image = read_image(_saved(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    limits = Limits(max_pixels=20_000)
    assert unseen_frames(image, limits) == 3
    assert len(list(views(image, limits))) == 2
    assert len(list(views(image, Limits(max_pixels=10_000)))) == 1
