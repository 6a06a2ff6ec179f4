from __future__ import annotations

import base64
import binascii
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.conftest import Draw
from vlmguard.types import Image, Opaque, Part, Reason
from vlmguard.wire.pictures import _decoded, data_url, read_base64, read_url


def bytes_of(part: Part) -> bytes:
    assert isinstance(part, Image), part
    return part.data


def test_data_urls_are_read_however_they_are_spelled(draw: Draw) -> None:
    data = draw("hello")
    code = base64.b64encode(data).decode()
    for url in (
        f"data:image/png;base64,{code}",
        f"DATA:IMAGE/PNG;BASE64,{code}",
        f"data:;base64,{code}",
        f"data:image/png;charset=utf-8;name=a.png;base64,{code}",
        f"data:image/jpeg;base64,{code}",
        f"data:image/png;base64,{code.rstrip('=')}",
        "data:image/png;base64," + "\r\n".join(code[at : at + 76] for at in range(0, len(code), 76)),
    ):
        assert bytes_of(read_url(url, "/p")) == data


def test_a_picture_goes_out_as_it_came_in(draw: Draw) -> None:
    image = read_url("data:;base64," + base64.b64encode(draw("hello", kind="WEBP")).decode(), "/p")
    assert isinstance(image, Image)
    assert data_url(image).startswith("data:image/webp;base64,")
    assert read_url(data_url(image), "/p") == image


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64,",
        "data:image/png;base64,AAAA",
        "data:image/png;base64,é",
        "data:image/png;base64",
        "data:",
        "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'/>",
        "data:" + "x" * 2000 + ",a",
    ],
)
def test_what_is_no_readable_picture_says_so(url: str) -> None:
    assert read_url(url, "/p") == Opaque("damaged image", "/p", Reason.UNREADABLE)


def test_letters_that_readers_differ_on_make_a_picture_unreadable(draw: Draw) -> None:
    code = base64.b64encode(draw("hello")).decode()
    for strange in (f"{code[:40]}-{code[40:]}", f"{code[:40]}===={code[40:]}", f"{code}!"):
        assert read_base64(strange, "/p") == Opaque("damaged image", "/p", Reason.UNREADABLE)


def test_an_escape_in_a_data_url_makes_its_picture_unreadable(draw: Draw) -> None:
    """Readers that are lenient drop the ``%`` and keep its digits: they would see other bytes than those that were judged."""
    data = draw("hello")
    code = base64.b64encode(data).decode()
    for url in (
        f"data:image/png;base64,{code[:40]}{''.join(f'%{ord(sign):02X}' for sign in code[40:44])}{code[44:]}",
        f"data:image/png;base64,{quote(code, safe='')}%3D",
        f"data:image/png,{quote(data)}",
        f"data:image/png,{code}",
    ):
        assert read_url(url, "/p") == Opaque("damaged image", "/p", Reason.UNREADABLE)


_PIECES = st.sampled_from(
    ["QUJD", "QQ==", "QUI=", "QR==", "Q", "=", "==", "\n", " ", "\r\n", "-_", "+/", "é", "\x00", "QUJD" * 40]
)


@given(st.lists(st.one_of(_PIECES, st.text(alphabet="AQgw09+/=\n ", max_size=9)), max_size=12).map("".join))
@example("QR==")  # bits that stand for nothing: some readers refuse them
def test_base64_has_the_one_reading_that_the_standard_library_gives_it(text: str) -> None:
    """Strictly read as it stands, or without line breaks and with its padding."""
    bare = "".join(text.split()).rstrip("=")
    expected = None
    for spelling in (text.encode(), bare.encode() + b"=" * (-len(bare) % 4)):
        try:
            expected = binascii.a2b_base64(spelling, strict_mode=True)
            break
        except ValueError:
            continue
    assert _decoded(text) == expected == _decoded(text.encode())


def test_addresses_are_not_followed() -> None:
    assert read_url("HTTPS://a.example/x", "/p") == Opaque("remote image", "/p", Reason.OPAQUE)
    assert read_url("http://a.example/x", "/p") == Opaque("remote image", "/p", Reason.OPAQUE)
    for url in ("file:///etc/passwd", "ftp://a/b", "", "iVBORw0KGgo=", " https://a.example/x"):
        assert read_url(url, "/p") == Opaque("unknown image", "/p", Reason.OPAQUE)
