from __future__ import annotations

import contextlib
from urllib.parse import urlencode

import httpx2 as httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmguard.gateway.asgi import Refused
from vlmguard.gateway.console import forms

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)
NAMES = st.from_regex(r"[a-z]{1,8}", fullmatch=True)


@given(st.dictionaries(NAMES, WORDS, max_size=5))
def test_an_urlencoded_form_is_read_as_it_was_meant(fields: dict[str, str]) -> None:
    read = forms.read(b"application/x-www-form-urlencoded", urlencode(fields).encode())
    assert read.fields == fields


@given(st.dictionaries(NAMES, WORDS, max_size=5), st.binary(max_size=400))
def test_a_form_in_parts_is_read_as_a_client_wrote_it(fields: dict[str, str], file: bytes) -> None:
    request = httpx.Request("POST", "http://x", data=fields, files={"picture": ("a.png", file, "image/png")})
    read = forms.read(request.headers["content-type"].encode(), request.read())
    assert read.fields == fields
    assert read.files == {"picture": file}


@given(st.binary(max_size=300))
def test_nothing_but_a_refusal_comes_of_a_body_that_is_no_form(body: bytes) -> None:
    for kind in (b"multipart/form-data; boundary=x", b"application/x-www-form-urlencoded", b"text/plain", None):
        with contextlib.suppress(Refused):
            forms.read(kind, body)


def test_a_form_of_very_many_fields_is_refused() -> None:
    with pytest.raises(Refused):
        forms.query(b"&".join(b"a=1" for _ in range(100)))
