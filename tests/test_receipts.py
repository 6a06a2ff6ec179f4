from __future__ import annotations

import copy
import hashlib
import hmac
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmguard.errors import InputError, SignatureError
from vlmguard.json_form import receipt_form
from vlmguard.receipts import canonical, content_hash, key_id, read_key, sign, verify
from vlmguard.types import Aspect, Judgement, Mode, Outcome, Reason, Receipt

SECRET = b"the secret of the tests, 32 or more"
OTHER = b"another secret of the tests, longer"

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
_judgements = st.one_of(
    st.builds(Judgement, _text, st.sampled_from(Aspect), judged_by=_text),
    st.builds(Judgement, _text, st.sampled_from(Aspect), unjudged=st.sampled_from(Reason)),
)
receipts = st.builds(
    Receipt,
    version=st.just(1),
    id=st.uuids().map(lambda value: value.hex),
    time=st.datetimes().map(lambda moment: f"{moment.isoformat(timespec='milliseconds')}+00:00"),
    mode=st.sampled_from(Mode),
    outcome=st.sampled_from(Outcome),
    intended_outcome=st.sampled_from(Outcome),
    failure=st.none() | _text,
    policy=_text,
    prompts=_text,
    weights=_text,
    tier=_text,
    judgements=st.lists(_judgements, max_size=4).map(tuple),
    sent=st.none() | _text,
)


def a_receipt() -> Receipt:
    return Receipt(
        version=1,
        id="0" * 32,
        time="2026-11-24T06:00:00.000+00:00",
        mode=Mode.ENFORCE,
        outcome=Outcome.REWRITE,
        intended_outcome=Outcome.REWRITE,
        failure=None,
        policy="p",
        prompts="",
        weights="w",
        tier="embedded",
        judgements=(
            Judgement("/messages/0/content/0", Aspect.TEXT, judged_by="risk scorer"),
            Judgement("/messages/0/content/1", Aspect.SCENE, unjudged=Reason.SCENE),
        ),
        sent="s",
    )


@given(receipts)
def test_a_signed_receipt_verifies_in_whatever_spelling_it_comes_back(receipt: Receipt) -> None:
    signed = sign(receipt_form(receipt), SECRET)
    for spelling in (json.dumps(signed), json.dumps(signed, ensure_ascii=False, indent=3), canonical(signed).decode()):
        assert verify(json.loads(spelling), [OTHER, SECRET]) == key_id(SECRET)


def _places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every value that is no container, by its path."""
    if isinstance(value, dict):
        return [place for key, child in value.items() for place in _places(child, (*path, key))]
    if isinstance(value, list):
        return [place for index, child in enumerate(value) for place in _places(child, (*path, index))]
    return [path]


@given(receipts, st.data())
def test_no_value_can_be_changed_taken_out_or_added(receipt: Receipt, data: st.DataObject) -> None:
    signed = sign(receipt_form(receipt), SECRET)
    *way, last = data.draw(st.sampled_from(_places(signed)))
    for change in ("other", "none", "gone", "added"):
        altered = copy.deepcopy(signed)
        parent: Any = altered
        for step in way:
            parent = parent[step]
        if change == "other":
            parent[last] = f"{parent[last]}x"
        elif change == "none":
            parent[last] = 1 if parent[last] is None else None
        elif change == "gone":
            del parent[last]
        else:
            altered["note"] = ""
        with pytest.raises(SignatureError):
            verify(altered, [SECRET])


def test_a_signature_of_version_1_stays_what_it_is() -> None:
    """Computed once and written down: receipts of today must verify for ever."""
    signed = sign(receipt_form(a_receipt()), SECRET)
    assert signed["signature"] == {
        "version": 1,
        "key": "5bb6aceaa31c78d3",
        "hmac_sha256": "5e9ae9c92c7440dc5b080db2ad75f511cecbe1390cf129480d2c0e62070fbe5c",
    }


def test_the_docs_recipe_verifies_a_receipt_without_our_code() -> None:
    page = (Path(__file__).parent.parent / "docs" / "receipts.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(recipe, names)
    signed = sign(receipt_form(a_receipt()), SECRET)
    assert names["holds"](signed, SECRET)
    assert not names["holds"]({**signed, "outcome": "forward"}, SECRET)
    assert not names["holds"](signed, OTHER)


def test_hashed_content_under_the_same_secret_is_no_signature() -> None:
    """Whoever may choose what is hashed (any user) must not get a receipt signed that way."""
    signed = sign(receipt_form(a_receipt()), SECRET)
    head = {name: value for name, value in signed["signature"].items() if name != "hmac_sha256"}
    chosen = canonical({**signed, "signature": head}).decode()
    forged = {**signed, "signature": {**head, "hmac_sha256": content_hash(chosen, SECRET)}}
    with pytest.raises(SignatureError, match="altered"):
        verify(forged, [SECRET])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"signature": None}, "not signed"),
        ({"signature": {"version": 2, "key": "k", "hmac_sha256": "0"}}, "not of version 1"),
        ({"signature": {"version": 1, "key": "k", "hmac_sha256": "0", "alg": "none"}}, "not of version 1"),
        ({"signature": {"version": 1, "key": "k", "hmac_sha256": "0"}}, "not among those given"),
        ({"signature": {"version": 1, "key": ["k"], "hmac_sha256": None}}, "not among those given"),
        ({"signature": {"version": 1, "key": key_id(SECRET), "hmac_sha256": None}}, "altered"),
        ({"signature": {"version": 1, "key": key_id(SECRET), "hmac_sha256": "\ud800"}}, "altered"),
        ({"version": 1.0}, "no canonical form"),
        ({"outcome": "\ud800"}, "what no signed receipt holds"),
    ],
)
def test_what_does_not_hold_is_said(change: dict[str, Any], says: str) -> None:
    signed = sign(receipt_form(a_receipt()), SECRET)
    with pytest.raises(SignatureError, match=says):
        verify({**signed, **change}, [SECRET])


@pytest.mark.parametrize("value", [1.5, float("nan"), 2**53 + 1, {"é": 1}, {1: 2}, {"a": [{"b": 0.1}]}, (1,), b"x"])
def test_what_two_writers_could_spell_differently_has_no_canonical_form(value: object) -> None:
    with pytest.raises(ValueError, match="canonical form"):
        canonical({"value": value})


def test_the_canonical_form_is_sorted_without_space_and_utf8() -> None:
    assert canonical({"b": [1, True, None, {"z": 'é\x7f\n\x01"\\/'}], "a": -(2**53)}) == (
        b'{"a":-9007199254740992,"b":[1,true,null,{"z":"' + "é\x7f".encode() + rb'\n\u0001\"\\/"}]}'
    )


def test_a_key_is_long_enough_and_the_space_around_it_is_not_part_of_it() -> None:
    assert read_key(f" {'k' * 32}\n") == b"k" * 32
    with pytest.raises(InputError, match="openssl rand"):
        read_key("short\n")


def test_the_id_of_a_key_is_not_a_plain_hash_of_it() -> None:
    assert key_id(SECRET) != hashlib.sha256(SECRET).hexdigest()[:16]
    assert key_id(SECRET) == hmac.new(SECRET, b"vlmguard key id 1", hashlib.sha256).hexdigest()[:16]
