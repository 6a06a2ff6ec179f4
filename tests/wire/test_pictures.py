from __future__ import annotations

import base64
import binascii
import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.conftest import Draw
from vlmguard.errors import WireError
from vlmguard.types import Image, Opaque, Part, Reason
from vlmguard.wire import anthropic_messages, openai_chat, openai_completions, openai_responses
from vlmguard.wire.pictures import _decoded, data_url, read_base64, read_url

PIXEL = "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"


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


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://a/b",
        "",
        "iVBORw0KGgo=",
        " https://a.example/x",
        "\nhttp://a.example/x",
        "\x01http://a.example/x",
        "ht\ttp://a.example/x",
        "http:a.example/x",
        "https:/a.example/x",
        "//a.example/x",
        " data:,",
    ],
)
def test_an_address_that_readers_might_follow_elsewhere_is_refused(url: str) -> None:
    with pytest.raises(WireError, match=r"^/p "):
        read_url(url, "/p")


INNER = "http://169.254.169.254/x.png"
PART = "/messages/0/content/1"


@pytest.mark.parametrize(
    ("part", "place"),
    [
        ({"image_url": INNER}, f"{PART}/image_url"),
        ({"image_url": {"url": INNER}}, f"{PART}/image_url/url"),
        ({"type": "image", "image": INNER}, f"{PART}/image"),
        ({"type": "image", "url": f"\t{INNER}"}, f"{PART}/url"),
        ({"type": "image_pil", "image_pil": {"path": "\u00a0ht\ntp:\\\\169.254.169.254"}}, f"{PART}/image_pil/path"),
        ({"type": "text", "text": "hello", "image": "http:169.254.169.254/x.png"}, f"{PART}/image"),
        ({"type": "text", "text": "hello", "images": ["aGk=", "file:///etc/passwd"]}, f"{PART}/images/1"),
        ({"type": "image_url", "image_url": {"url": "https://a.example/x", "Image": INNER}}, f"{PART}/image_url/Image"),
    ],
)
@pytest.mark.parametrize("dialect", [openai_chat, openai_responses, anthropic_messages])
def test_a_pictures_address_where_no_picture_is_read_is_refused(dialect: Any, part: Any, place: str) -> None:
    content = [{"type": "text", "text": "hello"}, part]
    turn = [{"role": "user", "content": content}]
    body = {"input": turn} if dialect is openai_responses else {"messages": turn}
    if dialect is openai_responses:
        content[0]["type"], place = "input_text", place.replace("messages", "input")
    with pytest.raises(WireError) as refused:
        dialect.read(json.dumps(body).encode())
    # Some shapes are wrong in themselves, and refused for that before.
    assert str(refused.value).startswith((f"{place} ", f"{place.partition('/content/1')[0]}/content/1"))


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        (anthropic_messages, {"content": {"type": "base64", "media_type": "image/png", "data": PIXEL, "url": INNER}}),
        (anthropic_messages, {"content": {"type": "base64", "media_type": "image/png", "data": INNER}}),
        (anthropic_messages, {"content": {"type": "url", "url": "https://a.example/x", "data": INNER}}),
        (openai_responses, {"input": [{"type": "input_image", "image_url": INNER}]}),
        (openai_responses, {"input": [{"type": "function_call_output", "output": {"image_url": INNER}}]}),
        (openai_responses, {"input": [{"type": "image_generation_call", "id": "a", "result": INNER}]}),
        (
            openai_responses,
            {"input": "hi", "tools": [{"type": "image_generation", "input_image_mask": {"image_url": INNER}}]},
        ),
        (openai_chat, {"messages": [{"role": "user", "content": "hi", "images": [INNER]}]}),
        (openai_chat, {"messages": [{"role": "user", "content": "hi"}], "multi_modal_data": {"image": [INNER]}}),
        (openai_completions, {"prompt": "hi", "image_data": INNER}),
    ],
)
def test_so_it_is_at_every_level(dialect: Any, body: Any) -> None:
    if dialect is anthropic_messages:
        body = {"messages": [{"role": "user", "content": [{"type": "image", "source": body["content"]}]}]}
    with pytest.raises(WireError, match=r"^/\w+.* (address|holds)"):
        dialect.read(json.dumps(body).encode())


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        (openai_chat, {"messages": [{"role": "user", "content": f"look at {INNER}"}], "metadata": {"image": INNER}}),
        (
            openai_chat,
            {
                "messages": [{"role": "user", "content": "hi"}],
                "tools": [
                    {
                        "type": "function",
                        "function": {
                            "name": "crop",
                            "parameters": {"properties": {"image_url": {"type": "string", "default": INNER}}},
                        },
                    }
                ],
            },
        ),
        (
            anthropic_messages,
            {
                "messages": [
                    {"role": "user", "content": "hi"},
                    {
                        "role": "assistant",
                        "content": [{"type": "tool_use", "id": "1", "name": "crop", "input": {"image_url": INNER}}],
                    },
                ]
            },
        ),
        (
            openai_responses,
            {"input": "hi", "text": {"format": {"schema": {"properties": {"image": {"default": INNER}}}}}},
        ),
        (openai_responses, {"prompt": {"id": "p", "variables": {"image": INNER}}}),
    ],
)
def test_words_that_are_an_address_are_words(dialect: Any, body: Any) -> None:
    assert dialect.read(json.dumps(body).encode()).remote == ()
