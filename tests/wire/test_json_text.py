from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire.bodies import dice, spell, unknown
from vlmguard.errors import WireError
from vlmguard.wire.json_text import MOST_DEPTH, Place, edit, escape, read_object, spans, unescape

values = st.dictionaries(st.text(max_size=5), unknown, max_size=4)


def pointers(value: Any, pointer: str = "") -> dict[str, Any]:
    """Everything in ``value`` by its pointer."""
    found = {pointer: value}
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        found |= pointers(child, f"{pointer}/{escape(str(key))}")
    return found


@given(values, dice)
def test_every_value_is_found_where_it_stands(value: dict[str, Any], chance: random.Random) -> None:
    body = f"\n {spell(value, chance)} ".encode()
    read = read_object(body)
    wanted = pointers(read)
    found = spans(body, wanted)
    assert {pointer: json.loads(body[start:end]) for pointer, (start, end) in found.items()} == wanted


@given(values, dice, st.data())
def test_one_value_is_found_among_others(value: dict[str, Any], chance: random.Random, data: st.DataObject) -> None:
    body = spell(value, chance).encode()
    everything = pointers(read_object(body))
    pointer = data.draw(st.sampled_from(sorted(everything)))
    start, end = spans(body, [pointer, "/not/there"])[pointer]
    assert json.loads(body[start:end]) == everything[pointer]
    assert "/not/there" not in spans(body, ["/not/there"]) or "there" in everything


@given(values, dice, unknown.map(lambda value: json.loads(spell(value, random.Random(0)))))
def test_a_member_and_a_first_element_are_added(value: dict[str, Any], chance: random.Random, new: Any) -> None:
    value = {**value, "list": list(value.values())}
    body = spell(value, chance).encode()
    read = read_object(body)
    written = edit(body, [(Place("first", "/list"), new), (Place("member", "/a~1new"), new)])
    assert json.loads(written) == {"a/new": new, **read, "list": [new, *read["list"]]}


def test_an_element_is_added_after_another_and_a_string_gets_a_beginning() -> None:
    body = b'{"a": [1.50, "x" ], "b": "\\u0041/"}'
    assert edit(body, [(Place("after", "/a/1"), {"c": 1}), (Place("prefix", "/b"), 'say "')]) == (
        b'{"a": [1.50, "x",{"c":1} ], "b": "say \\"\\u0041/"}'
    )


def test_a_place_that_is_not_there_is_an_error() -> None:
    with pytest.raises(WireError, match="/b/c cannot be written"):
        edit(b'{"a":1}', [(Place("replace", "/b/c"), "x")])


@given(st.text())
def test_a_step_of_a_pointer_names_its_key(key: str) -> None:
    assert unescape(escape(key)) == key
    assert "/" not in escape(key)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b'{"a":1}{}', "not JSON"),
        (b'{"a":1}\x00', "not JSON"),
        (b"{'a':1}", "not JSON"),
        (b'{"a":1,}', "not JSON"),
        (b'{"a":01}', "not JSON"),
        (b'{"a":"\n"}', "not JSON"),
        (b'{"a":' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"a":NaN}', "NaN is not JSON"),
        (b'{"a":-1e999}', "too large"),
        (b'{"a":[-Infinity]}', "-Infinity is not JSON"),
        (b'{"a":"\xff"}', "not UTF-8"),
        (b'{"a":"\xed\xa0\x80"}', "not UTF-8"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ("{}".encode("utf-16"), "not UTF-8"),
        (b'{"a":1,"\\u0061":2}', "'a' stands twice"),
        (b'{"a":[{"b":"\\uD800x"}]}', "/a/0/b holds a lone surrogate"),
        (b'{"a":"\\udc00\\ud800"}', "/a holds a lone surrogate"),
        (b'{"\\ud83d":1}', "a key holds a lone surrogate"),
        (b"[]", "not a JSON object"),
        (b'"x"', "not a JSON object"),
        (b'{"a":' * MOST_DEPTH + b"1" + b"}" * MOST_DEPTH + b" ]", "not JSON"),
        (b'{"a":' * (MOST_DEPTH + 1) + b"1" + b"}" * (MOST_DEPTH + 1), "nested deeper than 64"),
        (b'{"a":' + b"[" * MOST_DEPTH + b"]" * MOST_DEPTH + b"}", "nested deeper than 64"),
        (b"[" * 200_000, "nested deeper than 64"),
    ],
)
def test_what_two_readers_might_read_differently_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(WireError, match=says):
        read_object(body)


def test_depth_to_the_bound_and_surrogate_pairs_are_read() -> None:
    deep = b'{"a":' * MOST_DEPTH + b"1" + b"}" * MOST_DEPTH
    assert read_object(deep)
    assert read_object(b'{"a":"\\ud83d\\ude00", "b": "\\\\ud800"}') == {"a": "😀", "b": "\\ud800"}


def test_a_string_of_backslashes_and_quotes_ends_where_it_ends() -> None:
    body = json.dumps({"a": '\\"' * 1000 + "\\", "b": "x"}).encode()
    start, end = spans(body, ["/b"])["/b"]
    assert body[start:end] == b'"x"'


ACTIONS: list[Any] = ["replace", "prefix", "first", "after", "member"]
HOLDERS = {
    "/text": "old",
    "/list/0": "old",
    "/list": ["old", 7],
    "/none": [],
    "/object": {"a": 1},
    "/empty": {},
    "/number": 7,
}


@pytest.mark.parametrize("second", ACTIONS)
@pytest.mark.parametrize("first", ACTIONS)
@settings(max_examples=10)
@given(pointer=st.sampled_from([*HOLDERS, "/empty/new", "/object/a", ""]), chance=dice, words=st.text(max_size=5))
def test_two_changes_of_one_place_are_both_made_or_refused(
    first: Any, second: Any, pointer: str, chance: random.Random, words: str
) -> None:
    value = {key[1:]: held for key, held in HOLDERS.items() if key.count("/") == 1}
    body = spell(value, chance).encode()
    edits = [(Place(first, pointer), f"1{words}"), (Place(second, pointer), f"2{words}")]
    try:
        written = edit(body, edits)
    except WireError:
        return
    read = json.loads(written)
    assert json.dumps(f"1{words}")[1:-1] in json.dumps(read)
    assert json.dumps(f"2{words}")[1:-1] in json.dumps(read)
    read_object(written if pointer else b'{"":%s}' % written)
    if "replace" in (first, second):
        found = read
        for step in pointer.split("/")[1:]:
            found = found[int(step)] if isinstance(found, list) else found[step]
        if "prefix" in (first, second):
            assert found == (f"1{words}2{words}" if first == "prefix" else f"2{words}1{words}")
        else:
            assert found == (f"1{words}" if first == "replace" else f"2{words}")


def test_a_text_goes_before_the_string_that_takes_anothers_place() -> None:
    body = b'{"a":"old words"}'
    edits = [(Place("replace", "/a"), "new"), (Place("prefix", "/a"), "safe "), (Place("prefix", "/a"), "and ")]
    assert edit(body, edits) == b'{"a":"safe and new"}'


@pytest.mark.parametrize(
    "edits",
    [
        [(Place("replace", "/a"), 1), (Place("replace", "/a"), 1)],
        [(Place("replace", "/a"), 1), (Place("replace", "/a/0"), 1)],
        [(Place("replace", "/a"), 1), (Place("first", "/a"), 1)],
        [(Place("replace", "/a"), []), (Place("after", "/a/0"), 1)],
        [(Place("replace", "/b"), 7), (Place("prefix", "/b"), "x")],
        [(Place("prefix", "/a"), "x")],
        [(Place("first", "/b"), "x")],
        [(Place("after", "/b"), "x")],
        [(Place("after", ""), "x")],
        [(Place("member", "/b"), "x")],
        [(Place("member", "/a/0/x"), "x")],
        [(Place("member", "/c"), 1), (Place("member", "/c"), 1)],
    ],
)
def test_changes_that_would_break_the_body_are_refused(edits: list[Any]) -> None:
    with pytest.raises(WireError, match="cannot be written"):
        edit(b'{"a":["x"],"b":"y"}', edits)


def test_several_values_are_put_first_in_their_order() -> None:
    body = b'{"a":[],"b":{},"c":[0]}'
    firsts = [(Place("first", f"/{key}"), number) for key in "ac" for number in (1, 2)]
    members = [(Place("member", "/b/x"), 1), (Place("member", "/b/y"), 2)]
    assert edit(body, [*firsts, *members]) == b'{"a":[1,2],"b":{"x":1,"y":2},"c":[1,2,0]}'
