from __future__ import annotations

import base64
import random
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmguard.perception import mending
from vlmguard.perception.mending import (
    read_torn_base32,
    read_torn_base64,
    read_torn_bits,
    read_torn_decimals,
    read_torn_hex,
)
from vlmguard.perception.obfuscation import decode

SAID = "Please tell me where the old lighthouse keeper used to hide his letters"
READERS = {
    "base64": (read_torn_base64, base64.b64encode(SAID.encode()).decode()),
    "base32": (read_torn_base32, base64.b32encode(SAID.encode()).decode()),
    "hex": (read_torn_hex, SAID.encode().hex()),
    "HEX": (read_torn_hex, SAID.encode().hex().upper()),
    "bits": (read_torn_bits, " ".join(f"{byte:08b}" for byte in SAID.encode())),
    "decimals": (read_torn_decimals, " ".join(str(byte) for byte in SAID.encode())),
}


def wrapped(code: str, width: int) -> str:
    return "\n".join(code[at : at + width].strip() for at in range(0, len(code), width))


@pytest.mark.parametrize("kind", READERS)
@given(width=st.integers(17, 60))
def test_a_code_broken_over_lines_anywhere_is_joined(kind: str, width: int) -> None:
    reader, code = READERS[kind]
    assert [passage.text for passage in reader(wrapped(code, width))] == [SAID]


@pytest.mark.parametrize(
    ("kind", "taken_for"),
    [
        ("base64", {"I": "l", "0": "O", "V": "v", "S": "5"}),
        ("base32", {"O": "0", "I": "1", "S": "5"}),
        ("hex", {"0": "O", "1": "l", "5": "S", "9": "g"}),
        ("HEX", {"0": "Q", "1": "I", "6": "G", "2": "Z"}),
        ("bits", {"0": "O", "1": "l"}),
    ],
)
def test_letters_that_a_reader_takes_for_others_are_mended(kind: str, taken_for: dict[str, str]) -> None:
    reader, code = READERS[kind]
    mistaken = random.Random(1)
    misread = "".join(taken_for.get(sign, sign) if mistaken.random() < 0.5 else sign for sign in code)
    assert misread != code
    (passage,) = reader(wrapped(misread, 37))
    assert passage.text == SAID
    assert passage.hidden


@pytest.mark.parametrize("kind", ["base64", "hex"])
def test_a_sign_that_the_reader_lost_costs_a_letter_and_not_the_rest(kind: str) -> None:
    reader, code = READERS[kind]
    for at in (20, 51):
        (passage,) = reader(code[:at] + code[at + 1 :])
        assert passage.text.endswith("used to hide his letters")
        assert abs(len(passage.text) - len(SAID)) <= 3


def test_spaces_lost_between_decimals_are_found_again() -> None:
    _, code = READERS["decimals"]
    (passage,) = read_torn_decimals(code.replace(" 32 ", "32").replace("1 1", "11"))
    assert passage.text == SAID


@given(st.text("0123456789abcdefABCDEFOlISBgqZz +/=\n", max_size=400))
def test_signs_that_are_no_code_say_nothing(text: str) -> None:
    for reader, _ in READERS.values():
        assert not list(reader(text))


@pytest.mark.parametrize(
    "text",
    [
        "Invoice No 18028/103/T0369\nGST ID 000181747712\n31705509 10-05-17 2131\n4008 8812 1200 0045",
        "commit 9fceb02d0ae598e95dc970b74767f19372d61af8\nmd5 d41d8cd98f00b204e9800998ecf8427e",
        "The iPhone12ProMax and the MacBookAir of McDonaldSmith",
        "1 2 3 5 8 13 21 34 55 89 144 233 377 610 987",
    ],
)
def test_numbers_names_and_hashes_are_left_alone(text: str) -> None:
    assert not any(view.hidden for view in decode(text))


@given(
    st.sampled_from(
        [
            (mending._BASE64_PIECE, mending._TURN, mending._opens_base64),
            (mending._HEX_PIECE, mending._DIGIT, mending._opens_hex),
            (mending._BASE32_PIECE, mending._EIGHT, mending._opens_base32),
        ]
    ),
    st.text(alphabet="aBcDeFxZ0123456789|=+/-:, \\٣²", max_size=16),
)
def test_what_opens_a_code_holds_the_mark_that_is_looked_for_first(
    kind: tuple[re.Pattern[str], re.Pattern[str], Callable[[str], bool]], token: str
) -> None:
    piece, mark, opens = kind
    assert not (piece.fullmatch(token) and opens(token)) or mark.search(token)
